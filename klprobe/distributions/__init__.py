"""Posteriors, their mixture, priors, and everything about them that can be computed exactly."""
