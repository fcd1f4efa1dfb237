"""Synthetic problems whose KL is known in closed form, to hold estimators against."""

from __future__ import annotations

import dataclasses

import torch
from torch.distributions import Distribution

from klprobe.distributions import DiagonalGaussian, standard_normal
from klprobe.types import InputError


@dataclasses.dataclass(frozen=True)
class Problem:
    """A posterior, a prior and the truth.

    Attributes:
        posterior: Batch shape (N,), event shape (D,).
        prior: Event shape (D,).
        population_kl: KL[q||p] of the population the points were drawn from, in nats.
    """

    posterior: Distribution
    prior: Distribution
    population_kl: float


def linear_gaussian_encoder(
    dim: int, num_points: int, std: float, *, generator: torch.Generator, spread: tuple[float, float] = (0.7, 1.2)
) -> Problem:
    """x ~ N(0, I), q(z|x) = N(Ax, std^2 I), p = N(0, I): the population's q(z) is N(0, AA^T + std^2 I).

    A is a random rotation times a diagonal that makes the standard deviations of q(z) run evenly over `spread`.

    Args:
        dim: D; `num_points` is N.
        std: Posterior standard deviation, below the smallest of `spread`.
        generator: Draws the rotation and the points.
        spread: Smallest and largest standard deviation of the population's q(z).

    Raises:
        InputError: `std` is not below the smallest of `spread`.
    """
    if not 0 < std < min(spread):
        raise InputError(f"The posterior std must lie between 0 and the smallest std of q(z), {min(spread)}; got {std}.")
    target = torch.linspace(*spread, dim, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    x = torch.randn(num_points, dim, generator=generator, dtype=torch.float64)
    mean = x * (target.square() - std**2).sqrt() @ rotation.T
    kl = 0.5 * (target.square() - 1 - target.square().log()).sum()
    return Problem(DiagonalGaussian(mean, std=torch.full_like(mean, std)), standard_normal(dim), float(kl))
