"""Experiments on problems whose KL is known: estimator x problem x seed -> one record."""
