"""The methods that `auto` runs, which are those that suit an input best."""

from __future__ import annotations

FIRST = ("closed-form", "monte-carlo")
DENSITY_MODELS = ("gmm", "maf", "lstm")
MANY_LATENTS = 50
"""Number of latents from which on a KL of 0.1 nats for each is near log n - 5, the most that a classifier certifies."""
ENOUGH_A_WEIGHT = 2.0
"""Number of data points for each latent below which denoisers and chains, of D x D weights, have too little to learn from."""
WIDEST = {"lstm": 256, "classifier": 1024, "maf": 1024, "telescoping": 512, "gaussianized": 512}
"""Largest number of latents for which `auto` runs these; beyond it, each can take hours on a CPU and tells nothing more.

CPU seconds of one step at 1,024 and 4,096 latents: lstm 0.96 and four times that, classifier 0.08 and 1.1 (it has D^2 weights,
and certifies log n nats at most), for 600 to 8000 steps; gmm found 12.5 of 13.75 nats in 1,024 latents in 51 CPU seconds. At
1,000 latents a step of telescoping's 32 forms takes seconds, and gaussianized had not done after 30 what gmm had done in 20.
"""


def recommended(dim: int, num_points: int, able: frozenset[str]) -> tuple[str, ...]:
    """Names of the methods that `auto` runs.

    With both densities the exact methods bracket the KL, and every method beside them is there to be checked by them. Where
    one density is missing, estimates from samples are left, and analyses/ours/ratio_estimators.py says which. In one and
    in ten latents a classifier was within 0.01 nats of the truth, and its bounds held; on warped codes it is better after
    Gaussianizing. In a hundred latents denoising and chains were within 1 %, and denoising is the one that was within 10 % in
    a thousand, where KL lies far beyond log n and no classifier's bound can follow; a chain certifies each of its links.

    Args:
        dim: Number of latents, D.
        num_points: Number of data points, N.
        able: Those of `posterior-density` and `prior-density` that the input has.
    """
    return tuple(name for name in _wanted(dim, num_points, able) if name not in left_out(dim, num_points, able))


def left_out(dim: int, num_points: int, able: frozenset[str]) -> tuple[str, ...]:
    """Names of the methods that `auto` leaves out because of the number of latents; arguments as for `recommended`.

    Without the prior's density gmm cannot replace the classifier, which then runs for any number of latents.
    """
    spared = () if "prior-density" in able else ("classifier",)
    wanted = _wanted(dim, num_points, able)
    return tuple(name for name in wanted if dim > WIDEST.get(name, dim) and name not in spared)


def _wanted(dim: int, num_points: int, able: frozenset[str]) -> tuple[str, ...]:
    """Names of the methods that `auto` runs, for any number of latents."""
    exact = able >= {"posterior-density", "prior-density"}
    chosen = (*(FIRST if exact else ()), "classifier", *(DENSITY_MODELS if "prior-density" in able else ("gaussianized",)))
    if not exact and dim >= MANY_LATENTS and num_points >= ENOUGH_A_WEIGHT * dim:
        chosen += ("denoising", "telescoping")
    return chosen
