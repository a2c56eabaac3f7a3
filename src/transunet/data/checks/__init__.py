"""What can be wrong with a data set."""
