"""What is to be brought up, and bringing it up and down."""
