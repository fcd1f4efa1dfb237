"""What holds of every report whatever the encoder is like, so that a number which breaks it is wrong.

    0 <= I_N <= min(log N, average KL),  KL[q_N||p] = average KL - I_N >= 0,  leave-one-out <= empirical,  lower <= upper,
    and for a prior that factorises 0 <= each latent's KL, whose sum is at most KL[q_N||p].

Reference: Hoffman and Johnson (2016), ELBO surgery; leave-one-out lies below because KL[q(z|x_n)||.] is convex.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from klprobe.estimation.verdict import ROUNDING, SLACK, Facts, disagreements
from klprobe.types import Check, Estimate, PartReport, Quantity

RARE = 10.0
"""What happens less often than this many times in all draws may not show in their error."""
PER_LATENT = 1e-5
"""Nats that a latent's KL may be off (`klprobe.distributions.marginals.ERROR`)."""


def check_identities(
    facts: Facts, estimates: Sequence[Estimate], dimensions: Sequence[float] | None, parts: Sequence[PartReport] = ()
) -> list[Check]:
    """One check of severity error for each identity, with 4 standard errors of slack; the message of one that breaks says how.

    Args:
        facts, estimates: What is known of all latents together.
        dimensions: Each latent's KL, NaN where it is not known; None where there is none.
        parts: Some of the latents by themselves, of which the same holds.
    """
    rows = [
        (
            "information-within-its-bounds",
            _information(facts, estimates, parts),
            "0 <= mutual information <= log N and the average KL",
        ),
        ("kl-is-average-less-information", _difference(facts, estimates), "KL[q_N||p] = average KL - mutual information"),
        ("leave-one-out-below-empirical", _left_out(estimates), "the leave-one-out value is at most the empirical KL"),
        ("latents-below-whole", _latents(facts, estimates, dimensions), "each latent's KL >= 0, their sum at most KL[q_N||p]"),
        ("lower-below-upper", "; ".join(disagreements(estimates)), "no lower bound lies above an upper bound"),
    ]
    return [Check(name, "error", not problem, problem or promise) for name, problem, promise in rows]


def _information(facts: Facts, estimates: Sequence[Estimate], parts: Sequence[PartReport]) -> str | None:
    drawn = SLACK * _drawn_error(estimates)
    found = [("", facts.mutual_information, facts.average_kl)]
    found += [(f" of part {part.name}", part.mutual_information, part.average_kl) for part in parts]
    log_n = math.log(facts.num_points)  # not `facts.log_n`, in which rows that are nearly the same count as one
    for whose, information, average in found:
        value = information.value
        if value is None:
            continue
        most = min(log_n, math.inf if average.value is None else average.value)
        # An error larger than all that there is to know excuses nothing.
        slack = min(SLACK * (information.std_error or 0.0) + drawn, max(1.0, log_n)) + _rounding(average)
        if not -slack <= value <= most + slack:
            return (
                f"mutual information{whose} {value:.4g} +- {information.std_error or 0.0:.2g} is not between 0 and {most:.4g}, "
                f"the smaller of log N and the average KL"
            )
    return None


def _difference(facts: Facts, estimates: Sequence[Estimate]) -> str | None:
    average, information, exact = facts.average_kl, facts.mutual_information, _exact(estimates)
    if average.value is None or information.value is None or exact is None:
        return None
    if math.isinf(average.value) or math.isinf(exact.value):
        return None  # both are, and say why
    gap = exact.value - (average.value - information.value)
    drawn = _drawn_error(estimates)
    if abs(gap) <= SLACK * math.hypot(exact.std_error, information.std_error or 0.0, drawn) + _rounding(average):
        return None
    return (
        f"{exact.method} says KL[q_N||p] is {exact.value:.6g}, but the average KL less the mutual information is "
        f"{average.value - information.value:.6g}"
    )


def _drawn_error(estimates: Sequence[Estimate]) -> float:
    """The error of the average KL of the points at hand, where it has no closed form and draws of its own stand for it."""
    return max(
        (e.std_error for e in estimates if e.details.get("closed_form") is False and e.target == "empirical"), default=0.0
    )


def _left_out(estimates: Sequence[Estimate]) -> str | None:
    exact = _exact(estimates)
    for low in (e for e in estimates if e.quantity == "leave-one-out" and exact is not None and e.method == exact.method):
        assert exact is not None
        slack = SLACK * math.hypot(low.std_error, exact.std_error) + ROUNDING * max(1.0, abs(exact.value))
        if not low.value <= exact.value + slack:
            return f"the leave-one-out value {low.value:.4g} lies above the empirical KL {exact.value:.4g}"
    return None


def _latents(facts: Facts, estimates: Sequence[Estimate], dimensions: Sequence[float] | None) -> str | None:
    known = [(d, value) for d, value in enumerate(dimensions or ()) if not math.isnan(value)]
    negative = [(d, value) for d, value in known if value < -PER_LATENT]
    if negative:
        return f"the KL of latent {negative[0][0]} is {negative[0][1]:.4g}, below 0"
    exact, total = _exact(estimates), math.fsum(value for _, value in known)
    if exact is None or not known:
        return None
    # Where few draws see two posteriors overlap, the KL misses up to log N nats at each that does not.
    unseen = RARE * facts.log_n / exact.num_samples if exact.num_samples else 0.0
    slack = SLACK * exact.std_error + unseen + PER_LATENT * len(known) + ROUNDING * max(1.0, abs(total))
    if total <= exact.value + slack:
        return None
    return f"the latents' KLs add up to {total:.6g}, more than KL[q_N||p] = {exact.value:.6g} +- {exact.std_error:.2g}"


def _exact(estimates: Sequence[Estimate]) -> Estimate | None:
    """The empirical KL itself, where a method gives it."""
    return next((e for e in estimates if (e.quantity, e.target, e.bound) == ("kl", "empirical", "exact")), None)


def _rounding(average: Quantity) -> float:
    return ROUNDING * max(1.0, abs(average.value or 0.0))
