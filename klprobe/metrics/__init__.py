"""One file = one sample-quality metric."""
