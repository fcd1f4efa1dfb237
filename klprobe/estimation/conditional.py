"""Report a posterior against a prior of each data point, p(z|x_n), as conditional models have it: the average KL.

There is no p(z) here that all points share. The average of KL[q(z|x_n)||p(z|x_n)] is the KL of the joint distributions of data
and codes, and so an upper bound of the KL between their marginals, q(z) and the mean of all p(z|x_n).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributions import Distribution

from klprobe.distributions.clusters import clusters_of
from klprobe.distributions.families import bare
from klprobe.distributions.inspection import active_units, check_posterior
from klprobe.distributions.posteriors import as_posterior, conditional_kl, measure_of
from klprobe.distributions.statistics import PointMean, clustered_mean, point_mean, visits
from klprobe.distributions.tails import infinite_at, outside_prior, tail_of
from klprobe.estimation import verdict
from klprobe.estimation.report import Report
from klprobe.types import Bound, Check, Estimate, InputError, NotDone, Posterior, Quantity, Target

DRAWS = 20_000
"""Draws of z where KL[q(z|x)||p(z|x)] has no closed form."""
METHOD = "closed-form"
NO_PRIOR = (
    "a prior of each data point, p(z|x), is no p(z) that all points share: give klprobe.AggregatePosterior(prior), their mean, "
    "as prior for it"
)


def is_conditional(posterior: Posterior, prior: Distribution) -> bool:
    """Whether the prior has one distribution for each data point, batch shape (N,), of event shape (D,)."""
    return tuple(prior.batch_shape) == (posterior.num_points,) and tuple(prior.event_shape) == (posterior.dim,)


def average_kl(q: Posterior, prior: Distribution, generator: torch.Generator) -> tuple[Estimate, ...]:
    """(1/N) sum_n KL[q(z|x_n)||p(z|x_n)], and the bounds of KL[q_N||p_N] and KL[q||p] that it is; p_N is the priors' mean.

    In closed form where there is one, else by draws z ~ q(z|x_n) at points visited evenly. The value is exact for the points at
    hand but for the draws; its error for the population is over points.

    Raises:
        InputError: a posterior of samples alone, or densities of different kinds.
    """
    started, p = time.perf_counter(), as_posterior(prior)
    if not (q.has_log_prob and p.has_log_prob):
        raise InputError("KL[q(z|x)||p(z|x)] needs both densities, but these are samples alone: load an encoder that has one.")
    if measure_of(q) != measure_of(p):
        raise InputError(f"The posterior and its prior of each point are of two kinds, {measure_of(q)} and {measure_of(p)}.")
    exact, draws, tail = conditional_kl(q, prior), 0, None
    if exact is not None:
        reason, clusters = infinite_at(exact), clusters_of(q)
        value, over_points = clustered_mean(exact, q.weights, None if clusters is None else clusters.ids)
        given_points = 0.0
    else:
        if q.weights is not None or q.groups is not None:
            raise InputError(
                "KL[q(z|x)||p(z|x)] of these distributions has no formula, and its draws take no weights and no groups of data "
                "points: leave them out."
            )
        order = torch.cat([visits(q.num_points, generator) for _ in range(math.ceil(DRAWS / q.num_points))])
        points, draws = order[:DRAWS], DRAWS
        z = q.sample_at(points, generator)
        log_p = p.log_prob_at(z, points)
        reason, values = outside_prior(log_p), (q.log_prob_at(z, points) - log_p).numpy()
        mean = PointMean(math.inf, 0.0, 0.0) if reason else point_mean(values, points.numpy(), q.num_points)
        tail = None if reason else tail_of(values)
        value, given_points = mean.value, math.sqrt(mean.conditional_variance)
        over_points = math.sqrt(mean.conditional_variance + mean.between_variance / q.num_points)
    if reason:
        value, given_points, over_points = math.inf, 0.0, 0.0
    details: dict[str, Any] = {"closed_form": exact is not None, "tail": tail and tail._asdict()}
    details |= {"reason": reason} if reason else {}
    seconds = time.perf_counter() - started

    def say(target: Target, bound: Bound, error: float, quantity: str = "kl") -> Estimate:
        return Estimate(METHOD, target, bound, value, error, quantity, draws, seconds, details)

    return (
        say("population", "exact", over_points, "average-kl"),
        say("empirical", "upper", given_points),
        say("population", "upper", over_points),
    )


def conditional_report(
    q: Posterior,
    prior: Distribution,
    *,
    methods: Sequence[str],
    generator: torch.Generator,
    split: str,
    trained_on: str,
    provenance: Mapping[str, Any],
) -> Report:
    """Report the average KL; every other method that was asked for is named with the reason why it has no meaning.

    Args:
        q, prior: Both with batch shape (N,) and event shape (D,).
        methods: Names of the methods that were asked for.
        generator: Source of all randomness.
        split, trained_on, provenance: As of `klprobe.estimate`.
    """
    data_checks = check_posterior(q)
    estimates = average_kl(q, prior, generator)
    unknown = Quantity(None, None, NO_PRIOR)
    average = verdict.quantity(estimates, "average-kl", NO_PRIOR)
    facts = verdict.Facts(q.num_points, average, unknown, unknown, split=split, trained_on=trained_on)
    checks: list[Check] = [*verdict.check_estimates(facts, estimates), *data_checks]
    failed = [check for check in checks if not check.passed and (check.severity == "error" or check.name == verdict.HEAVY)]
    reason = estimates[0].details.get("reason")
    said = reason or f"{average.value:.4g} nats, to a standard error of {average.std_error:.1g} over the data points"
    advice = (
        f"KL[q(z|x)||p(z|x)] is on average {said}. It is an upper bound of KL[q(z)||p(z)] with p(z) the mean of all p(z|x); "
        "for that KL itself, give klprobe.AggregatePosterior(prior) as prior."
    )
    return Report(
        latent_dim=q.dim,
        num_points=q.num_points,
        log_n=facts.log_n,
        average_kl=average,
        mutual_information=unknown,
        total_correlation=unknown,
        dimensionwise_kl=None,
        active_units=active_units(q),
        estimates=tuple(e for e in estimates if e.quantity == "kl"),
        brackets={target: verdict.bracket(estimates, target) for target in verdict.TARGETS},
        verdict="impossible" if failed else "resolved",
        advice="Do not use these numbers: " + "; ".join(c.message for c in failed) + "." if failed else advice,
        checks=tuple(checks),
        not_done=tuple(NotDone(name, NO_PRIOR) for name in methods if name != METHOD),
        prior_in_holes=unknown,
        provenance={
            "split": split,
            "trained_on": trained_on,
            "prior": f"{type(bare(prior)).__name__} of each data point",
            **provenance,
        },
    )
