"""Bounds that follow from the average KL alone: average KL - log N <= KL[q_N||p] <= average KL."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, ClassVar

import torch
from torch.distributions import Distribution

from klprobe.distributions.categorical import Classes
from klprobe.distributions.clusters import all_clusters, by_weight, clusters_of, entropy
from klprobe.distributions.families import class_probs
from klprobe.distributions.posteriors import TorchPosterior, as_posterior, check_prior, conditional_kl, prior_log_prob
from klprobe.distributions.statistics import clustered_mean, coinciding, point_mean, together, visits
from klprobe.distributions.tails import infinite_at, outside_prior, tail_within_points
from klprobe.types import Bound, Estimate, Estimator, Posterior, Progress, Target, no_progress

__all__ = ["ClosedForm"]


@dataclasses.dataclass(frozen=True)
class ClosedForm(Estimator):
    """Average KL over all points, and the bounds that 0 <= I_N <= log N gives, or, with weights, their entropy."""

    num_samples: int = 20_000
    """Number of draws of z, used where KL[q(z|x)||p] has no closed form."""

    requires: ClassVar[frozenset[str]] = frozenset({"posterior-density", "prior-density"})
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "groups"})

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Compute the average KL, whose error is over points, upper bounds of both KLs, and a lower bound of the empirical one.

        KL[q||p] of the population has no such lower bound, because its mutual information may exceed log N.

        Reference: DMVI eq. 4-6.
        """
        started = time.perf_counter()
        q = as_posterior(posterior)
        check_prior(q, prior)
        if (found := _classes(q, prior)) is not None:
            return found
        n, draws, tail = q.num_points, 0, None
        most = math.log(n) if q.weights is None else entropy(q.weights)
        exact = conditional_kl(q, prior)
        if exact is not None:
            infinite = infinite_at(exact)
            clusters = clusters_of(q)
            value, over_points = (
                (math.inf, 0.0) if infinite else clustered_mean(exact, q.weights, None if clusters is None else clusters.ids)
            )
            given_points = 0.0
        else:
            draws = self.num_samples
            infinite, value, given_points, over_points = _by_draws(q, prior, draws, generator)
            tail = None if infinite else tail_within_points(q, prior, generator)
        details: dict[str, Any] = {"closed_form": exact is not None, "tail_within": tail and tail._asdict()}
        if infinite:
            details["reason"] = infinite
        seconds = time.perf_counter() - started

        def say(target: Target, bound: Bound, value: float, error: float, quantity: str = "kl") -> Estimate:
            return Estimate("closed-form", target, bound, value, error, quantity, draws, seconds, details)

        return (
            say("population", "exact", value, over_points, "average-kl"),
            say("empirical", "upper", value, given_points),
            say("empirical", "lower", value - most, given_points),
            say("population", "exact" if infinite else "upper", value, over_points),
        )


def _classes(q: Posterior, prior: Distribution) -> tuple[Estimate, ...] | None:
    """What a purely categorical code gives, in which all is a sum over classes; None for any other, and for weights or groups.

    Rows that agree are no copies here: certain classes are all alike.
    """
    probs = class_probs(q.distribution) if isinstance(q, TorchPosterior) else None
    of_prior = class_probs(prior)
    if probs is None or of_prior is None or q.weights is not None or q.groups is not None:
        return None
    there = of_prior > 0
    if bool((probs[:, ~there] > 0).any()) or int(there.sum()) < 2:
        return None
    found = Classes(probs[:, there], of_prior[there]).estimates()
    return tuple(dataclasses.replace(estimate, method="closed-form") for estimate in found)


def _by_draws(
    q: Posterior, prior: Distribution, draws: int, generator: torch.Generator
) -> tuple[str | None, float, float, float]:
    """Why it is infinite, if it is; the average KL, its error given the points, and its error over data sets."""
    n = q.num_points
    if q.weights is None:
        points = torch.cat([visits(n, generator) for _ in range(math.ceil(draws / n))])[:draws]
    else:
        points = by_weight(q.weights, draws, generator)
    z = q.sample_at(points, generator)
    log_p = prior_log_prob(prior, z)
    if infinite := outside_prior(log_p):
        return infinite, math.inf, 0.0, 0.0
    values, visited = (q.log_prob_at(z, points) - log_p).cpu().numpy(), points.numpy()
    clusters = all_clusters(q)
    few = clusters.count / max(clusters.count - 1, 1)
    if q.weights is not None:
        given_points = float(values.var(ddof=1)) / draws
        over_points = given_points + max(few * coinciding(values, clusters.ids.numpy()[visited]), 0.0)
        return None, float(values.mean()), math.sqrt(given_points), math.sqrt(over_points)
    mean = point_mean(values, visited, n)
    between = mean.between_variance
    if not clusters.alone:
        between = max(few * (between + together(values, visited, clusters.ids.numpy())), between)
    over_points = mean.conditional_variance + between / n
    return None, mean.value, math.sqrt(mean.conditional_variance), math.sqrt(over_points)
