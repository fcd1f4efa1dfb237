"""Means over all points of a data set from draws at some of them: which points are visited, and the variance.

Visiting points and drawing at them is two-stage sampling. The mean over the N points at hand and the mean over the
population they came from have different errors, and both are estimated here.
Reference: Cochran (1977), Sampling Techniques, chapters 7, 10 and 11.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

EARLY_REPEATS, EARLY_SHARE, LATER_SHARE = 50, 1 / 3, 1 / 20
"""Points visited twice separate variation within a point from variation between points: at first one in three, until 50
are known, which fixes the error's own error at about a tenth, then one in twenty."""


def visits(num_points: int, generator: torch.Generator) -> torch.Tensor:
    """Order in which points are drawn at: every point once, some twice in a row, spread so that any prefix has both."""
    order = torch.randperm(num_points, generator=generator)
    position = torch.arange(num_points)
    early = round(EARLY_REPEATS / EARLY_SHARE)
    stride = torch.where(position < early, round(1 / EARLY_SHARE), round(1 / LATER_SHARE))
    return order.repeat_interleave(1 + (position % stride == 0).long())


class MeanError(NamedTuple):
    """A mean and its standard error."""

    value: float
    std_error: float


def mean_error(values: torch.Tensor, points: torch.Tensor | None = None) -> MeanError:
    """Mean of `values` and its standard error; draws of one data point are one cluster.

    Args:
        values: One value for each draw, shape (m,).
        points: Index of the data point of each draw, shape (m,); None when every draw is independent.
    """
    centred = values - values.mean()
    if points is not None:
        _, cluster = points.unique(return_inverse=True)
        centred = torch.zeros(int(cluster.max()) + 1, dtype=values.dtype, device=values.device).index_add_(0, cluster, centred)
    m, k = len(values), len(centred)
    error = math.sqrt(float(centred.square().sum()) * k / max(k - 1, 1)) / m
    return MeanError(float(values.mean()), error)


class PointMean(NamedTuple):
    """A mean over points with the two parts of its variance.

    Attributes:
        value: Mean over points of each point's mean.
        conditional_variance: Variance of `value` about the mean over the N points at hand.
        between_variance: Variance, from point to point, of a point's true mean.
    """

    value: float
    conditional_variance: float
    between_variance: float


def point_mean(values: Array, points: NDArray[np.int64], num_points: int) -> PointMean:
    """Estimate the mean over `num_points` points from draws at some of them, chosen at random without replacement.

    Args:
        values: One value for each draw, shape (m,).
        points: Data point of each draw, shape (m,); at least one point must have two draws.
        num_points: Number of data points, N.
    """
    _, cluster, counts = np.unique(points, return_inverse=True, return_counts=True)
    means = np.bincount(cluster, values) / counts
    freedom = int((counts - 1).sum())
    within = float(((values - means[cluster]) ** 2).sum()) / freedom if freedom else math.nan
    draw_noise = within * float((1 / counts).mean())
    between_means = float(means.var(ddof=1)) if len(means) > 1 else math.nan
    share = len(means) / num_points
    variance = ((1 - share) * between_means + share * draw_noise) / len(means)
    return PointMean(float(means.mean()), variance, max(between_means - draw_noise, 0.0))


def visit_evenly(indices: torch.Tensor, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Point indices for `num_samples` draws: each point floor or ceil(num_samples / len) times, in random order."""
    rounds = math.ceil(num_samples / len(indices))
    orders = [indices[torch.randperm(len(indices), generator=generator)] for _ in range(rounds)]
    return torch.cat(orders)[:num_samples]


def together(values: Array, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> float:
    """Mean over all N points of the products of a point's deviation with those of the others of its cluster.

    It is what a cluster's variance has more than that of as many independent points; the draws' noise drops out, since draws
    at different points are independent.

    Args:
        values: One value a draw, shape (m,).
        points: Data point of each draw, shape (m,), chosen at random without replacement.
        clusters: Cluster of each of the N points, shape (N,).
    """
    visited, place, counts = np.unique(points, return_inverse=True, return_counts=True)
    if len(visited) < 2:
        return 0.0
    centred = np.bincount(place, values) / counts
    centred -= centred.mean()
    sums = np.bincount(clusters[visited], centred)
    products = float((sums**2).sum() - (centred**2).sum())
    return (len(clusters) - 1) * products / (len(visited) * (len(visited) - 1))


def coinciding(values: Array, clusters: NDArray[np.int64]) -> float:
    """Variance of a weighted mean over fresh clusters, from draws whose points were chosen independently by weight.

    Two draws meet in one cluster as often as the square of its share, and only its own deviation is common to both.

    Args:
        values: One value a draw, shape (m,).
        clusters: Cluster of the data point of each draw, shape (m,).
    """
    centred = values - values.mean()
    sums = np.bincount(np.unique(clusters, return_inverse=True)[1].reshape(-1), centred)
    return float((sums**2).sum() - (centred**2).sum()) / (len(values) * (len(values) - 1))


def clustered_mean(values: torch.Tensor, weights: torch.Tensor | None, clusters: torch.Tensor | None) -> MeanError:
    """Weighted mean of one value a point, and its error over fresh clusters of points.

    Args:
        values: Shape (N,).
        weights: Shape (N,); None: equal.
        clusters: Shape (N,); None: every point by itself.
    """
    if weights is None and clusters is None:
        return MeanError(float(values.mean()), float(values.std()) / math.sqrt(len(values)))
    weights = torch.ones_like(values) if weights is None else weights.to(values)
    mean = (weights * values).sum() / weights.sum()
    shares = weights * (values - mean) / weights.sum()
    if clusters is not None:
        shares = torch.zeros(int(clusters.max()) + 1, dtype=values.dtype).index_add_(0, clusters, shares.cpu())
    return MeanError(float(mean), math.sqrt(float(shares.square().sum()) * len(shares) / max(len(shares) - 1, 1)))
