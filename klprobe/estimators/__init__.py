"""Estimators of KL[q||p], one in each file."""
