"""The two sides that a ratio is learned from: disjoint parts of q's points and of p's draws to fit, to stop and to report on.

A prior with a sampler gives any number of fresh draws. A prior known by a cloud of samples has a fixed number: it is
split in parts as the data points are, and each part gives each of its samples once; only the part that is fitted on is
used again and again. Methods ask for any number of draws and get as many as there are. Most begin with the moments of
both sides, which a stream of draws gives in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.distributions import Distribution

from klprobe.distributions.clusters import Clusters, clusters_of
from klprobe.distributions.posteriors import SampleOnly, as_posterior, check_prior, sample_prior
from klprobe.distributions.priors import Cloud
from klprobe.distributions.statistics import visit_evenly
from klprobe.distributions.whitening import Preparation
from klprobe.types import InputError, Posterior

Codes = tuple[torch.Tensor, torch.Tensor]
"""Codes of q and codes of p."""
Draw = Callable[[int], torch.Tensor]
"""A function that returns at most that many codes, shape (m, D), float64."""
CLOUD_PARTS = {"fit": 0.6, "stop": 0.1, "centre": 0.05, "check": 0.05, "report": 0.2}
"""Shares of the parts of a cloud of prior samples."""
SMALLEST_CLOUD = 40
"""Smallest number of prior samples, with which each part has two."""
FEWEST_POINTS, STOP_SHARE, REPORT_SHARE = 20, 0.1, 0.2
"""Smallest number of data points to split in three, and the shares of validation points and of report points."""
CODES, CODES_PER_WEIGHT, NUMBERS = (20_000, 400_000), 400, 2e8
"""Least and largest number of codes; codes for every weight of a quadratic form; largest number of codes times D."""
BLOCK_NUMBERS = 8e6
"""Number of values drawn together, which limits memory."""
POOLED_SHARES = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0)
"""Shares of the pooled covariance that are tried where codes are few (Friedman 1989)."""


class Split(NamedTuple):
    """Indices of disjoint data points to fit on, to validate on (`stop`) and to report on."""

    fit: torch.Tensor
    stop: torch.Tensor
    report: torch.Tensor


def split_points(posterior: Posterior, generator: torch.Generator, *, method: str) -> Split:
    """Split the data points at random in three, so that nothing is tested on points that it has learned from.

    Groups and copies of points are split whole.

    Raises:
        InputError: there are fewer than 20 points, or 20 clusters of them.
    """
    num_points, clusters = posterior.num_points, clusters_of(posterior)
    if num_points < FEWEST_POINTS:
        raise InputError(
            f"{method} fits, stops and reports on three disjoint sets of data points, and {num_points} points are too few: "
            f"give at least {FEWEST_POINTS}, or use --methods monte-carlo."
        )
    if clusters is not None:
        return _split_whole(clusters, generator, method)
    stop, report = (math.ceil(num_points * share) for share in (STOP_SHARE, REPORT_SHARE))
    order = torch.randperm(num_points, generator=generator)
    return Split(order[stop + report :], order[:stop], order[stop : stop + report])


def _split_whole(clusters: Clusters, generator: torch.Generator, method: str) -> Split:
    """As `split_points`, by shares of clusters, however many points each has."""
    if clusters.count < FEWEST_POINTS:
        raise InputError(
            f"{method} fits, stops and reports on three disjoint sets of groups of points, copies of a point being one group, "
            f"and {clusters.count} groups are too few: give at least {FEWEST_POINTS}, or use --methods monte-carlo."
        )
    place = torch.randperm(clusters.count, generator=generator)[clusters.ids]
    stop, report = (math.ceil(clusters.count * share) for share in (STOP_SHARE, REPORT_SHARE))
    parts = place >= stop + report, place < stop, (place >= stop) & (place < stop + report)
    return Split(*(part.nonzero().flatten() for part in parts))


def draw_evenly(posterior: Posterior, indices: torch.Tensor, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Draw z ~ q(z|x_n) at points n visited evenly among `indices`; shape (num_samples, D), float64."""
    return posterior.sample_at(visit_evenly(indices, num_samples, generator), generator)


class PriorDraws(NamedTuple):
    """Draws of p for five purposes; no sample serves two of them.

    Attributes:
        fit: Draws to learn from.
        stop: Validation draws, which choose weights and settings.
        centre: Draws for Donsker and Varadhan's constant.
        check: Draws for facts beside the estimates, such as the certificate of each link of a chain.
        report: Draws for the expectations that are reported.
    """

    fit: Draw
    stop: Draw
    centre: Draw
    check: Draw
    report: Draw


class Sides(NamedTuple):
    """Both sides of one estimate.

    Attributes:
        q: Posterior.
        points: Data points of the posterior, split in three.
        prior: Draws of the prior p.
        generator: Source of all randomness.
    """

    q: Posterior
    points: Split
    prior: PriorDraws
    generator: torch.Generator

    @classmethod
    def of(cls, posterior: Distribution, prior: Distribution, generator: torch.Generator, *, method: str) -> Sides:
        """Check posterior and prior, and split them; errors name `method`.

        Raises:
            InputError: dimensions differ, or there are too few points or prior samples to split.
        """
        q = as_posterior(posterior)
        check_prior(q, prior)
        points = split_points(q, generator, method=method)
        device = q.sample_at(points.stop[:1], torch.Generator()).device
        return cls(q, points, _prior_draws(prior, generator, method, device), generator)

    def fit_q(self, count: int) -> torch.Tensor:
        """Draw codes of points to fit on, chosen at random, shape (count, D)."""
        chance = torch.randint(len(self.points.fit), (count,), generator=self.generator)
        return self.q.sample_at(self.points.fit[chance], self.generator)

    def fit_p(self, count: int) -> torch.Tensor:
        """Draw prior codes to fit on, shape (count, D)."""
        return self.prior.fit(count)

    def once_q(self, indices: torch.Tensor, count: int) -> torch.Tensor:
        """Draw at most `count` codes of the points, visited evenly; an encoder known by samples gives each sample once."""
        most = min(count, len(indices)) if isinstance(self.q, SampleOnly) else count
        return draw_evenly(self.q, indices, most, self.generator)


def _prior_draws(prior: Distribution, generator: torch.Generator, method: str, device: torch.device) -> PriorDraws:
    if not isinstance(prior, Cloud):

        def fresh(count: int) -> torch.Tensor:
            return sample_prior(prior, count, generator).to(device)

        return PriorDraws(*[fresh] * len(CLOUD_PARTS))
    samples = prior.samples.to(device)
    if len(samples) < SMALLEST_CLOUD:
        raise InputError(
            f"{method} needs disjoint prior samples to fit, validate and report on, and {len(samples)} are too few: "
            f"give at least {SMALLEST_CLOUD}."
        )
    order, parts, start = torch.randperm(len(samples), generator=generator), {}, 0
    for name, share in CLOUD_PARTS.items():
        stop = len(samples) if name == "report" else start + round(share * len(samples))
        parts[name], start = order[start:stop], stop

    def again(count: int) -> torch.Tensor:
        chance = torch.randint(len(parts["fit"]), (count,), generator=generator)
        return samples[parts["fit"][chance]].double()

    return PriorDraws(again, *(_each_once(samples, parts[name]) for name in list(CLOUD_PARTS)[1:]))


def _each_once(samples: torch.Tensor, indices: torch.Tensor) -> Draw:
    """Make a function that returns these samples in order, each once; near their end it returns fewer, and then none."""
    used = 0

    def draw(count: int) -> torch.Tensor:
        nonlocal used
        start, used = used, min(used + count, len(indices))
        return samples[indices[start:used]].double()

    return draw


class Moments(NamedTuple):
    """Mean, shape (D,), and covariance, shape (D, D), float64."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def towards(self, other: Moments, share: float) -> Moments:
        """Move the covariance by that share towards the pooled one of the two."""
        pooled = 0.5 * (self.covariance + other.covariance)
        return Moments(self.mean, (1 - share) * self.covariance + share * pooled)


def moments(draw: Draw, whitening: Preparation, codes: int = 0) -> Moments:
    """Compute the moments of that many whitened codes; 0 takes a number that suits the weights of a quadratic form."""
    dim = len(whitening.mean)
    codes = codes or max(min(CODES_PER_WEIGHT * dim**2, int(NUMBERS / dim), CODES[1]), CODES[0])
    size = int(min(codes, max(BLOCK_NUMBERS // dim, 1)))
    count = 0
    total, square = torch.zeros_like(whitening.mean), torch.zeros_like(whitening.rotation)
    for _ in range(0, codes, size):
        u = whitening(draw(size))  # products in float32 are twice as fast, and exact enough for sums over a block
        count, total, square = count + len(u), total + u.sum(0, dtype=torch.float64), square + (u.T @ u).double()
    mean = total / count
    return Moments(mean, square / count - torch.outer(mean, mean))


def quadratic_ratio(q: Moments, p: Moments) -> list[torch.Tensor]:
    """Form (times D), linear part, constant of log N(mean_q, cov_q) - log N(mean_p, cov_p); zero for a singular covariance."""
    dim = len(q.mean)
    form, linear, constant = torch.zeros_like(q.covariance), torch.zeros_like(q.mean), torch.zeros_like(q.mean[0])
    for sign, side in ((1.0, q), (-1.0, p)):
        factor, info = torch.linalg.cholesky_ex(side.covariance)
        if int(info):
            return [torch.zeros_like(form), torch.zeros_like(linear), torch.zeros_like(constant)]
        precision = torch.cholesky_inverse(factor)
        form -= sign * 0.5 * precision
        linear += sign * (precision @ side.mean)
        constant -= sign * (0.5 * side.mean @ precision @ side.mean + factor.diagonal().log().sum())
    return [form * dim, linear, constant]
