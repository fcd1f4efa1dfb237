"""Posteriors, their mixture, priors, and what can be said of them exactly."""
