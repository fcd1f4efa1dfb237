"""Sentences of a report: numbers with their errors, brackets, verdicts and bounds, in words that a newcomer can read.

Terminal, page and figures all take their sentences from here, so that they cannot contradict each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from klprobe.estimation.report import Report, finite
from klprobe.estimation.verdict import trained_on_them
from klprobe.types import Bound, Bracket, Estimate, Quantity, Side, Target, Verdict

TITLE = "How far is the aggregate posterior q(z) from the prior p(z)?"
UNIT = "KL divergence in nats; 0 is a perfect match."
TARGETS: tuple[Target, ...] = ("population", "empirical")
SYMBOL: dict[Target, str] = {"population": "KL[q||p]", "empirical": "KL[q_N||p]"}
BOUND_NAME: dict[Bound, str] = {"exact": "exact", "lower": "lower", "upper": "upper", "none": "none"}
BOUND_MEANING: dict[Bound, str] = {
    "exact": "estimates the KL itself: the standard error is all its uncertainty.",
    "lower": "lies at or below the KL, apart from its standard error: the truth is this or more.",
    "upper": "lies at or above the KL, apart from its standard error: the truth is this or less.",
    "none": "may err on either side, so it never enters a bracket; its standard error leaves out what the fit missed.",
}
QUANTITY_MEANING = {
    "mean-logit": "the average of the learned log-ratio; for the classifier it is the estimate of Rosca et al. (2018)",
    "donsker-varadhan": "the average of the learned log-ratio, clipped and corrected by Donsker and Varadhan's inequality",
    "nwj": "the average of the learned log-ratio, clipped and corrected by Nguyen, Wainwright and Jordan's inequality",
    "donsker-varadhan-unclipped": "the same without the clip: large ratios spoil it, and its standard error does not show that",
    "nwj-unclipped": "the same without the clip: large ratios spoil it, and its standard error does not show that",
    "leave-one-out": "each code is scored by the mixture of all other points, without the one that it came from",
    "average-kl": "the mean of KL[q(z|x_n)||p(z)] over the points, what a VAE's loss contains",
    "mutual-information": "the information in a code about the data point that it came from, at most log N",
}
VERDICT_MEANING: dict[Verdict, str] = {
    "resolved": "the brackets answer the question",
    "floor-limited": "these points and methods cannot answer the question",
    "methods-disagree": "a lower bound lies above an upper bound, so at least one method is wrong",
    "impossible": "a condition that must hold does not hold: do not use these numbers",
}


PLAIN = str.maketrans(
    {"±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "·": "*", "‖": "||", "…": "...", "—": "-", "\N{EN DASH}": "-"}
)


class Number(NamedTuple):
    """A value and its error as text, rounded alike; `error` is empty when the value is exact or absent."""

    value: str
    error: str

    def __str__(self) -> str:
        return f"{self.value} ± {self.error}" if self.error else self.value


def number(value: float | None, std_error: float | None = 0.0) -> Number:
    """Round to two digits of the standard error; four digits when there is none."""
    if value is None or not math.isfinite(value):
        return Number("-" if value is None else "NaN" if math.isnan(value) else "infinite" if value > 0 else "-infinite", "")
    if std_error is None or not math.isfinite(std_error):
        return Number(_round(value, 4), "unknown")
    if std_error <= 0:
        return Number(_round(value, 4), "")
    decimals = 1 - math.floor(math.log10(std_error))
    if decimals > 5 or max(abs(value), std_error) >= 1e7:
        return Number(_round(value, 4), f"{std_error:.1e}")
    decimals = max(decimals, 0)
    return Number(f"{value:.{decimals}f}", f"{std_error:.{decimals}f}")


def _round(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    return f"{value:.{max(digits - 1 - size, 0)}f}" if -4 <= size < 7 else f"{value:.{digits - 1}e}"


def quantity(q: Quantity) -> str:
    """Write `19.04 ± 0.02`, or `not known (reason)`."""
    if finite(q.value):
        return str(number(q.value, q.std_error))
    if q.value is not None:
        return number(q.value).value
    if q.reason and q.reason.startswith("infinite"):
        return q.reason
    return f"not known ({q.reason})" if q.reason else "not known"


def meaning(report: Report, target: Target) -> str:
    """Say in one phrase what q is."""
    if target == "population":
        return "q averages q(z|x) over the whole population of data: what the encoder does in general"
    return f"q_N averages q(z|x_n) over the {report.num_points:,} points given: what it does on this data set"


def headline(report: Report, target: Target) -> str:
    """Write the bracket in words."""
    return _in_words(report.brackets.get(target), report.verdict)


def _in_words(bracket: Bracket | None, verdict: Verdict) -> str:
    low, high = (_value(bracket.lower), _value(bracket.upper)) if bracket else (None, None)
    if bracket is not None and low is None and str(bracket.lower.reason).startswith("infinite"):
        return "infinite"
    if bracket is None or (low is None and high is None):
        return "not known: no method gave a bound"
    errors = [side.std_error for side in (bracket.lower, bracket.upper) if side.std_error is not None]
    if low is not None and low == high:
        return f"{number(low, max(errors, default=None))} nats"
    floor = max(low or 0.0, 0.0)
    if high is None:
        return f"at least {_ends(floor, None)[0]} nats; no upper bound" if floor else "0 or more nats: no bound above 0"
    below, above = _ends(floor, high)
    if below == above:
        return f"{below} nats"
    close = high - floor < max(errors, default=0.0) if floor else high < 0
    if verdict in ("resolved", "floor-limited") and close:
        return f"about {number((floor + high) / 2, max(errors)).value} nats"
    if floor > high:
        return f"a contradiction: at least {below} and at most {above} nats"
    return f"between {below} and {above} nats" if floor else f"at most {above} nats"


def _value(side: Side) -> float | None:
    return side.value if finite(side.value) else None


def _ends(low: float | None, high: float | None) -> tuple[str, str]:
    """Write both ends with enough digits to differ, three at least; `-` for an end that is not known."""
    ends = "-", "-"
    for digits in (3, 4, 5, 6):
        ends = _end(low, digits), _end(high, digits)
        if ends[0] != ends[1]:
            break
    return ends


def _end(value: float | None, digits: int) -> str:
    return _round(value, digits) if value is not None and math.isfinite(value) else "-"


def sides(report: Report, target: Target) -> str:
    """Write each end of the bracket with its standard error and method, and the interval."""
    bracket = report.brackets.get(target)
    if bracket is None:
        return "no bracket"
    low, high = bracket.lower, bracket.upper
    if low.reason and low.reason == high.reason:
        return low.reason
    if finite(low.value) and (low.value, low.method) == (high.value, high.method):
        parts = [f"{low.method} gives the value itself, not a bound"]
    else:
        parts = [_side("lower", low), _side("upper", high)]
    return "; ".join(parts + ([interval(bracket)] if bracket.interval else []))


def _side(name: str, side: Side) -> str:
    if finite(side.value):
        return f"{name} {number(side.value, side.std_error)} by {side.method}"
    return f"no {name} bound" + (f" ({side.reason})" if side.reason else "")


def interval(bracket: Bracket) -> str:
    """Write `95 % interval 0.66 to 8.44`."""
    low, high = _ends(*(bracket.interval or (None, None)))
    return f"95 % interval {low if low != '-' else '0'} to {high if high != '-' else 'no upper limit'}"


def sets_bracket(report: Report, estimate: Estimate) -> bool:
    """Whether this estimate is an end of its target's bracket."""
    bracket = report.brackets.get(estimate.target)
    return bracket is not None and any(
        (side.value, side.std_error) == (estimate.value, estimate.std_error)
        and estimate.bound in ("exact", name)
        and str(side.method).startswith(estimate.method)
        for name, side in (("lower", bracket.lower), ("upper", bracket.upper))
    )


def main_estimates(report: Report) -> list[Estimate]:
    """All estimates but the unclipped versions of bounds, which are no bounds, and are in the files for comparison."""
    return [e for e in report.estimates if not (e.bound == "none" and e.quantity.endswith("-unclipped"))]


def identity(report: Report) -> str:
    """Write the identity average KL = KL + mutual information, and the size of the problem, in one line."""
    average, information = report.average_kl, report.mutual_information
    if average.value is None and information.value is None and average.reason == information.reason:
        parts = f"average KL and mutual information {quantity(average)}"
    else:
        parts = f"average KL {quantity(average)} = KL[q_N||p] + mutual information {quantity(information)}"
    units = "not known" if report.active_units is None else f"{report.active_units} of {report.latent_dim}"
    plain = math.isclose(report.log_n, math.log(report.num_points), rel_tol=1e-6)
    most = f"log N {report.log_n:.2f}" if plain else f"which copies or weights hold below {report.log_n:.2f}"
    return f"{parts}; {most}; active units {units}"


def holes(report: Report) -> str:
    """Say in a sentence which shares of the prior lie in holes; empty when they are not known."""
    held_out, trained = report.prior_in_holes, report.prior_unlike_codes
    if not finite(held_out.value) and not finite(trained.value):
        return ""
    first = f"{_percent(held_out)} unlike held-out codes (1 % in a perfect match)"
    if not finite(held_out.value):
        first = f"unlike held-out codes not known ({held_out.reason})"
    return f"prior mass in holes: {first}; {_percent(trained)} unlike the codes of these points"


def _percent(share: Quantity) -> str:
    return f"{number(100 * (share.value or 0.0), 100 * (share.std_error or 0.0))} %" if finite(share.value) else "not known"


def source(report: Report) -> str:
    """Describe the input: name, N and D, split, and the prior where the model has one of its own."""
    given = report.provenance
    parts = [str(given["input"])] if given.get("input") else []
    parts += [f"N = {report.num_points:,} points", f"D = {report.latent_dim:,} latents"]
    if given.get("rows"):
        parts.append(f"with {given['rows']}")
    split, trained_on = given.get("split", "unknown"), given.get("trained_on", "unknown")
    if split != "unknown":
        parts.append(f"split {split}")
    trained = trained_on_them(split, trained_on)
    if trained is not None:
        parts.append("with points the encoder was trained on" if trained else "held out from the encoder's training")
    if given.get("held"):
        parts.append(str(given["held"]))
    return ", ".join(parts)


def codebook(report: Report) -> str:
    """Say how evenly the entries of a codebook are used; empty where there is none."""
    usage = report.provenance.get("codebook")
    if not isinstance(usage, dict):
        return ""
    places = f"at {usage['places']:,} places of each point" if usage["places"] > 1 else "one for each point"
    return (
        f"codebook of {usage['entries']:,} entries, {places}: {usage['used']:,} are used and {usage['dead']:,} are dead; "
        f"perplexity {number(usage['perplexity']).value}, where {usage['entries']:,} is all alike; KL to uniform "
        f"{number(usage['kl_to_uniform']).value} nats, whatever the other places hold"
    )


def decomposition(report: Report) -> dict[str, str]:
    """Write the parts of the average KL (Hoffman and Johnson 2016, Chen et al. 2018), by name."""
    dimensions = report.dimensionwise_kl
    known = dimensions is not None and all(map(finite, dimensions))
    total = Quantity(sum(dimensions or ())) if known else Quantity(None, None, report.total_correlation.reason)
    parts = {
        "average KL": report.average_kl,
        "mutual information": report.mutual_information,
        "total correlation": report.total_correlation,
        "dimension-wise KL, summed": total,
    }
    return {name: quantity(part) for name, part in parts.items()}


PARTS_TITLE = "By part, in nats"
PARTS_MEANING = (
    "Each part is q's marginal over those latents, against the same part of p. Where p does not factorise over the parts, "
    "as in a ladder VAE, that is not KL to the model's own prior."
)
CLASSES_MEANING = (
    "Values for classes are sums over all classes, without draws, and exact for the points given; on average the plug-in KL "
    "is above the population's, and the leave-one-out value is below."
)


PARTS_COLUMNS = ("part", "average KL", "mutual information", *(SYMBOL[target] for target in TARGETS))


def parts(report: Report) -> list[tuple[str, ...]]:
    """Make a row for each part under `PARTS_COLUMNS`, with the reason where there are no numbers."""
    rows = []
    for part in report.parts:
        name = f"{part.name} ({part.size:,} {part.kind if part.size > 1 else part.kind.removesuffix('s')})"
        kls = (_in_words(part.brackets.get(target), report.verdict).removesuffix(" nats") for target in TARGETS)
        rows.append(
            (name, quantity(part.average_kl), quantity(part.mutual_information), *kls)
            if part.reason is None
            else (name, f"not known ({part.reason})", "", "", "")
        )
    return rows


def parts_note(report: Report) -> str:
    """Explain the numbers by part."""
    kinds = {part.kind for part in report.parts}
    return " ".join([PARTS_MEANING] + [CLASSES_MEANING] * ("classes" in kinds))


def missing(report: Report) -> dict[str, list[tuple[str, str]]]:
    """List (name, reason) of estimates that are not finite, and of methods that gave no estimate."""
    not_finite = [
        (f"{e.method} {e.quantity}", str(e.details.get("reason", f"the value is {number(e.value).value}")))
        for e in report.estimates
        if not finite(e.value)
    ]
    return {"Not finite": not_finite, "Not done": [(m.method, m.reason) for m in report.not_done]}


def ascii_only(text: str) -> str:
    """Convert the text for a stream that can only show ASCII."""
    return text.translate(PLAIN).encode("ascii", "replace").decode()
