"""One file = one estimator of KL[q||p]."""
