"""Monte Carlo: log q_N(z) by log-sum-exp over the whole data set, at draws from posteriors visited evenly."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.aggregate import AggregatePosterior, general_rate
from klprobe.distributions.clusters import all_clusters, by_weight, clusters_of
from klprobe.distributions.control_variates import Adjusted, GaussianControls, Regression, cross_fit
from klprobe.distributions.digest import digest
from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior, check_prior, conditional_kl, prior_log_prob
from klprobe.distributions.removal import cluster_losses, cluster_weights, log_sum_outside, removal_losses
from klprobe.distributions.statistics import PointMean, coinciding, point_mean, together, visits
from klprobe.distributions.tails import infinite_at, outside_prior, tail_of, tail_within_points
from klprobe.runtime import parallel
from klprobe.runtime.partial import Keeper
from klprobe.types import Bound, Estimate, Estimator, InputError, InterruptedEstimate, Posterior, Progress, Target, no_progress

__all__ = ["MonteCarlo"]

Array = NDArray[np.float64]
BATCH = 8192
"""Number of draws evaluated together; the first batch fits the control variates that later ones use."""
ROLE_DRAWS = 2048
"""Number of draws from which the role of each point as a mixture component is estimated."""
SHOWN, SHOWN_BY_OTHERS, COST = range(3)
"""Values of each draw: log q(z|x_n) - log q_N(z), the same with the leave-one-out density, log q(z|x_n) - log p(z)."""
KL = np.array([-1.0, 0.0, 1.0])
INFORMATION = np.array([1.0, 0.0, 0.0])
LEFT_OUT = np.array([0.0, -1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class MonteCarlo(Estimator):
    """Whole-data-set log-sum-exp: exact for the N points, upper and leave-one-out lower bound for the population."""

    num_samples: int = 10_000
    """Number of draws of z; the standard error falls with its square root."""
    tolerance: float | None = None
    """Keep drawing until the standard error of the empirical KL is at most this number of nats; by default num_samples draws
    suffice."""
    max_samples: int = 1_000_000
    """Number of draws at which the drawing stops even if `tolerance` is not reached (DMVI section 4.1 draws 10^6)."""
    control_variates: bool = True
    """Reduce the variance by a regression on functions of z whose mean under q_N is known exactly."""
    device: str = "cpu"
    """Device on which log q_N(z) is computed: cpu, or cuda for a GPU."""
    partial: Path | None = None
    """File that the draws are saved to, every minute, at Ctrl-C and when all are made; by default they are not saved. Remove it
    once the result is in safety; the command line does."""
    resume: bool = False
    """Continue from the draws in the file `partial`, if there are any; the result is exactly that of a run without a break."""

    requires: ClassVar[frozenset[str]] = frozenset({"posterior-density", "prior-density"})
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "groups"})
    in_parallel: ClassVar[bool] = True
    """Several processes can share the work (klprobe.runtime.parallel)."""

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        if self.num_samples < 4:
            raise InputError(f"monte-carlo needs at least 4 draws for an error bar; got num_samples = {self.num_samples}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"tolerance is a standard error in nats and must be positive; got {self.tolerance}.")

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate KL[q_N||p] (exact), which is an upper bound of KL[q||p] too, the leave-one-out lower bound, and I_N.

        For z drawn at point n, log q_N(z) keeps every component and the leave-one-out density drops component n.
        The empirical error is that of the draws given the N points; the population error adds the variation over data
        sets, for the lower bound with the points' role as components (delete-one jackknife).

        Reference: DMVI Algorithm 1 with its missing - log N; Poole et al. (2019), section 2, for the sandwich.
        """
        started = time.perf_counter()
        q = as_posterior(posterior)
        check_prior(q, prior)
        draws = _Draws(q, prior, generator, self.control_variates, self.device)
        keeper = Keeper(self.partial, _fingerprint(q, prior, generator) if self.partial is not None else {})
        if self.resume:
            draws.restore(keeper.load())
        try:
            self._draw(draws, keeper, progress)
        except KeyboardInterrupt as stop:
            keeper.save(draws.state)
            if len(draws.points) < 4 or parallel.rank_and_size()[1] > 1:  # the others may be gone, or have other draws
                raise
            raise InterruptedEstimate(self._report(draws, time.perf_counter() - started)) from stop
        keeper.save(draws.state)
        return self._report(draws, time.perf_counter() - started)

    def cost(self, posterior: Posterior) -> str | None:
        """Say how long the run will take on the general path; None for diagonal Gaussians, whose path is fast."""
        rate = general_rate(posterior) if posterior.has_log_prob else None
        if rate is None:
            return None
        pairs = (self.num_samples + min(self.num_samples, ROLE_DRAWS)) * posterior.num_points
        return (
            f"this posterior is no diagonal Gaussian, so every one of {pairs:.2g} densities is evaluated by itself, at about "
            f"{rate:.2g} a second: {_duration(pairs / rate)}. Fewer --num-samples take less."
        )

    def _draw(self, draws: _Draws, keeper: Keeper, progress: Progress) -> None:
        """Draw `num_samples` times, and then until the tolerance is reached."""
        goal = max(self.num_samples, len(draws.points))
        while True:
            while len(draws.points) < goal:
                draws.extend(goal, progress)
                keeper.save_now_and_then(draws.state)
            error = math.sqrt(draws.mean(KL).conditional_variance)
            if self.tolerance is None or error <= self.tolerance or goal >= self.max_samples or not math.isfinite(error):
                return
            needed = goal * (error / self.tolerance) ** 2 * 1.05
            goal = int(min(self.max_samples, max(needed, goal + BATCH), 4 * goal))

    def _report(self, draws: _Draws, seconds: float) -> tuple[Estimate, ...]:
        n, count = draws.q.num_points, len(draws.points)
        kl, information, left_out = (draws.mean(target) for target in (KL, INFORMATION, LEFT_OUT))
        details = draws.details(self.tolerance)

        def say(
            value: float, variance: float, target: Target, bound: Bound, quantity: str = "kl", reason: str | None = None
        ) -> Estimate:
            said = details | {"reason": reason} if reason else details
            return Estimate("monte-carlo", target, bound, value, math.sqrt(variance), quantity, count, seconds, said)

        shown = say(information.value, information.conditional_variance, "empirical", "exact", "mutual-information")
        if infinite := draws.infinite():
            both: tuple[Target, ...] = ("empirical", "population")
            return (*(say(math.inf, 0.0, target, "exact", "kl", infinite) for target in both), shown)
        population = kl.conditional_variance + draws.between_variance(KL) / n
        found = [
            say(kl.value, kl.conditional_variance, "empirical", "exact"),
            say(kl.value, population, "population", "upper"),
        ]
        if alone := draws.alone():
            found.append(say(-math.inf, 0.0, "population", "lower", "leave-one-out", alone))
        elif not draws.one_cluster:  # else nothing is left without it
            variance = left_out.conditional_variance + draws.role_variance() / n
            found.append(say(left_out.value, variance, "population", "lower", "leave-one-out"))
        return (*found, shown)


def _fingerprint(q: Posterior, prior: Distribution, generator: torch.Generator) -> dict[str, Any]:
    """Facts that must be the same for draws to belong to this run."""
    same = {"seed": generator.initial_seed(), "N": q.num_points, "D": q.dim}
    return {**same, "posterior and prior": digest(q, prior)[:16]}


class _Draws:
    """Draws made so far, with the values of each."""

    def __init__(self, q: Posterior, prior: Distribution, generator: torch.Generator, control: bool, device: str) -> None:
        self.q, self.prior, self.generator = q, prior, generator
        there = q.to(device) if isinstance(q, DiagonalGaussian) and device != "cpu" else q
        self.aggregate = AggregatePosterior(there, shared=True)
        self.device = device if there is not q else "cpu"
        self.controls = GaussianControls.of(q, prior) if control else None
        self.point_kl = conditional_kl(q, prior) if control else None
        self.weights = q.weights
        if self.weights is not None and self.controls is None:
            self.point_kl = None  # of independent points, it varies with what it is taken from
        self.clusters = clusters_of(q)
        self.one_cluster = self.clusters is not None and self.clusters.count == 1
        if self.one_cluster:
            self.clusters = None
        self.regression: Regression | None = None
        self.noted, self.note = 1, ""
        self.pending = torch.empty(0, dtype=torch.int64)
        self.points = np.empty(0, np.int64)
        self.raw = np.empty((0, 3))
        self.adjusted = Adjusted(np.empty((0, 3)), np.empty((0, 3)))
        self.first: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def extend(self, goal: int, progress: Progress) -> None:
        """Draw one more batch towards `goal` draws."""
        done, size = len(self.points), min(BATCH, goal - len(self.points))
        if done >= 1.25 * self.noted:  # only now and then, because a mean over many draws costs more than a batch
            mean, self.noted = self.mean(KL), done
            self.note = f"{mean.value:.4g} ± {math.sqrt(mean.conditional_variance):.2g} nats"
        self._batch(size, _part_of(progress, done, size, goal, self.note))

    def state(self) -> dict[str, Any]:
        """Everything that another process needs to continue exactly as this one would."""
        kept: dict[str, Any] = {
            "points": self.points,
            "raw": self.raw,
            "residuals": self.adjusted.residuals,
            "between": self.adjusted.between,
            "pending": self.pending,
            "generator": self.generator.get_state(),
        }
        if self.regression is not None:
            kept |= {"coefficients": self.regression.coefficients, "chosen": self.regression.chosen}
        if self.first is not None:
            kept |= dict(zip(("first_z", "first_points", "first_others"), self.first, strict=True))
        return kept

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Continue from `state`; without a kept state, start afresh."""
        if not kept:
            return
        self.points, self.raw = kept["points"], kept["raw"]
        self.adjusted = Adjusted(kept["residuals"], kept["between"])
        self.pending = torch.from_numpy(kept["pending"])
        self.generator.set_state(torch.from_numpy(kept["generator"]))
        if "chosen" in kept:
            self.regression = Regression(kept["coefficients"], kept["chosen"])
        if "first_z" in kept:
            z, points, others = (torch.from_numpy(kept[f"first_{k}"]) for k in ("z", "points", "others"))
            self.first = z, points, others

    def _batch(self, size: int, progress: Progress) -> None:
        before = self.generator.get_state(), self.pending
        try:
            self._evaluate(size, progress)
        except KeyboardInterrupt:  # leave the draws as they were before this batch
            self.generator.set_state(before[0])
            self.pending = before[1]
            raise

    def _evaluate(self, size: int, progress: Progress) -> None:
        while len(self.pending) < size:
            self.pending = torch.cat([self.pending, self._next_points(size)])
        points, self.pending = self.pending[:size], self.pending[size:]
        z = self.q.sample_at(points, self.generator)
        own, log_p = self.q.log_prob_at(z, points), prior_log_prob(self.prior, z.cpu())
        others = self.aggregate.log_sum(z.to(self.device), points, progress=progress).cpu()
        if self.first is None:
            self.first = z[:ROLE_DRAWS], points[:ROLE_DRAWS], others[:ROLE_DRAWS]
        weighted = own if self.weights is None else own + self.weights[points].log()
        log_q = torch.logaddexp(weighted, others) - math.log(self.q.num_points)
        left_out = self._left_out(z, points, others)
        raw = torch.stack([own - log_q, own - left_out, own - log_p], 1).cpu().numpy()
        adjusted = self._adjust(raw, z, points)
        self.adjusted = Adjusted(*(np.concatenate(pair) for pair in zip(self.adjusted, adjusted, strict=True)))
        self.points, self.raw = np.concatenate([self.points, points.numpy()]), np.concatenate([self.raw, raw])

    def _next_points(self, size: int) -> torch.Tensor:
        """Rows to draw at: all, in random order, some twice; with weights, independent ones in proportion to them."""
        if self.weights is None:
            return visits(self.q.num_points, self.generator)
        return by_weight(self.weights, size, self.generator)

    def _left_out(self, z: torch.Tensor, points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Log-density of the mixture without the draw's own cluster: without its row alone, where that is all there is."""
        if self.weights is None:
            alone = others - math.log(self.q.num_points - 1)
        else:
            alone = others - (self.q.num_points - self.weights[points]).log()
        if self.clusters is None:
            return alone
        ids = self.clusters.ids[points]
        some = (self.clusters.sizes[ids] > 1).nonzero().flatten()
        outside = self._log_sum_outside(z[some], ids[some])
        left = self.q.num_points - cluster_weights(self.q, self.clusters)[ids[some]]
        alone[some] = outside - left.log()
        return alone

    def _log_sum_outside(self, z: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        assert self.clusters is not None
        return log_sum_outside(self.aggregate, self.clusters, z.to(self.device), ids).cpu()

    def _adjust(self, raw: Array, z: torch.Tensor, points: torch.Tensor) -> Adjusted:
        """Subtract the part that control variates explain; log q(z|x_n) - log p(z) is replaced by its exact mean."""
        adjusted = Adjusted(raw.copy(), np.zeros_like(raw))
        if self.controls is not None and np.isfinite(raw).all():
            controls, between = self.controls.at(z, points)
            if self.regression is None:
                visited, total = points.numpy(), float(self.q.num_points)
                if self.weights is not None:
                    visited, total = np.arange(len(points)), math.inf
                adjusted, self.regression = cross_fit(raw, controls, between, visited, total, self.controls.subsets)
            else:
                adjusted = Adjusted(raw - self.regression.explain(controls), self.regression.explain(between))
        if self.point_kl is not None and bool(self.point_kl.isfinite().all()):
            average = float((self.point_kl if self.weights is None else self.point_kl * self.weights.to(self.point_kl)).mean())
            adjusted.residuals[:, COST] = average
            adjusted.between[:, COST] = self.point_kl[points].cpu().numpy() - average
        return adjusted

    def mean(self, combination: Array) -> PointMean:
        """Mean over the points of a combination of the draws' values, with control variates subtracted."""
        return self._mean(self.adjusted.residuals, combination)

    def _mean(self, columns: Array, combination: Array) -> PointMean:
        """Mean over the points of a combination of columns; one that is infinite anywhere is infinite, and has no error."""
        values = _combined(columns, combination)
        bad = values[~np.isfinite(values)]
        if len(bad):
            return PointMean(float(bad[0]), math.inf, math.inf)
        if self.weights is None:
            return point_mean(values, self.points, self.q.num_points)
        return PointMean(float(values.mean()), float(values.var(ddof=1)) / len(values), math.nan)

    def plain_mean(self, combination: Array) -> dict[str, float]:
        """The same without control variates, as in DMVI's algorithm."""
        mean = self._mean(self.raw, combination)
        return {"value": mean.value, "std_error": math.sqrt(mean.conditional_variance)}

    def infinite(self) -> str | None:
        """Why the KL is infinite; None where it is not known to be."""
        outside = outside_prior(torch.from_numpy(-self.raw[:, COST]))
        return outside or (infinite_at(self.point_kl) if self.point_kl is not None else None)

    def alone(self) -> str | None:
        """Why there is no leave-one-out bound: draws where the posterior of no other point has a density."""
        share = float(np.isinf(self.raw[:, SHOWN_BY_OTHERS]).mean())
        return f"{share:.2g} of the draws lie where no other point's posterior has a density" if share else None

    def tails(self) -> dict[str, dict[str, float] | None]:
        """Tails of log q_N(z) - log p(z): over all draws, and, where that is long, over draws at one point."""
        whole = None if self.infinite() else tail_of(self.raw[:, COST] - self.raw[:, SHOWN])
        known = self.point_kl is not None  # in closed form, so that no draws are needed for it
        doubtful = whole is not None and whole.spoils and not known
        within = tail_within_points(self.q, self.prior, self.generator) if doubtful else None
        return {"tail": whole and whole._asdict(), "tail_within": within and within._asdict()}

    def between_variance(self, combination: Array) -> float:
        """N times the variance of the mean over data sets, for draws without end: of a point's own mean, where all are alone.

        It is what the controls explain of it, and the residuals' part.
        """
        explained = self.adjusted.between @ combination
        if self.weights is None and self.clusters is None:
            return float(explained.var(ddof=1)) + self.mean(combination).between_variance
        values = _combined(self.adjusted.residuals, combination) + explained
        clusters = all_clusters(self.q)
        few = clusters.count / max(clusters.count - 1, 1)
        if self.weights is not None:
            return max(few * self.q.num_points * coinciding(values, clusters.ids[self.points].numpy()), 0.0)
        alone = float(explained.var(ddof=1)) + self.mean(combination).between_variance
        return max(few * (alone + together(values, self.points, clusters.ids.numpy())), alone)

    def role_variance(self) -> float:
        """Variance over points of a point's influence on the leave-one-out bound, as a sample and as a component.

        A point's influence is a_n + r_n: its own mean a_n, and N times r_n, what the other points' leave-one-out
        log-densities lose on average without it. Products over different draws keep the draws' noise out of the
        variance of r_n; pairs of draws at one point are weighed by how often two points are one, which is 1 / N.
        Where points come in clusters, or have weights, it is that of clusters, times N.
        """
        if self.first is None:
            raise ValueError("no draws have been made")
        z, points, others = self.first
        n, m = self.q.num_points, len(points)
        at = self.device
        if self.weights is not None or self.clusters is not None:
            return self._cluster_role_variance(z, points, others)
        losses = removal_losses(self.aggregate, z.to(at), points.to(at), others.to(at))
        sums = losses.sums.cpu().numpy()
        same = int((np.bincount(points.numpy()) * (np.bincount(points.numpy()) - 1)).sum())
        different = m * (m - 1) - same
        of_one = losses.pairs / same if same else losses.squares / m
        of_two = (float((sums**2).sum()) - losses.squares - losses.pairs) / different if different else 0.0
        role = n / m * sums
        role_variance = (n - 1) * of_two + of_one - float(role.mean()) ** 2
        values = self.raw[:m] @ LEFT_OUT
        covariance = float(((values - values.mean()) * role[points.numpy()]).mean())
        return max(self.between_variance(LEFT_OUT) + 2 * covariance + role_variance, 0.0)

    def _cluster_role_variance(self, z: torch.Tensor, points: torch.Tensor, others: torch.Tensor) -> float:
        """N times the variance of the bound over data sets of as many clusters."""
        clusters, n, m = all_clusters(self.q), self.q.num_points, len(points)
        ids = clusters.ids[points]
        log_sums = others.clone()
        some = (clusters.sizes[ids] > 1).nonzero().flatten()
        if len(some):
            log_sums[some] = self._log_sum_outside(z[some], ids[some])
        losses = cluster_losses(self.aggregate, clusters, z.to(self.device), points, log_sums.to(self.device))
        sums = losses.sums.numpy()
        of_all = float((sums**2).sum()) - losses.squares
        if self.weights is None:
            counts = np.bincount(points.numpy())
            same = int((counts * (counts - 1)).sum())
            of_one = losses.pairs / same if same else losses.squares / m
            products = (n - 1) * (of_all - losses.pairs) / max(m * (m - 1) - same, 1) + of_one
        else:
            products = n * of_all / (m * (m - 1))
        role = n / m * sums
        values = self.raw[:m] @ LEFT_OUT
        covariance = float(((values - values.mean()) * role[ids.numpy()]).mean())
        few = clusters.count / (clusters.count - 1)
        own = self.between_variance(LEFT_OUT)
        return max(own + few * (2 * covariance + products - float(role.sum()) ** 2 / n / clusters.count), 0.0)

    def details(self, tolerance: float | None) -> dict[str, Any]:
        """Facts about the draws, for `details`."""
        plain, error = self.plain_mean(KL), math.sqrt(self.mean(KL).conditional_variance)
        return {
            "distinct_points": len(np.unique(self.points)),
            "plain_mean": plain,
            "plain_average_kl": self.plain_mean(np.array([0.0, 0.0, 1.0])),
            "control_variates": 0 if self.regression is None else len(self.regression.chosen),
            "error_over_plain": error / plain["std_error"] if plain["std_error"] > 0 else 1.0,
            "tolerance_met": None if tolerance is None else error <= tolerance,
            **self.tails(),
        }


def _combined(columns: Array, combination: Array) -> Array:
    """A combination of columns, of which those that are not asked for may be infinite."""
    used = combination != 0
    with np.errstate(invalid="ignore"):  # two infinite columns
        return columns[:, used] @ combination[used]


def _part_of(progress: Progress, done: int, size: int, goal: int, note: str) -> Progress:
    """Make a progress function that reports the share of posteriors visited in a batch as draws done."""
    return lambda columns, total, _="": progress(done + size * columns / total, goal, note)


def _duration(seconds: float) -> str:
    """Write a duration in words, roughly."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {seconds:.0f} seconds" if seconds >= 2 else "a second or two"
