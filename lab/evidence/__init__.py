"""Job and run directories, and everything that is recorded in them."""
