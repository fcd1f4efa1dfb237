"""Bytes that nobody vouches for: one function opens each kind of file, and what could run code runs in a confined process."""
