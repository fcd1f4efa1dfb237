"""The two sides that a ratio is learned from: disjoint parts of q's points and of p's draws to fit, to stop and to report on.

A prior with a sampler gives fresh draws without end. A prior known by a cloud of samples has so many and no more: it is
split in parts as the data points are, and every part hands out each of its samples once; only the part that is fitted on is
gone through again and again. Methods ask for as many as they like and get as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.distributions import Distribution

from klprobe.distributions.posteriors import SampleOnly, as_posterior, check_prior, sample_prior
from klprobe.distributions.priors import Cloud
from klprobe.distributions.statistics import visit_evenly
from klprobe.estimators._ratio_report import RatioOnQ, log_normaliser, ratio_estimates, share_above_ceiling
from klprobe.estimators._shared import Split, draw_evenly, split_points
from klprobe.types import Estimate, InputError, Posterior, Target

Draw = Callable[[int], torch.Tensor]
"""Gives at most that many codes, shape (m, D), float64."""
CLOUD_PARTS = {"fit": 0.6, "stop": 0.1, "centre": 0.05, "check": 0.05, "report": 0.2}
"""Shares of a cloud of prior samples."""
SMALLEST_CLOUD = 40
"""Prior samples, so that each part has two."""
NORMALISER_SHARE = 10
"""Donsker and Varadhan's constant comes from one such part of the number of prior codes that are reported on."""
CUT_SHARE, MORE_PRIOR = 0.01, 4
"""Where the ceiling cuts more than this share of the stop codes, so many times the prior codes are drawn to raise it."""
NUMBERS = 16_000_000
"""Numbers drawn together."""
PRIOR_NUMBERS, FEWEST_PRIOR = 100_000_000, 1000
"""Prior codes times D at most, before `MORE_PRIOR`, and codes at least: each costs D^2 operations."""


class PriorDraws(NamedTuple):
    """Draws of p for five purposes, no sample in two of them.

    Attributes:
        fit: To learn from.
        stop: To choose weights and settings by.
        centre: For Donsker and Varadhan's constant.
        check: For what is said beside the estimates, such as how each link of a chain does.
        report: For the expectations that are reported.
    """

    fit: Draw
    stop: Draw
    centre: Draw
    check: Draw
    report: Draw


class Sides(NamedTuple):
    """Both sides of one estimate.

    Attributes:
        q: The posterior.
        points: Its data points, split.
        prior: Draws of p.
        generator: Source of all randomness.
    """

    q: Posterior
    points: Split
    prior: PriorDraws
    generator: torch.Generator

    @classmethod
    def of(cls, posterior: Distribution, prior: Distribution, generator: torch.Generator, *, method: str) -> Sides:
        """Check the two and split them; `method` says in errors who asks.

        Raises:
            InputError: dimensions that differ, or too few points or prior samples to split.
        """
        q = as_posterior(posterior)
        check_prior(q, prior)
        points = split_points(q.num_points, generator, method=method)
        device = q.sample_at(points.stop[:1], torch.Generator()).device
        return cls(q, points, _prior_draws(prior, generator, method, device), generator)

    def fit_q(self, count: int) -> torch.Tensor:
        """Codes of points to fit on, drawn by chance, shape (count, D)."""
        chance = torch.randint(len(self.points.fit), (count,), generator=self.generator)
        return self.q.sample_at(self.points.fit[chance], self.generator)

    def fit_p(self, count: int) -> torch.Tensor:
        """Prior codes to fit on, shape (count, D)."""
        return self.prior.fit(count)

    def once_q(self, indices: torch.Tensor, count: int) -> torch.Tensor:
        """At most `count` codes of the points, visited evenly; of an encoder known by its samples, each once."""
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
    """Hands out these samples in order, none twice; fewer than asked for, and then none, when they run out."""
    used = 0

    def draw(count: int) -> torch.Tensor:
        nonlocal used
        start, used = used, min(used + count, len(indices))
        return samples[indices[start:used]].double()

    return draw


class Logits(NamedTuple):
    """A log-ratio at the draws that are reported on, all of them new to whoever fitted it.

    Attributes:
        on_q: At codes of held-out points (population), then at fresh codes of all points (empirical) where there are such.
        on_p: At prior codes, shape (n,).
        centre: At other prior codes, for Donsker and Varadhan's constant.
    """

    on_q: tuple[RatioOnQ, ...]
    on_p: torch.Tensor
    centre: torch.Tensor

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Logits:
        """With every log-ratio f replaced by change(f), such as a calibration."""
        on_q = tuple(side._replace(log_ratio=change(side.log_ratio)) for side in self.on_q)
        return Logits(on_q, change(self.on_p), change(self.centre))

    def estimates(self, method: str) -> list[Estimate]:
        """The five numbers of `_ratio_report` for each target."""
        constant = log_normaliser(self.centre)
        return [e for side in self.on_q for e in ratio_estimates(method, side, self.on_p, constant)]


def evaluate(
    sides: Sides,
    log_ratio: Callable[[torch.Tensor], torch.Tensor],
    on_stop: torch.Tensor,
    num_samples: int,
    num_prior_samples: int,
) -> Logits:
    """A log-ratio at draws that it has not seen.

    Args:
        log_ratio: From codes (m, D) to f (m,), float64.
        on_stop: f at the stop codes of q, shape (k,): where the ceiling log n - 5 cuts more than a hundredth of them, four
            times the prior codes raise it.
        num_samples: Codes of q for each target.
        num_prior_samples: Codes of p, fewer beyond 100 latents.
    """
    q, generator, held_out = sides.q, sides.generator, sides.points.report
    count = min(num_prior_samples, max(PRIOR_NUMBERS // q.dim, FEWEST_PRIOR))
    more = MORE_PRIOR if share_above_ceiling(on_stop, count) > CUT_SHARE else 1
    centre = _at(log_ratio, sides.prior.centre, count // NORMALISER_SHARE, q.dim)
    on_p = _at(log_ratio, sides.prior.report, count * more, q.dim)

    def at(points: torch.Tensor, target: Target) -> RatioOnQ:
        rows = points.split(_rows(q.dim))
        return RatioOnQ(target, torch.cat([log_ratio(q.sample_at(r, generator)) for r in rows]), points, q.num_points)

    if isinstance(q, SampleOnly):
        return Logits((at(held_out, "population"),), on_p, centre)
    visited = visit_evenly(held_out, num_samples, generator)
    twice = visit_evenly(torch.arange(q.num_points), num_samples // 2, generator).repeat(2)  # twice, for the error
    return Logits((at(visited, "population"), at(twice, "empirical")), on_p, centre)


def _at(log_ratio: Callable[[torch.Tensor], torch.Tensor], draw: Draw, count: int, dim: int) -> torch.Tensor:
    """The log-ratio at as many draws as there are, `count` at most."""
    found, size = [], _rows(dim)
    for start in range(0, count, size):
        z = draw(min(size, count - start))
        if not len(z):
            break
        found.append(log_ratio(z))
    return torch.cat(found)


def _rows(dim: int) -> int:
    """Codes drawn together; bounds memory, not results."""
    return max(NUMBERS // dim, 1024)
