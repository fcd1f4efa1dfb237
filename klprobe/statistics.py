"""Means over a data set's points from draws at some of them: who is visited, the variance, control variates.

Visiting points and drawing at them is two-stage sampling. The mean over the N points at hand and the mean over the
population they came from have different errors, and both are estimated here.
Reference: Cochran (1977), Sampling Techniques, chapters 7, 10 and 11.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]

EARLY_REPEATS, EARLY_SHARE, LATER_SHARE = 50, 1 / 3, 1 / 20
"""Points visited twice tell variation within a point from variation between points: at first one in three, until 50
are known, which fixes the error's own error at about a tenth, then one in twenty."""
FOLDS = 10
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties tried for control variates, relative to a standardised control's own variance."""


def visits(num_points: int, generator: torch.Generator) -> torch.Tensor:
    """Points in the order they are drawn at: every point once, some twice in a row, spread so that any prefix has both."""
    order = torch.randperm(num_points, generator=generator)
    position = torch.arange(num_points)
    early = round(EARLY_REPEATS / EARLY_SHARE)
    stride = torch.where(position < early, round(1 / EARLY_SHARE), round(1 / LATER_SHARE))
    return order.repeat_interleave(1 + (position % stride == 0).long())


class PointMean(NamedTuple):
    """A mean over points with the two parts of its variance.

    Attributes:
        value: Mean over points of the point's mean.
        conditional_variance: Variance of `value` about the mean over the N points at hand.
        between_variance: Variance, from point to point, of a point's true mean.
    """

    value: float
    conditional_variance: float
    between_variance: float


def point_mean(values: Array, points: NDArray[np.int64], num_points: int) -> PointMean:
    """Mean over `num_points` points from draws at some of them, chosen at random without replacement.

    Args:
        values: One value a draw, shape (m,).
        points: Data point of each draw, shape (m,); at least one must be drawn at twice.
        num_points: N.
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


class Regression(NamedTuple):
    """How much of each control to subtract; `coefficients` has one row a chosen control, one column a target."""

    coefficients: Array
    chosen: NDArray[np.int64]

    def explain(self, controls: Array) -> Array:
        """The part of the targets that the controls explain, shape (m, t)."""
        return controls[:, self.chosen] @ self.coefficients


class Adjusted(NamedTuple):
    """Targets less what the controls explain, and the explained part that depends on the point alone; shapes (m, t)."""

    residuals: Array
    between: Array


def cross_fit(
    targets: Array,
    controls: Array,
    between: Array,
    points: NDArray[np.int64],
    subsets: Sequence[NDArray[np.int64]],
) -> tuple[Adjusted, Regression]:
    """Subtract control variates of known mean zero without bias: each fold by the coefficients of the others.

    Args:
        targets: What is to be averaged, shape (m, t).
        controls: Functions of the draws whose exact mean is zero, shape (m, c).
        between: The same controls averaged over all draws of a point, shape (m, c).
        points: Data point of each draw, shape (m,): draws at one point share a fold.
        subsets: Index sets of controls to choose among by the held-out residual of the first target; an empty one
            leaves the targets as they are.

    Returns:
        Residuals whose mean is that of the targets with less variance, and the regression on all draws.
    Reference: Glynn and Szechtman (2002), Some new perspectives on the method of control variates.
    """
    with threadpool_limits(1, user_api="blas"):  # many small systems: threads would only wait for each other
        return _cross_fit(targets, controls, between, np.unique(points, return_inverse=True)[1] % FOLDS, subsets)


def _cross_fit(
    targets: Array, controls: Array, between: Array, fold: NDArray[np.int64], subsets: Sequence[NDArray[np.int64]]
) -> tuple[Adjusted, Regression]:
    scale = controls.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    scaled, averaged = controls / scale, between / scale
    inside = [fold == k for k in range(FOLDS)]
    parts = [_Moments.of(scaled[mask], targets[mask]) for mask in inside]
    whole = functools.reduce(_Moments.plus, parts)
    best: tuple[float, Adjusted, Regression] | None = None
    for subset in subsets:
        for ridge in RIDGES if len(subset) else (0.0,):
            adjusted = Adjusted(targets.copy(), np.zeros_like(targets))
            for mask, part in zip(inside, parts, strict=True):
                fitted = whole.plus(part, -1).regress(subset, ridge)
                adjusted.residuals[mask] -= fitted.explain(scaled[mask])
                adjusted.between[mask] = fitted.explain(averaged[mask])
            spread = float(adjusted.residuals[:, 0].var())
            if best is None or spread < best[0]:
                fitted = whole.regress(subset, ridge)
                best = spread, adjusted, Regression(fitted.coefficients / scale[subset][:, None], subset)
    if best is None:
        raise ValueError("cross_fit needs at least one subset of controls")
    return best[1], best[2]


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Sums over draws that a regression of targets on controls needs: of 1, x, y, x x' and x y'."""

    n: float
    x: Array
    y: Array
    xx: Array
    xy: Array

    @staticmethod
    def of(x: Array, y: Array) -> _Moments:
        return _Moments(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y)

    def plus(self, other: _Moments, sign: int = 1) -> _Moments:
        mine, theirs = (dataclasses.astuple(m) for m in (self, other))
        return _Moments(*(a + sign * b for a, b in zip(mine, theirs, strict=True)))

    def regress(self, subset: NDArray[np.int64], ridge: float) -> Regression:
        """The centred regression on some controls with penalty `ridge` per draw."""
        mean = self.x[subset] / self.n
        gram = self.xx[np.ix_(subset, subset)] - self.n * np.outer(mean, mean)
        cross = self.xy[subset] - np.outer(mean, self.y)
        coefficients = np.linalg.solve(gram + ridge * self.n * np.eye(len(subset)), cross)
        return Regression(coefficients.astype(np.float64, copy=False), subset)
