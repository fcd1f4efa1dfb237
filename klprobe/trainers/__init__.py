"""One file = one published system."""
