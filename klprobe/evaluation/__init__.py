"""Metrics on a trained system, compared with those of real data."""
