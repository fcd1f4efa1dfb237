"""Every estimator against the number of latents and the true KL."""
