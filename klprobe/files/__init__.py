"""Untrusted files: one function opens each kind of file, and files that could run code are opened in a confined process."""
