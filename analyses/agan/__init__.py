"""Rosca, Lakshminarayanan, Warde-Farley, Mohamed (2017): alpha-GAN's sweeps, DMVI's beside them, all figures of both."""
