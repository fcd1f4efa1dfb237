"""Experiments on Gaussians whose KL is known: estimator x problem x seed -> one record."""
