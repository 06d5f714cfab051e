"""Run directories to results that people and machines read. Everything here can be done again from the files alone."""
