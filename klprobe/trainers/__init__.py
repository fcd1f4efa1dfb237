"""Published systems, one in each file."""
