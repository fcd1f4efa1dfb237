"""Bounds that follow from the average KL alone: average KL - log N <= KL[q_N||p] <= average KL."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import ClassVar

import torch
from torch.distributions import Distribution

from klprobe.distributions.posteriors import as_posterior, check_prior, conditional_kl
from klprobe.distributions.statistics import point_mean, visits
from klprobe.types import Bound, Estimate, Estimator, Progress, Target, no_progress

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
        n, draws = q.num_points, 0
        exact = conditional_kl(q, prior)
        if exact is not None:
            value, given_points = float(exact.mean()), 0.0
            over_points = float(exact.std()) / math.sqrt(n)
        else:
            order = torch.cat([visits(n, generator) for _ in range(math.ceil(self.num_samples / n))])
            points, draws = order[: self.num_samples], self.num_samples
            z = q.sample_at(points, generator)
            differences = q.log_prob_at(z, points) - prior.log_prob(z).double()
            mean = point_mean(differences.cpu().numpy(), points.numpy(), n)
            value, given_points = mean.value, math.sqrt(mean.conditional_variance)
            over_points = math.sqrt(mean.conditional_variance + mean.between_variance / n)
        details = {"closed_form": exact is not None}
        seconds = time.perf_counter() - started

        def say(target: Target, bound: Bound, value: float, error: float, quantity: str = "kl") -> Estimate:
            return Estimate("closed-form", target, bound, value, error, quantity, draws, seconds, details)

        return (
            say("population", "exact", value, over_points, "average-kl"),
            say("empirical", "upper", value, given_points),
            say("empirical", "lower", value - math.log(n), given_points),
            say("population", "upper", value, over_points),
        )
