"""Bounds that follow from the average KL alone: average KL - log N <= KL[q_N||p] <= average KL."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, ClassVar

import torch
from torch.distributions import Distribution

from klprobe.distributions.categorical import Classes
from klprobe.distributions.families import class_probs
from klprobe.distributions.posteriors import TorchPosterior, as_posterior, check_prior, conditional_kl, prior_log_prob
from klprobe.distributions.statistics import PointMean, point_mean, visits
from klprobe.distributions.tails import infinite_at, outside_prior, tail_within_points
from klprobe.types import Bound, Estimate, Estimator, Posterior, Progress, Target, no_progress

__all__ = ["ClosedForm"]


@dataclasses.dataclass(frozen=True)
class ClosedForm(Estimator):
    """Average KL over all points, and the bounds that 0 <= I_N <= log N gives."""

    num_samples: int = 20_000
    """Number of draws of z, used where KL[q(z|x)||p] has no closed form."""

    requires: ClassVar[frozenset[str]] = frozenset({"posterior-density", "prior-density"})

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
        exact = conditional_kl(q, prior)
        if exact is not None:
            value, given_points = float(exact.mean()), 0.0
            over_points = float(exact.std()) / math.sqrt(n)
            infinite = infinite_at(exact)
        else:
            order = torch.cat([visits(n, generator) for _ in range(math.ceil(self.num_samples / n))])
            points, draws = order[: self.num_samples], self.num_samples
            z = q.sample_at(points, generator)
            log_p = prior_log_prob(prior, z)
            infinite = outside_prior(log_p)
            differences = (q.log_prob_at(z, points) - log_p).cpu().numpy()
            mean = PointMean(math.inf, 0.0, 0.0) if infinite else point_mean(differences, points.numpy(), n)
            value, given_points = mean.value, math.sqrt(mean.conditional_variance)
            over_points = math.sqrt(mean.conditional_variance + mean.between_variance / n)
            tail = None if infinite else tail_within_points(q, prior, generator)
        details: dict[str, Any] = {"closed_form": exact is not None, "tail_within": tail and tail._asdict()}
        if infinite:
            value, given_points, over_points = math.inf, 0.0, 0.0
            details["reason"] = infinite
        seconds = time.perf_counter() - started

        def say(target: Target, bound: Bound, value: float, error: float, quantity: str = "kl") -> Estimate:
            return Estimate("closed-form", target, bound, value, error, quantity, draws, seconds, details)

        return (
            say("population", "exact", value, over_points, "average-kl"),
            say("empirical", "upper", value, given_points),
            say("empirical", "lower", value - math.log(n), given_points),
            say("population", "exact" if infinite else "upper", value, over_points),
        )


def _classes(q: Posterior, prior: Distribution) -> tuple[Estimate, ...] | None:
    """What a purely categorical code gives, in which all is a sum over classes; None for any other."""
    probs = class_probs(q.distribution) if isinstance(q, TorchPosterior) else None
    of_prior = class_probs(prior)
    if probs is None or of_prior is None:
        return None
    there = of_prior > 0
    if bool((probs[:, ~there] > 0).any()) or int(there.sum()) < 2:
        return None
    found = Classes(probs[:, there], of_prior[there]).estimates()
    return tuple(dataclasses.replace(estimate, method="closed-form") for estimate in found)
