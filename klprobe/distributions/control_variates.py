"""Control variates: functions of a draw whose mean is known exactly, subtracted without bias."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.posteriors import DiagonalGaussian, diagonal_normal
from klprobe.runtime import parallel
from klprobe.types import Posterior

Array = NDArray[np.float64]
Index = NDArray[np.int64]

FOLDS = 10
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties tried, relative to a standardised control's own variance."""
MOST_CONTROLS = 2048
"""Largest number of controls: a regression on them takes time in D^3, which is seconds for this number."""
DRAWS_A_CONTROL = 2
"""Smallest number of draws for each control; with fewer, its coefficients are mostly chance."""


class Regression(NamedTuple):
    """How much of each control to subtract; `coefficients` has one row for each chosen control, one column for each target."""

    coefficients: Array
    chosen: Index

    def explain(self, controls: Array) -> Array:
        """The part of the targets that the controls explain, shape (m, t)."""
        return controls[:, self.chosen] @ self.coefficients


class Adjusted(NamedTuple):
    """Targets minus the part that the controls explain, and the explained part that depends on the point alone; (m, t)."""

    residuals: Array
    between: Array


def cross_fit(
    targets: Array,
    controls: Array,
    between: Array,
    points: Index,
    num_points: float,
    subsets: Sequence[Index],
) -> tuple[Adjusted, Regression]:
    """Subtract control variates of known mean zero without bias: each fold by the coefficients of the others.

    Points drawn without replacement make folds depend on each other: a point in one is in no other. Given the
    others, the controls of a fold have a mean of about -n_o / (N - n_o) times theirs, where the others hold n_o points; a
    constant for each fold subtracts that, and does not change the sum over folds where their coefficients agree.

    Args:
        targets: Values to average, shape (m, t).
        controls: Functions of the draws whose exact mean is zero, shape (m, c).
        between: The same controls averaged over all draws of a point, shape (m, c).
        points: Data point of each draw, shape (m,), in the order drawn: draws at one point share a fold.
        num_points: Number of data points, N; infinite where points were drawn with replacement, and each
            draw then counts as a point.
        subsets: Index sets of controls to choose among by the held-out residual of the first target, those left out that have
            more than one control for `DRAWS_A_CONTROL` draws; an empty one leaves the targets as they are.

    Returns:
        Residuals whose mean is that of the targets with less variance, and the regression on all draws.
    Reference: Glynn and Szechtman (2002), Some new perspectives on the method of control variates.
    """
    _, first, cluster = np.unique(points, return_index=True, return_inverse=True)
    fold = np.argsort(np.argsort(first)) % FOLDS  # fold of each distinct point, by its place in the visits
    with parallel.one_blas_thread():  # there are many small systems, so that threads would only wait for each other
        shift = _fold_shifts(between[first], fold, num_points)
        return _cross_fit(targets, controls, between, fold[cluster], shift, subsets)


def _fold_shifts(between: Array, fold: Index, num_points: float) -> Array:
    """n_o / N (mean of a fold - mean of the others), shape (folds, c), from the controls' means at distinct points."""
    inside = np.arange(FOLDS)[:, None] == fold
    own, size = inside @ between, inside.sum(1, keepdims=True)
    others, rest = own.sum(0) - own, len(fold) - size
    return rest / num_points * (own / np.maximum(size, 1) - others / np.maximum(rest, 1))


def _cross_fit(
    targets: Array, controls: Array, between: Array, fold: Index, shift: Array, subsets: Sequence[Index]
) -> tuple[Adjusted, Regression]:
    scale = controls.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    scaled, averaged = controls / scale, between / scale
    inside = [fold == k for k in range(FOLDS)]
    parts = [_Moments.of(scaled[mask], targets[mask]) for mask in inside]
    whole = functools.reduce(_Moments.plus, parts)
    best: tuple[float, Adjusted, Regression] | None = None
    for subset in subsets:
        if DRAWS_A_CONTROL * len(subset) > len(targets):
            continue
        for ridge in RIDGES if len(subset) else (0.0,):
            adjusted = Adjusted(targets.copy(), np.zeros_like(targets))
            for mask, part, constant in zip(inside, parts, shift / scale, strict=True):
                fitted = whole.plus(part, -1).regress(subset, ridge)
                adjusted.residuals[mask] -= fitted.explain(scaled[mask] - constant)
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
    """Sums over draws of 1, x, y, x x' and x y', which a regression of targets y on controls x needs."""

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

    def regress(self, subset: Index, ridge: float) -> Regression:
        """The centred regression on some controls with penalty `ridge` per draw."""
        mean = self.x[subset] / self.n
        gram = self.xx[np.ix_(subset, subset)] - self.n * np.outer(mean, mean)
        cross = self.xy[subset] - np.outer(mean, self.y)
        coefficients = np.linalg.solve(gram + ridge * self.n * np.eye(len(subset)), cross)
        return Regression(coefficients.astype(np.float64, copy=False), subset)


@dataclasses.dataclass(frozen=True)
class GaussianControls:
    """Functions of a draw (n, z) of a diagonal Gaussian whose mean under q_N is exactly zero.

    Within a point: z, z^2, log q(z|x_n) and log p(z), less their means under q(z|x_n). Between points: those means,
    and log std, less their means over the N points. With very many latents, only log q and log p.
    """

    q: DiagonalGaussian
    prior: tuple[torch.Tensor, torch.Tensor] | None
    centre: torch.Tensor
    between: torch.Tensor

    @property
    def scalars(self) -> int:
        """Number of log-densities that are controls: q's, and p's where p is Gaussian."""
        return 1 if self.prior is None else 2

    @property
    def has_latents(self) -> bool:
        """Whether single latents are controls too."""
        return 2 * self.scalars + 5 * self.q.dim <= MOST_CONTROLS

    @staticmethod
    def of(q: Posterior, prior: Distribution) -> GaussianControls | None:
        """Make the controls of a posterior; None where their means have no closed form."""
        if not isinstance(q, DiagonalGaussian):
            return None
        normal = diagonal_normal(prior)
        prior_moments = (normal[0].double(), normal[1].double()) if normal else None
        centre = _mean(mean for mean, _ in q.blocks())
        controls = GaussianControls(q, prior_moments, centre, torch.zeros(()))
        of_points = (controls._of_point(mean, std) for mean, std in q.blocks())
        return dataclasses.replace(controls, between=_mean(of_points, q.weights))

    def _of_point(self, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        log_std = std.log()
        columns = [log_std.sum(1, keepdim=True)]
        if self.prior is not None:
            p_mean, p_std = self.prior
            columns.append((((mean - p_mean).square() + std.square()) / p_std.square()).sum(1, keepdim=True))
        if self.has_latents:
            shifted = mean - self.centre
            columns += [shifted, shifted.square() + std.square(), log_std]
        return torch.cat(columns, 1)

    def at(self, z: torch.Tensor, points: torch.Tensor) -> tuple[Array, Array]:
        """Compute the controls of draws, and their means over all draws of the point; both of shape (m, c)."""
        mean, std = self.q.rows(points)
        noise = z - mean
        within = [(noise / std).square().sum(1, keepdim=True) - self.q.dim]
        if self.prior is not None:
            p_mean, p_std = self.prior
            within.append(((noise.square() - std.square() + 2 * noise * (mean - p_mean)) / p_std.square()).sum(1, keepdim=True))
        if self.has_latents:
            within += [noise, noise.square() - std.square() + 2 * noise * (mean - self.centre)]
        columns = torch.cat(within, 1)
        between = torch.cat([torch.zeros_like(columns), self._of_point(mean, std) - self.between], 1)
        controls = between.clone()
        controls[:, : columns.shape[1]] = columns
        return controls.cpu().numpy(), between.cpu().numpy()

    @property
    def subsets(self) -> list[Index]:
        """Sets of columns to choose among: none, the densities alone, and all where latents are controls."""
        of_latents = self.q.dim if self.has_latents else 0
        width = self.scalars + 2 * of_latents
        densities = np.r_[0 : self.scalars, width : width + self.scalars]
        everything = [np.arange(width + self.scalars + 3 * of_latents)] if of_latents else []
        return [densities[:0], densities, *everything]


def _mean(blocks: Iterable[torch.Tensor], weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over the rows of all blocks, shape (c,), added up in place so that a million points need no more memory."""
    count, total = 0, torch.zeros(())
    for block in blocks:
        if weights is not None:
            block = block * weights[count : count + len(block), None].to(block.device)
        count, total = count + len(block), total + block.sum(0)
    return total / count
