"""Untrusted files: one function opens each kind of file, and what could run code runs in a confined process."""
