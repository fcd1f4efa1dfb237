"""Rosca, Lakshminarayanan, Mohamed (2018), Distribution Matching in Variational Inference: its figures and tables."""
