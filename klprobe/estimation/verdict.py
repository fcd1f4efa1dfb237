"""Make an answer from estimates: two brackets, checks of what must hold, a verdict, and advice in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist

from klprobe.types import LONG_TAIL, NOT_A_KL, Bracket, Check, Estimate, Quantity, Severity, Side, Tail, Target, Verdict

TARGETS: tuple[Target, ...] = ("empirical", "population")
SLACK = 4.0
"""Number of standard errors by which an estimated side may miss before a check fails."""
ROUNDING = 1e-9
"""Difference that rounding may make, as a share of a number above 1, or in nats."""
PROVEN = ("closed-form", "monte-carlo")
"""Methods whose bounds rest on nothing learned."""
LEVEL = 0.95
NEAR_CEILING = 0.5
"""Distance to log N, in nats, below which mutual information counts as being at its ceiling."""
MOSTLY = 0.5
"""Share of codes cut by a bound's ceiling from which on the ceiling decides the bound, and not the KL."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts that the verdict and the checks use, beside the estimates.

    Attributes:
        num_points: Number of data points, N.
        average_kl, mutual_information, total_correlation: Quantities as in the report.
        has_density, deterministic: Whether the encoder has a density, and whether it is deterministic.
        split, trained_on: Which points these are, and which the encoder was trained on.
        ceiling: The most mutual information that the points can show; None: log N.
    """

    num_points: int
    average_kl: Quantity
    mutual_information: Quantity
    total_correlation: Quantity
    has_density: bool = True
    deterministic: bool = False
    split: str = "unknown"
    trained_on: str = "unknown"
    ceiling: float | None = None

    @property
    def log_n(self) -> float:
        """The most mutual information that N points can show: less than log N where some are copies, or weigh little."""
        return math.log(self.num_points) if self.ceiling is None else self.ceiling


INFINITE = "infinite: the encoder is deterministic, so q_N is N points, which p(z) gives no mass"


def infinite_bracket() -> Bracket:
    """The empirical bracket of a deterministic encoder, whose KL is infinite."""
    return Bracket(Side(None, None, None, INFINITE), Side(None, None, None, INFINITE))


def bracket(estimates: Sequence[Estimate], target: Target) -> Bracket:
    """Make the bracket [best lower, best upper] of one target, and a simultaneous 95 % interval.

    The best bound is chosen by its confidence limit and not by its value, so that a noisy method is not chosen by luck. The
    interval divides its 5 % over all candidates (Bonferroni), so that it holds although the best one was chosen.
    """
    for e in _of_kl(estimates):
        if e.target == target and e.bound in ("lower", "exact") and e.value == math.inf:
            reason = str(e.details.get("reason", "infinite"))
            return Bracket(Side(None, None, e.method, reason), Side(None, None, e.method, reason))
    within = _worst(estimates, "tail_within")
    spoilt = within is not None and within.spoils
    if spoilt:
        estimates = [e for e in estimates if "tail_within" not in e.details]
    lower, low = _best(estimates, target, "lower", +1)
    upper, high = _best(estimates, target, "upper", -1)
    if low is None or low < 0:
        low = 0.0
    if lower is None or (lower.value or 0.0) < 0:
        lower = Side(0.0, 0.0, "non-negativity")
    if upper is None:
        why = (
            "their means rest on a few draws: see the check tail-index" if spoilt else "no method that ran gives an upper bound"
        )
        upper = Side(None, None, None, why)
    return Bracket(lower, upper, (low, high))


def _best(estimates: Sequence[Estimate], target: Target, side: str, sign: int) -> tuple[Side | None, float | None]:
    """Find the bound with the best confidence limit, and the best limit at a level shared by all candidates."""
    fit = [e for e in _of_kl(estimates) if e.target == target and e.bound in (side, "exact") and math.isfinite(e.value)]
    fit = [e for e in fit if math.isfinite(e.std_error)]
    if not fit:
        return None, None
    quantile = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / len(fit))
    limits = [e.value - sign * quantile * e.std_error for e in fit]
    best = max(range(len(fit)), key=lambda i: sign * limits[i])
    name = fit[best].method if fit[best].quantity == "kl" else f"{fit[best].method} ({fit[best].quantity})"
    return Side(fit[best].value, fit[best].std_error, name), limits[best]


def _of_kl(estimates: Sequence[Estimate]) -> list[Estimate]:
    return [e for e in estimates if e.quantity not in NOT_A_KL]


def disagreements(estimates: Sequence[Estimate], among: Sequence[str] = ()) -> list[str]:
    """Name lower bounds that lie above an upper bound of the same target by more than 4 standard errors, in words.

    Args:
        estimates: The estimates that are compared with each other.
        among: Methods whose estimates are compared; none means all.
    """
    found = []
    kls = [e for e in _of_kl(estimates) if math.isfinite(e.value) and math.isfinite(e.std_error)]
    kls = [e for e in kls if e.method in among] if among else kls
    for low in (e for e in kls if e.bound in ("lower", "exact")):
        for high in (e for e in kls if e.bound in ("upper", "exact") and e.target == low.target and e is not low):
            excess = low.value - high.value
            if excess > SLACK * math.hypot(low.std_error, high.std_error) + 1e-9 * max(1.0, abs(high.value)):
                found.append(
                    f"{low.method} {low.quantity} says at least {low.value:.4g}, {high.method} at most {high.value:.4g} "
                    f"({low.target})"
                )
    return found


def total_correlation(estimates: Sequence[Estimate], dimensions: Sequence[float] | None, reason: str | None) -> Quantity:
    """Compute KL[q_N||p] minus the dimension-wise KLs, which says how far the latents of q_N are from independent."""
    exact = [e for e in _of_kl(estimates) if e.target == "empirical" and e.bound == "exact"]
    if dimensions is None or any(math.isnan(value) for value in dimensions):
        return Quantity(None, None, reason)
    if not exact:
        return Quantity(None, None, "needs the empirical KL, which no method that ran gives")
    return Quantity(exact[0].value - sum(dimensions), exact[0].std_error)


def quantity(estimates: Sequence[Estimate], name: str, reason: str) -> Quantity:
    """Find the estimate of that quantity; None with the reason where there is none."""
    for estimate in estimates:
        if estimate.quantity == name:
            return Quantity(estimate.value, estimate.std_error, estimate.details.get("reason"))
    return Quantity(None, None, reason)


def check_estimates(facts: Facts, estimates: Sequence[Estimate]) -> list[Check]:
    """Check what must hold for any correct set of estimates, with 4 standard errors of slack where a side is estimated."""
    return [
        _check("finite-values", "error", _non_finite(estimates), "every estimate and error is a finite number"),
        _check("non-negative-kl", "error", _negative(estimates), "no exact value or upper bound lies below 0"),
        _check(
            "kl-below-average-kl",
            "error",
            _above_average(facts, estimates),
            "no exact value or lower bound exceeds the average KL",
        ),
        _check("average-kl-identity", "error", _identity(facts, estimates), "average KL = mutual information + KL[q_N||p]"),
        *_tails(estimates),
        _held_out(facts),
    ]


HEAVY = "tail-index"
"""The check of what carries the mean of log q(z) - log p(z)."""


def _tails(estimates: Sequence[Estimate]) -> list[Check]:
    """Whether the means over draws, and over data points, are carried by a few of them; nothing where no method looked.

    Draws at one point that are heavy-tailed spoil every number. Where only the points differ by much, the KL of these points
    stands, and that of the population does not.
    """
    within, whole = (_worst(estimates, name) for name in ("tail_within", "tail"))
    if within is not None and within.spoils:
        message = (
            f"the mean of log q(z|x) - log p(z) rests on a few draws: their tail index is {within.k:.2f}. From {LONG_TAIL} on "
            "no error bar can be trusted, from 1 on the mean is infinite. Take a prior with tails as heavy as those of q(z|x)"
        )
        return [Check(HEAVY, "error", False, message)]
    tail = whole or within
    if tail is None:
        return []
    numbers = f"(tail index {tail.k:.2f}; the largest log q(z) - log p(z) has {tail.share:.1%} of their sum of squares)"
    message = (
        f"a few data points carry most of the KL {numbers}: from an index of {LONG_TAIL} on, the mean over all points there "
        "could be is beyond what these show, from 1 on it is infinite"
        if tail.spoils
        else f"no few draws or points carry the KL {numbers}"
    )
    return [Check(HEAVY, "warning", not tail.spoils, message)]


def _worst(estimates: Sequence[Estimate], name: str) -> Tail | None:
    """The longest tail that a method told of under that name."""
    told = [Tail(**tail) for e in estimates if (tail := e.details.get(name)) is not None]
    return max(told, key=lambda tail: (tail.spoils, tail.k), default=None)


def _check(name: str, severity: Severity, problem: str | None, promise: str) -> Check:
    return Check(name, severity, problem is None, problem or promise)


def _non_finite(estimates: Sequence[Estimate]) -> str | None:
    bad = [f"{e.method} {e.quantity}" for e in estimates if not (math.isfinite(e.value) and math.isfinite(e.std_error))]
    said = {f"{e.method} {e.quantity}" for e in estimates if "reason" in e.details and math.isinf(e.value)}
    bad = [name for name in bad if name not in said]
    return f"not a finite number: {', '.join(bad)}" if bad else None


def _negative(estimates: Sequence[Estimate]) -> str | None:
    bad = [e for e in _of_kl(estimates) if e.bound in ("exact", "upper") and e.value < -SLACK * e.std_error - 1e-9]
    return f"a KL is never negative, but {bad[0].method} says {bad[0].value:.4g} +- {bad[0].std_error:.2g}" if bad else None


def _above_average(facts: Facts, estimates: Sequence[Estimate]) -> str | None:
    average = facts.average_kl
    if average.value is None or average.std_error is None:
        return None
    for e in _of_kl(estimates):
        error = e.std_error if e.target == "empirical" else math.hypot(e.std_error, average.std_error)
        if e.bound in ("exact", "lower") and e.value > average.value + SLACK * error + 1e-9 * max(1, average.value):
            return f"{e.method} {e.quantity} says {e.value:.4g} +- {error:.2g}, above the average KL {average.value:.4g}"
    return None


def _identity(facts: Facts, estimates: Sequence[Estimate]) -> str | None:
    """Check that the draws' own mean of log q(z|x) - log p(z), which uses the densities alone, agrees with the closed form."""
    for estimate in estimates:
        plain = estimate.details.get("plain_average_kl")
        if plain is None or facts.average_kl.value is None or not math.isfinite(facts.average_kl.value):
            continue
        gap = plain["value"] - facts.average_kl.value
        if abs(gap) > SLACK * plain["std_error"] + 1e-9 * max(1.0, abs(facts.average_kl.value)):
            return (
                f"the draws give an average KL of {plain['value']:.6g} +- {plain['std_error']:.2g}, its formula "
                f"{facts.average_kl.value:.6g}: the samples do not follow the density they are said to have"
            )
    return None


def trained_on_them(split: str, trained_on: str) -> bool | None:
    """Whether points of a split are among those that an encoder was trained on; None where either is unknown."""
    if "unknown" in (split, trained_on):
        return None
    return split == trained_on or "all" in (split, trained_on)


def _held_out(facts: Facts) -> Check:
    """The population bracket asks for points that the encoder was not trained on: three states, and unknown is one of them."""
    trained = trained_on_them(facts.split, facts.trained_on)
    if trained is None:
        message = (
            "whether the encoder was trained on these points is unknown; where it was, the population bracket says what it "
            "does to points that it knows, and not to new ones: give points that were kept from its training"
        )
        return Check("held-out-points", "unknown", False, message)
    problem = (
        f"split {facts.split!r} holds points the encoder was trained on ({facts.trained_on!r}); the population bracket "
        "asks for points it was not trained on: use --split test"
    )
    return _check("held-out-points", "warning", problem if trained else None, "the encoder was not trained on these points")


def verdict(
    facts: Facts, estimates: Sequence[Estimate], brackets: dict[str, Bracket], checks: Sequence[Check]
) -> tuple[Verdict, str]:
    """Give the answer in one word, and in sentences that say what to do."""
    failed = [c for c in checks if not c.passed and c.severity == "error"]
    conflicts = disagreements(estimates)
    if [c.name for c in failed] == ["lower-below-upper"] and conflicts and not disagreements(estimates, PROVEN):
        failed = []  # a learned method may err, and is named
    if failed:
        return "impossible", "Do not use these numbers: " + "; ".join(f"{c.name}: {c.message}" for c in failed) + "."
    if conflicts:
        return "methods-disagree", "A lower bound lies above an upper one: " + "; ".join(conflicts) + "."
    population = brackets["population"]
    low = population.lower
    if low.reason is not None and low.reason.startswith("infinite"):
        return "resolved", f"KL[q||p] is {low.reason}. Take a prior that has a density wherever q(z) has one."
    certain = (low.value or 0.0) > SLACK * (low.std_error or 0.0)
    if not facts.has_density:
        kind = "deterministic" if facts.deterministic else "known by samples only"
        why = f"The encoder is {kind}: there is no upper bound"
        why += " and its mutual information is infinite. " if facts.deterministic else ". "
        if certain:
            least = population.interval[0] if population.interval and population.interval[0] else low.value
            why += f"q(z) differs from p(z) by at least {least:.3g} nats, with 95 % confidence ({low.method})."
            return "resolved", why + _cut(estimates, low)
        return "floor-limited", f"{why}No lower bound shows a difference from p(z) with {facts.num_points} points."
    information = facts.mutual_information.value
    if information is None:
        return "floor-limited", "The aggregate posterior's density was not computed: add monte-carlo to --methods."
    if heavy := [c for c in checks if c.name == HEAVY and not c.passed]:
        return "floor-limited", heavy[0].message[:1].upper() + heavy[0].message[1:] + ". The empirical bracket stands."
    if information > facts.log_n - NEAR_CEILING:
        return "floor-limited", _ceiling(facts, population)
    return "resolved", _resolved(facts, brackets)


def _cut(estimates: Sequence[Estimate], low: Side) -> str:
    """Warn that the KL may lie far above the best lower bound, where the bound's ceiling cuts most codes."""
    best = next((e.details for e in estimates if e.value == low.value and e.target == "population"), {})
    if best.get("clipped_share_q", 0.0) <= MOSTLY:
        return ""
    most, share = best["ceiling"] + 1, best["clipped_share_q"]
    return (
        f" Such bounds end near log n - 4 = {most:.3g}, n = {best['prior_samples']:,} prior samples, which cuts {share:.0%} "
        "of the codes: the KL may be many times larger. Ten times the samples show 2.3 nats more."
    )


def _ceiling(facts: Facts, population: Bracket) -> str:
    information, average = facts.mutual_information.value or 0.0, facts.average_kl.value
    name = _ceiling_name(facts)
    text = (
        f"N = {facts.num_points} points cannot show more than {name} = {facts.log_n:.2f} nats of mutual information, and "
        f"{information:.2f} are used up: the empirical KL is about average KL - {name} whatever the encoder is like. "
    )
    if average is not None:
        most = average - (population.lower.value or 0.0)
        text += (
            f"The true mutual information lies between {information:.2f} and {most:.2f} nats: to see it all takes more than "
            f"{facts.num_points:,} points, and at most about {_points(most)}. "
        )
    return text + "Judge the match by the population bracket."


def _ceiling_name(facts: Facts) -> str:
    same = math.isclose(facts.log_n, math.log(facts.num_points))
    return "log N" if same else "the entropy of their weights, copies taken together,"


def _points(information: float) -> str:
    return f"{math.exp(information):,.0f}" if information < 16 else f"e^{information:.0f} = 10^{information / math.log(10):.0f}"


def _with_errors(bracket: Bracket) -> str:
    """Write the 95 % interval, where there is one, in brackets."""
    low, high = bracket.interval or (None, None)
    return f" (with their errors, {low:.3g} to {high:.3g})" if low is not None and high is not None else ""


def _resolved(facts: Facts, brackets: dict[str, Bracket]) -> str:
    population = brackets["population"]
    low, high = population.lower.value or 0.0, population.upper.value
    if high is None:
        return f"KL[q||p] is at least {low:.3g} nats."
    error = max(population.lower.std_error or 0.0, population.upper.std_error or 0.0)
    if high - low < error:
        return f"KL[q||p] of the population is {0.5 * (low + high):.3g} nats, to a standard error of {error:.1g}."
    text = f"KL[q||p] of the population lies between {low:.3g} and {high:.3g} nats{_with_errors(population)}. "
    if high - low > max(0.1, 0.25 * high, SLACK * error):
        needed = _points((facts.mutual_information.value or 0.0) + 2)
        text += f"More points narrow the gap (for this encoder about {needed}), and so do larger density models."
    return text
