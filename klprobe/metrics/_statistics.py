"""Moments of features, the Fréchet distance between them, and errors of statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

SMALL = 1e-10
"""Variances below this share of the largest count as none."""


class Moments(NamedTuple):
    """Mean, shape (dim,), and unbiased covariance, shape (dim, dim)."""

    mean: torch.Tensor
    covariance: torch.Tensor


class Frechet(NamedTuple):
    """Squared Fréchet distance between two normals, and the maps that carry the one onto the other.

    Attributes:
        distance: Squared distance, as in `frechet_distance`.
        forth, back: Optimal linear maps from the first to the second and back, shape (dim, dim).
    """

    distance: float
    forth: torch.Tensor
    back: torch.Tensor


def moments(x: torch.Tensor) -> Moments:
    """Moments of points of shape (n, dim), in float64."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Fréchet (2-Wasserstein) distance of normals, |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2).

    The trace of the root is the sum of the singular values of S2^1/2 S1^1/2: no root of an unsymmetric matrix, which loses
    half of the digits or turns complex. Singular covariances are fine.

    Reference: Dowson and Landau (1982).
    """
    roots = [_power(_spectrum(covariance), 0.5) for covariance in (second.covariance, first.covariance)]
    return _distance(first, second, torch.linalg.svdvals(roots[0] @ roots[1]))


def frechet(first: Moments, second: Moments) -> Frechet:
    """The distance with the maps that its derivatives take, S1^-1/2 (S1^1/2 S2 S1^1/2)^1/2 S1^-1/2 and the reverse."""
    spectra = [_spectrum(covariance) for covariance in (first.covariance, second.covariance)]
    (root1, root2), (inverse1, inverse2) = ([_power(spectrum, p) for spectrum in spectra] for p in (0.5, -0.5))
    left, singular, right = torch.linalg.svd(root2 @ root1)
    forth = inverse1 @ (right.T * singular) @ right @ inverse1
    back = inverse2 @ (left * singular) @ left.T @ inverse2
    return Frechet(_distance(first, second, singular), forth, back)


def _distance(first: Moments, second: Moments, singular: torch.Tensor) -> float:
    apart = (first.mean - second.mean).square().sum()
    return float(apart + first.covariance.trace() + second.covariance.trace() - 2 * singular.sum())


def frechet_influence(x: torch.Tensor, own: Moments, other: Moments, carry: torch.Tensor) -> torch.Tensor:
    """How much each point of x moves the squared distance, shape (n,): the derivative by its share of the sample.

    Args:
        x: Points, shape (n, dim), with moments `own`.
        carry: Optimal map from `own` to `other`.
    """
    centred = x.double() - own.mean
    bend = torch.eye(len(carry)).to(carry) - carry
    values = 2 * centred @ (own.mean - other.mean) + ((centred @ bend) * centred).sum(1)
    return values - values.mean()


def _spectrum(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and eigenvectors."""
    variances, axes = torch.linalg.eigh(covariance)
    return variances, axes


def _power(spectrum: tuple[torch.Tensor, torch.Tensor], power: float) -> torch.Tensor:
    """A symmetric matrix to a power, from its eigenvalues and eigenvectors; what has no variance stays at 0."""
    variances, axes = spectrum
    kept = variances > SMALL * variances.max()
    return (axes * torch.where(kept, variances.clamp(min=torch.finfo(variances.dtype).tiny) ** power, 0.0)) @ axes.T


def mean_error(values: torch.Tensor) -> float:
    """Standard error of the mean of independent values, shape (n,)."""
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def share_error(share: float, n: int) -> float:
    """Standard error of a share of n independent points; of none or all of them, as if one point were otherwise."""
    return math.sqrt(max(share * (1 - share), (1 - 1 / n) / n) / n)


def halves_error(
    statistic: Callable[..., torch.Tensor], sets: Sequence[torch.Tensor], generator: torch.Generator, divisions: int = 10
) -> torch.Tensor:
    """Standard errors of statistics of independent sets of points, from how much two halves of all sets disagree.

    The halves share no point, so half the squared disagreement is, on average, the variance at half the size, and half of
    that the one at full size, where variances fall like 1/n. It asks no smoothness of the statistic, as the jackknife does.

    Args:
        statistic: Function from sets of points to values, shape (k,).
        divisions: Number of random halvings to average over.
    """
    squares = []
    for _ in range(divisions):
        halves = [points[torch.randperm(len(points), generator=generator)].tensor_split(2) for points in sets]
        squares.append((statistic(*(h[0] for h in halves)) - statistic(*(h[1] for h in halves))).square())
    return (torch.stack(squares).mean(0) / 4).sqrt()
