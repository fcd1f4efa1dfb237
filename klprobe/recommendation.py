"""Which methods answer best what an input allows: what `auto` stands for."""

from __future__ import annotations

FIRST = ("closed-form", "monte-carlo")
DENSITY_MODELS = ("gmm", "maf", "lstm")
MANY_LATENTS = 50
"""From about so many latents on, a KL tends to lie beyond the ceiling log n - 5 of what a classifier can certify."""
ENOUGH_A_WEIGHT = 2.0
"""Data points for each latent below which denoisers and chains of D x D weights have nothing to learn from."""


def recommended(dim: int, num_points: int, able: frozenset[str]) -> tuple[str, ...]:
    """Names of the methods that `auto` runs.

    With both densities the exact methods bracket the KL, and every method beside them is there to be checked by them. Where
    one density is missing, what is left are estimates from samples, and analyses/benchmarks/ratio_estimators.py says which:
    up to tens of latents a calibrated classifier is within 0.02 nats of Gaussians and its bounds hold, and after
    Gaussianizing it is the best on warped ones; in a hundred latents and more denoising is the only one that stays within a
    few per cent, and a chain of links certifies what one classifier cannot.

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
