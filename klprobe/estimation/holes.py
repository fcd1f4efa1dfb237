"""Prior holes: regions where p(z) draws codes that no data point encodes to, the reverse, and the share of mass in them.

There are two questions. Is a draw of the prior unlike codes that were *held out*? Then each code is scored by the mixture
without its own component, since a draw of the prior has none of its own either; a perfect model passes. Is it unlike the codes
that the decoder was *trained on*? Then each code keeps its own component, and where posteriors are islands all draws are.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.clusters import by_weight, clusters_of, one_of_each
from klprobe.distributions.inspection import check_posterior, radius_histogram
from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.pairs import Pairs, pairwise_kl
from klprobe.distributions.posteriors import (
    DiagonalGaussian,
    as_posterior,
    check_prior,
    has_density,
    measure_of,
    prior_log_prob,
    sample_prior,
)
from klprobe.distributions.statistics import visit_evenly
from klprobe.types import CapabilityError, InputError, Posterior, Progress, Quantity, RadiusHistogram, no_progress

Array = NDArray[np.float64]

GROUPS = 20
"""Number of groups of the jackknife; the relative error of its standard error is 1 / sqrt(2 (GROUPS - 1)), a sixth."""
LIKELIEST = 0.9
"""Share of a distribution's draws that are ranked, which are those where its density is highest."""
NUM_SAMPLES = 2000
"""Number of draws of each of the two, here and in a report of the KL, so that both give the same numbers."""
APART = 6.0
"""Distance from a code to all other posteriors, in standard deviations (root mean square over latents), at which they are
too far away to say anything."""
LEAST_POINTS = 2 * GROUPS
LEAST_DRAWS = 100


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws of one distribution, scored by both.

    Attributes:
        z: Codes, shape (m, D).
        log_q: log q_N(z) in nats, shape (m,); leave-one-out where z was drawn from q_N.
        log_p: log p(z) in nats, shape (m,).
        points: Data point of each draw, shape (m,); -1 for draws of the prior.
    """

    z: torch.Tensor
    log_q: torch.Tensor
    log_p: torch.Tensor
    points: torch.Tensor

    def take(self, which: torch.Tensor) -> Draws:
        """Select some of the draws, in the order of `which`."""
        return Draws(self.z[which], self.log_q[which], self.log_p[which], self.points[which])


@dataclasses.dataclass(frozen=True)
class Holes:
    """The result of `find_holes`. A perfect match gives `share` and `reverse_share` the value `level`.

    Attributes:
        level: The quantile, such as 0.01.
        share: Share of the prior's mass unlike held-out codes: q_N's density lies below its quantile at codes that are scored
            without their own component. None where the points do not overlap.
        trained_share: Share of the prior's mass unlike the codes of these points, which keep their own component: what a
            decoder that was trained on them has not seen. At least about `share`; near 1 where posteriors are islands.
        reverse_share: Share of q's mass at which the prior's density lies below its own quantile.
        threshold, trained_threshold, reverse_threshold: The three quantiles, log-densities in nats.
        codes, prior_draws: All draws of q_N and of the prior.
        radius: Histograms of |z| under both.
        dimensionwise_kl: KL[q_N(z_d)||p(z_d)] of each latent in nats, or None, and the reason.
        pairs: KL of each pair of latents in nats, or None, and the reason.
    """

    num_points: int
    level: float
    share: Quantity
    trained_share: Quantity
    reverse_share: Quantity
    threshold: float
    trained_threshold: float
    reverse_threshold: float
    codes: Draws
    prior_draws: Draws
    radius: RadiusHistogram
    dimensionwise_kl: tuple[float, ...] | None
    dimensionwise_kl_reason: str | None
    pairs: Pairs | None
    pairs_reason: str | None

    def deepest(self, count: int) -> Draws:
        """Likely draws of the prior with the largest log p(z) - log q_N(z), the largest first."""
        draws = _likely(self.prior_draws, self.prior_draws.log_p)
        return draws.take((draws.log_p - draws.log_q).argsort(descending=True)[:count])

    def crowded(self, count: int) -> Draws:
        """Likely codes with the largest log q_N(z) - log p(z), leave-one-out, the largest first, one for each point."""
        codes = _likely(self.codes, self.codes.log_q)
        order = (codes.log_q - codes.log_p).argsort(descending=True)
        _, first = np.unique(codes.points[order].numpy(), return_index=True)
        return codes.take(order[torch.from_numpy(np.sort(first)[:count])])

    def ordinary(self, count: int) -> Draws:
        """Draws of the prior that lie in no hole, in the order of drawing; there may be fewer than asked for, or none."""
        edge = self.trained_threshold if self.share.value is None else self.threshold
        return self.prior_draws.take((self.prior_draws.log_q >= edge).nonzero().flatten()[:count])


def _likely(draws: Draws, log_density: torch.Tensor) -> Draws:
    """Select the draws where their own distribution's density is highest, as ratios of densities are largest far out."""
    return draws.take((log_density >= log_density.quantile(1 - LIKELIEST)).nonzero().flatten())


def find_holes(
    posterior: Distribution,
    prior: Distribution,
    *,
    num_samples: int = NUM_SAMPLES,
    level: float = 0.01,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Holes:
    """Find where prior and aggregate posterior do not overlap, and how much mass lies there.

    The standard errors include the variation over data sets, draws and the quantile: a jackknife leaves out a twentieth of
    the data points, as origins of draws and as components, and of the prior's draws. With few points for many latents q_N
    is a rough picture of q, and the share errs towards `level`: 31 % in place of 36 % for 1,000 points of 32 latents.

    Args:
        posterior: Distribution with a density, batch shape (N,), event shape (D,).
        prior: Distribution with event shape (D,).
        num_samples: Number of draws of each of the two.
        level: Quantile of a distribution's density below which a code counts as one that it hardly ever draws.
        generator: Source of all randomness.
        progress: Function that is called with the work done.

    Raises:
        CapabilityError: log q(z|x) or log p(z) is not known.
        InputError: there are fewer than 40 points or 100 draws, or no draws lie below the level.
    Reference: the error, Shao and Wu (1989), A general theory for jackknife variance estimation.
    """
    q = as_posterior(posterior)
    check_prior(q, prior)
    _check(q, prior, num_samples, level)
    check_posterior(q)
    codes, prior_draws, thresholds, shares = _look(q, prior, num_samples, level, generator, progress)
    dimensions, pairs = dimensionwise_kl(q, prior, weights=q.weights), pairwise_kl(q, prior)
    return Holes(
        q.num_points,
        level,
        *shares,
        *thresholds,
        codes,
        prior_draws,
        radius_histogram(q, prior, generator),
        *dimensions,
        *pairs,
    )


def shares_in_holes(
    posterior: Posterior,
    prior: Distribution,
    *,
    num_samples: int = NUM_SAMPLES,
    level: float = 0.01,
    generator: torch.Generator,
) -> tuple[Quantity, Quantity]:
    """Estimate `share` and `trained_share` alone, as `find_holes` does, from the same draws of the same generator."""
    check_prior(posterior, prior)
    _check(posterior, prior, num_samples, level)
    share, trained, _ = _look(posterior, prior, num_samples, level, generator, no_progress)[3]
    return share, trained


def _look(
    q: Posterior, prior: Distribution, num_samples: int, level: float, generator: torch.Generator, progress: Progress
) -> tuple[Draws, Draws, tuple[float, float, float], tuple[Quantity, Quantity, Quantity]]:
    """Draw from q_N and from the prior, and compute their densities, the three quantiles and the three shares."""
    if clusters_of(q) is not None:  # a copy beside a point would make its code look at home
        rows = one_of_each(q, generator, "The search for holes").sort().values
        some = q.select(rows)
        _check(some, prior, num_samples, level)
        looked = _look(some, prior, num_samples, level, generator, progress)
        return dataclasses.replace(looked[0], points=rows[looked[0].points]), *looked[1:]
    order = torch.arange(q.num_points)
    weight = torch.ones(q.num_points, dtype=torch.float64) if q.weights is None else q.weights.double().cpu()
    evenly = q.weights is None
    points = visit_evenly(order, num_samples, generator) if evenly else by_weight(weight, num_samples, generator)
    z = q.sample_at(points, generator).cpu()
    z_prior = sample_prior(prior, num_samples, generator).cpu()
    group = torch.empty(q.num_points, dtype=torch.int64)
    group[torch.randperm(q.num_points, generator=generator)] = order * GROUPS // q.num_points
    sums = _sums_by_group(q, torch.cat([z, z_prior]), points, group, progress)
    own = q.log_prob_at(z.to(q.mean.device) if isinstance(q, DiagonalGaussian) else z, points).double().cpu()
    own += weight[points].log()
    log_p = prior_log_prob(prior, torch.cat([z, z_prior])).double().cpu()
    whole = sums.logsumexp(0)
    others = (weight.sum() - weight[points]).log()
    codes = Draws(z, whole[:num_samples] - others, log_p[:num_samples], points)
    of_prior = whole[num_samples:] - weight.sum().log()
    prior_draws = Draws(z_prior, of_prior, log_p[num_samples:], torch.full_like(points, -1))
    everything = _Scores(sums.numpy(), own.numpy(), log_p.numpy(), group.numpy(), points.numpy(), weight.numpy())
    edges, found_shares = everything.shares(level)
    errors = np.maximum(everything.errors(level), [_least_error(share, num_samples) for share in found_shares])
    found = [Quantity(share, float(error)) for share, error in zip(found_shares, errors, strict=True)]
    if apart := _apart(own - whole[:num_samples], q.dim):
        found[0] = Quantity(None, None, apart)
    return codes, prior_draws, (edges[0], edges[1], edges[2]), (found[0], found[1], found[2])


def _apart(lead: torch.Tensor, dim: int) -> str | None:
    """Say why scores without the own component mean nothing; None where they mean something.

    Args:
        lead: By how much a code's own posterior exceeds the sum of all others there, in nats, shape (m,).
        dim: Latents.
    """
    distance = math.sqrt(max(2 * float(lead.median()) / dim + 1, 0.0))
    if distance <= APART:
        return None
    return (
        f"the points do not overlap: at half of the codes, the posteriors of all others are {distance:.3g} standard deviations "
        "away or more (root mean square over latents)"
    )


def _check(q: Posterior, prior: Distribution, num_samples: int, level: float) -> None:
    if not q.has_log_prob:
        raise CapabilityError(
            "holes are where the aggregate posterior's density is low, and this encoder gives samples without a density "
            "log q(z|x): load one that returns mean and logvar."
        )
    if not has_density(prior):
        raise CapabilityError(f"holes are ranked by log p(z), which {type(prior).__name__} does not have: take another prior.")
    if q.weights is not None and clusters_of(q) is not None:
        raise InputError(
            "Holes are not looked for among points with weights of which some are copies or in groups: leave the weights away, "
            "or give each point once, with the sum of its weights."
        )
    if measure_of(q) == "atoms":
        raise CapabilityError("holes are places without codes, and these codes are discrete: klprobe estimate tells their KL.")
    if q.num_points < LEAST_POINTS:
        raise InputError(f"Holes need at least {LEAST_POINTS} data points for an error bar; got N = {q.num_points}.")
    if num_samples < LEAST_DRAWS:
        raise InputError(f"Holes need at least {LEAST_DRAWS} draws; got num_samples = {num_samples}.")
    if not 1 / num_samples <= level <= 0.5:
        raise InputError(
            f"The quantile must lie between 1 / num_samples = {1 / num_samples:g} and 0.5; got {level:g}: change it, or draw "
            "more."
        )


def _sums_by_group(
    q: Posterior, z: torch.Tensor, points: torch.Tensor, group: torch.Tensor, progress: Progress
) -> torch.Tensor:
    """Compute log sum_n q(z|x_n) over the points n of each group but the draw's own, (GROUPS, len(z)); draws of q first."""
    sums = torch.empty(GROUPS, len(z), dtype=torch.float64)
    own = torch.full((len(z),), -1)
    place = torch.empty_like(group)
    for g in range(GROUPS):
        members = (group == g).nonzero().flatten()
        place[members] = torch.arange(len(members))
        own[: len(points)] = torch.where(group[points] == g, place[points], -1)
        sums[g] = AggregatePosterior(q.select(members), shared=True).log_sum(z, own)
        progress(g + 1, GROUPS)
    return sums


@dataclasses.dataclass(frozen=True)
class _Scores:
    """The log-densities of m draws of q_N and of as many of the prior behind them, and which group of points each rests on.

    Attributes:
        sums: log sum_n w_n q(z|x_n) over each group but the draw's own point, shape (GROUPS, 2 m).
        own: log w_n q(z|x_n) of the point that a code was drawn at, shape (m,).
        log_p: Log-density of the prior at both, shape (2 m,).
        group: Group of each data point, shape (N,).
        points: Data point of each code, shape (m,).
        weight: Weight w_n of each data point, shape (N,).
    """

    sums: Array
    own: Array
    log_p: Array
    group: NDArray[np.int64]
    points: NDArray[np.int64]
    weight: Array

    def shares(self, level: float, without: int | None = None) -> tuple[list[float], list[float]]:
        """Compute the quantiles, and the shares below them: held-out, trained, reverse; `without` leaves a group out."""
        m, total = len(self.points), self.weight.sum()
        sums, code, drawn = self.sums, np.ones(m, dtype=bool), np.ones(m, dtype=bool)
        if without is not None:
            sums, total = np.delete(sums, without, 0), total - self.weight[self.group == without].sum()
            code, drawn = self.group[self.points] != without, np.arange(m) % GROUPS != without
        whole = np.logaddexp.reduce(sums, 0)
        held_out, of_prior = whole[:m][code] - np.log(total - self.weight[self.points[code]]), whole[m:][drawn] - np.log(total)
        trained = np.logaddexp(whole[:m], self.own)[code] - np.log(total)
        pairs = [(held_out, of_prior), (trained, of_prior), (self.log_p[m:][drawn], self.log_p[:m][code])]
        thresholds = [float(np.quantile(reference, level)) for reference, _ in pairs]
        return thresholds, [float((scores < t).mean()) for t, (_, scores) in zip(thresholds, pairs, strict=True)]

    def errors(self, level: float) -> Array:
        """Jackknife errors of the shares, leaving out each group of points with its draws and as many of the prior's."""
        shares = [self.shares(level, g)[1] for g in range(GROUPS)]
        return np.sqrt((GROUPS - 1) * np.var(shares, 0))


def _least_error(share: float, num_samples: int) -> float:
    """Least standard error of a share of 0 or 1, which is known to about one draw (Agresti and Coull 1998)."""
    near = (share * num_samples + 2) / (num_samples + 4)
    return math.sqrt(near * (1 - near) / (num_samples + 4))
