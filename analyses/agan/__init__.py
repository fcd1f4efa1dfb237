"""Rosca, Lakshminarayanan, Warde-Farley, Mohamed (2017): alpha-GAN's sweeps, DMVI's beside them, all figures of both.

Items: box_plots, critics, grids, code_matching.
Beside them: jobs (the sweep that the first three draw).
"""
