"""Metrics on a trained system, beside real data."""
