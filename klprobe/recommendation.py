"""Which methods answer best what an input allows: what `auto` stands for."""

from __future__ import annotations

FIRST = ("closed-form", "monte-carlo")
DENSITY_MODELS = ("gmm", "maf", "lstm")
MANY_LATENTS = 50
"""From about so many latents on, a KL of a tenth of a nat each nears the ceiling log n - 5 of what a classifier certifies."""
ENOUGH_A_WEIGHT = 2.0
"""Data points for each latent below which denoisers and chains of D x D weights have nothing to learn from."""


def recommended(dim: int, num_points: int, able: frozenset[str]) -> tuple[str, ...]:
    """Names of the methods that `auto` runs.

    With both densities the exact methods bracket the KL, and every method beside them is there to be checked by them. Where
    one density is missing, estimates from samples are left, and analyses/benchmarks/ratio_estimators.py says which. In one and
    in ten latents a classifier was within 0.01 nats of the truth and its bounds hold; on warped codes it is better after
    Gaussianizing. In a hundred latents denoising and chains were within 1 %, and denoising is the one that was within 10 % in
    a thousand, where KL lies far beyond log n and no classifier's bound can follow; a chain certifies each of its links.

    Args:
        dim: D.
        num_points: N.
        able: Of `posterior-density` and `prior-density`, those that can be had.
    """
    exact = able >= {"posterior-density", "prior-density"}
    chosen = (*(FIRST if exact else ()), "classifier", *(DENSITY_MODELS if "prior-density" in able else ("gaussianized",)))
    if not exact and dim >= MANY_LATENTS and num_points >= ENOUGH_A_WEIGHT * dim:
        chosen += ("denoising", "telescoping")
    return chosen
