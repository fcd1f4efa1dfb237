"""Monte Carlo: log q_N(z) by log-sum-exp over the whole data set, at draws from posteriors visited evenly."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions import DiagonalGaussian, as_posterior, check_prior, conditional_kl, diagonal_normal
from klprobe.mixture import log_sum_others, shares
from klprobe.statistics import Adjusted, PointMean, Regression, cross_fit, point_mean, visits
from klprobe.types import Bound, Estimate, InputError, Posterior, Progress, Target, no_progress

__all__ = ["MonteCarlo"]

Array = NDArray[np.float64]
BATCH = 8192
"""Draws evaluated together; the first batch fits the control variates that later ones use."""
ROLE_DRAWS = 2048
"""Draws that show how much each point serves as a mixture component."""
SHOWN, SHOWN_BY_OTHERS, COST = range(3)
"""What each draw gives: log q(z|x_n) - log q_N(z), the same against the leave-one-out density, log q(z|x_n) - log p(z)."""
KL = np.array([-1.0, 0.0, 1.0])
INFORMATION = np.array([1.0, 0.0, 0.0])
LEFT_OUT = np.array([0.0, -1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
    """Whole-data-set log-sum-exp: exact for the N points, upper and leave-one-out lower bound for the population."""

    num_samples: int = 10_000
    """Draws of z; the standard error falls with their square root."""
    tolerance: float | None = None
    """Keep drawing until the empirical KL's standard error is at most this many nats."""
    max_samples: int = 1_000_000
    """Where `tolerance` gives up (DMVI section 4.1 draws 10^6)."""
    control_variates: bool = True
    """Regress on functions of z whose mean under q_N is known exactly."""

    requires: ClassVar[frozenset[str]] = frozenset({"posterior-density", "prior-density"})

    def __post_init__(self) -> None:
        """Refuse settings that give no answer."""
        if self.num_samples < 4:
            raise InputError(f"monte-carlo needs at least 4 draws for an error bar; got num_samples = {self.num_samples}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"tolerance is a standard error in nats and must be positive; got {self.tolerance}.")

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """KL[q_N||p] (exact), its role as an upper bound of KL[q||p], the leave-one-out lower bound, and I_N.

        For z drawn at point n, log q_N(z) keeps every component and the leave-one-out density drops component n.
        The empirical error is that of the draws given the N points; the population error adds the variation over data
        sets, for the lower bound with the points' role as components (infinitesimal jackknife).

        Reference: DMVI Algorithm 1 with its missing - log N; Poole et al. (2019), section 2, for the sandwich.
        """
        started = time.perf_counter()
        q = as_posterior(posterior)
        check_prior(q, prior)
        draws = _Draws(q, prior, generator, self.control_variates)
        goal = self.num_samples
        while True:
            draws.extend(goal, progress)
            error = math.sqrt(draws.mean(KL).conditional_variance)
            if self.tolerance is None or error <= self.tolerance or goal >= self.max_samples:
                break
            needed = goal * (error / self.tolerance) ** 2 * 1.05
            goal = int(min(self.max_samples, max(needed, goal + BATCH), 4 * goal))
        seconds = time.perf_counter() - started
        return self._report(draws, seconds)

    def _report(self, draws: _Draws, seconds: float) -> tuple[Estimate, ...]:
        n = draws.q.num_points
        kl, information, left_out = (draws.mean(target) for target in (KL, INFORMATION, LEFT_OUT))
        population = kl.conditional_variance + draws.between_variance(KL) / n
        lower = left_out.conditional_variance + draws.role_variance() / n
        details = draws.details(self.tolerance)

        def say(mean: PointMean, variance: float, target: Target, bound: Bound, quantity: str = "kl") -> Estimate:
            error, count = math.sqrt(variance), len(draws.points)
            return Estimate("monte-carlo", target, bound, mean.value, error, quantity, count, seconds, details)

        return (
            say(kl, kl.conditional_variance, "empirical", "exact"),
            say(kl, population, "population", "upper"),
            say(left_out, lower, "population", "lower", "leave-one-out"),
            say(information, information.conditional_variance, "empirical", "exact", "mutual-information"),
        )


class _Draws:
    """Draws made so far, and what is known of each."""

    def __init__(self, q: Posterior, prior: Distribution, generator: torch.Generator, control: bool) -> None:
        self.q, self.prior, self.generator = q, prior, generator
        self.controls = _Controls.of(q, prior) if control else None
        self.point_kl = conditional_kl(q, prior) if control else None
        self.regression: Regression | None = None
        self.pending = torch.empty(0, dtype=torch.int64)
        self.points = np.empty(0, np.int64)
        self.raw = np.empty((0, 3))
        self.adjusted = Adjusted(np.empty((0, 3)), np.empty((0, 3)))
        self.first: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def extend(self, goal: int, progress: Progress) -> None:
        """Draw until there are `goal` draws."""
        while len(self.points) < goal:
            done, size = len(self.points), min(BATCH, goal - len(self.points))
            self._batch(size, _part_of(progress, done, size, goal, f"{self.mean(KL).value:.3f} nats" if done else ""))

    def _batch(self, size: int, progress: Progress) -> None:
        while len(self.pending) < size:
            self.pending = torch.cat([self.pending, visits(self.q.num_points, self.generator)])
        points, self.pending = self.pending[:size], self.pending[size:]
        z = self.q.sample_at(points, self.generator)
        own, log_p = self.q.log_prob_at(z, points), self.prior.log_prob(z).double()
        others = log_sum_others(self.q, z, points, progress=progress)
        if self.first is None:
            self.first = z[:ROLE_DRAWS], points[:ROLE_DRAWS], others[:ROLE_DRAWS]
        log_q = torch.logaddexp(own, others) - math.log(self.q.num_points)
        left_out = others - math.log(self.q.num_points - 1)
        raw = torch.stack([own - log_q, own - left_out, own - log_p], 1).cpu().numpy()
        adjusted = self._adjust(raw, z, points)
        self.adjusted = Adjusted(*(np.concatenate(pair) for pair in zip(self.adjusted, adjusted, strict=True)))
        self.points, self.raw = np.concatenate([self.points, points.numpy()]), np.concatenate([self.raw, raw])

    def _adjust(self, raw: Array, z: torch.Tensor, points: torch.Tensor) -> Adjusted:
        """Take off what the control variates explain; log q(z|x_n) - log p(z) gives way to its exact mean."""
        adjusted = Adjusted(raw.copy(), np.zeros_like(raw))
        if self.controls is not None and np.isfinite(raw).all():
            controls, between = self.controls.at(z, points)
            if self.regression is None:
                adjusted, self.regression = cross_fit(raw, controls, between, points.numpy(), self.controls.subsets)
            else:
                adjusted = Adjusted(raw - self.regression.explain(controls), self.regression.explain(between))
        if self.point_kl is not None:
            average = float(self.point_kl.mean())
            adjusted.residuals[:, COST] = average
            adjusted.between[:, COST] = self.point_kl[points].cpu().numpy() - average
        return adjusted

    def mean(self, combination: Array) -> PointMean:
        """Mean over the points of a combination of what the draws give, control variates taken off."""
        return point_mean(self.adjusted.residuals @ combination, self.points, self.q.num_points)

    def plain_mean(self, combination: Array) -> dict[str, float]:
        """The same without control variates, as DMVI's algorithm has it."""
        mean = point_mean(self.raw @ combination, self.points, self.q.num_points)
        return {"value": mean.value, "std_error": math.sqrt(mean.conditional_variance)}

    def between_variance(self, combination: Array) -> float:
        """Variance over points of a point's own mean: what the controls explain of it, and the residuals' part."""
        explained = self.adjusted.between @ combination
        return float(explained.var(ddof=1)) + self.mean(combination).between_variance

    def role_variance(self) -> float:
        """Variance over points of a point's influence on the leave-one-out bound, as a sample and as a component.

        A point's influence is a_n + r_n: its own mean a_n, and N times the mean share r_n it has in the other points'
        leave-one-out densities. Products of shares of different draws keep the draws' noise out.
        """
        if self.first is None:
            raise ValueError("no draws have been made")
        z, points, others = self.first
        n, m = self.q.num_points, len(points)
        sums, squares = (s.numpy() for s in shares(self.q, z, points, others))
        share_variance = n**2 / (m * (m - 1)) * float((sums**2 - squares).mean()) - 1
        values = self.raw[:m] @ LEFT_OUT
        covariance = float(((values - values.mean()) * n / m * sums[points.numpy()]).mean())
        return max(self.between_variance(LEFT_OUT) + 2 * covariance + share_variance, 0.0)

    def details(self, tolerance: float | None) -> dict[str, Any]:
        """What a careful reader asks of the draws."""
        plain, error = self.plain_mean(KL), math.sqrt(self.mean(KL).conditional_variance)
        return {
            "distinct_points": len(np.unique(self.points)),
            "plain_mean": plain,
            "plain_average_kl": self.plain_mean(np.array([0.0, 0.0, 1.0])),
            "control_variates": 0 if self.regression is None else len(self.regression.chosen),
            "error_over_plain": error / plain["std_error"] if plain["std_error"] > 0 else 1.0,
            "tolerance_met": None if tolerance is None else error <= tolerance,
        }


def _part_of(progress: Progress, done: int, size: int, goal: int, note: str) -> Progress:
    """Report a batch's share of posteriors visited as draws done."""
    return lambda columns, total, _="": progress(done + size * columns / total, goal, note)


@dataclasses.dataclass(frozen=True)
class _Controls:
    """Functions of a draw (n, z) of a diagonal Gaussian whose mean under q_N is exactly zero.

    Within a point: z, z^2, log q(z|x_n) and log p(z), less their means under q(z|x_n). Between points: those means,
    and log std, less their means over the N points.
    """

    q: DiagonalGaussian
    prior: tuple[torch.Tensor, torch.Tensor] | None
    centre: torch.Tensor
    between: torch.Tensor

    @staticmethod
    def of(q: Posterior, prior: Distribution) -> _Controls | None:
        """The controls of a posterior, or None where they have no closed form."""
        if not isinstance(q, DiagonalGaussian):
            return None
        normal = diagonal_normal(prior)
        prior_moments = (normal[0].double(), normal[1].double()) if normal else None
        centre = torch.stack([mean.sum(0) for mean, _ in q.blocks()]).sum(0) / q.num_points
        controls = _Controls(q, prior_moments, centre, torch.zeros(()))
        sums = torch.stack([controls._of_point(mean, std).sum(0) for mean, std in q.blocks()]).sum(0)
        return dataclasses.replace(controls, between=sums / q.num_points)

    def _of_point(self, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        shifted, log_std = mean - self.centre, std.log()
        second = shifted.square() + std.square()
        columns = [log_std.sum(1, keepdim=True), shifted, second, log_std]
        if self.prior is not None:
            p_mean, p_std = self.prior
            columns.insert(1, (((mean - p_mean).square() + std.square()) / p_std.square()).sum(1, keepdim=True))
        return torch.cat(columns, 1)

    def at(self, z: torch.Tensor, points: torch.Tensor) -> tuple[Array, Array]:
        """Controls of draws, and their means over all draws of the point; both of shape (m, c)."""
        mean, std = self.q.rows(points)
        noise = z - mean
        within = [(noise / std).square().sum(1, keepdim=True) - self.q.dim]
        if self.prior is not None:
            p_mean, p_std = self.prior
            within.append(((noise.square() - std.square() + 2 * noise * (mean - p_mean)) / p_std.square()).sum(1, keepdim=True))
        within += [noise, noise.square() - std.square() + 2 * noise * (mean - self.centre)]
        columns = torch.cat(within, 1)
        between = torch.cat([torch.zeros_like(columns), self._of_point(mean, std) - self.between], 1)
        controls = between.clone()
        controls[:, : columns.shape[1]] = columns
        return controls.cpu().numpy(), between.cpu().numpy()

    @property
    def subsets(self) -> list[NDArray[np.int64]]:
        """Columns to choose among: none, the densities alone, all."""
        scalars = 1 if self.prior is None else 2
        width = scalars + 2 * self.q.dim
        densities = np.r_[0:scalars, width : width + scalars]
        return [densities[:0], densities, np.arange(width + scalars + 3 * self.q.dim)]
