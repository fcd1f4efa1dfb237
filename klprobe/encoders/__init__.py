"""One file = one checkpoint format; each turns a path into a posterior."""
