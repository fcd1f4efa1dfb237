"""What the records say of each estimator, D and true KL, over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]
POINT = (
    ("mean-logit", "population", "none"),
    ("kl", "population", "none"),
    ("kl", "population", "lower"),
    ("kl", "population", "upper"),
)
"""The estimate that a method is judged by: its first of these. Density models have a lower bound alone, closed-form an upper
bound alone, and monte-carlo, exact for its own points, an upper and a lower one."""
LOWER = (
    ("donsker-varadhan", "population", "lower"),
    ("kl", "population", "lower"),
    ("leave-one-out", "population", "lower"),
)
"""Its lower bound of the population's KL."""
ERRORS = 4.0
"""Reported errors by which a bound may lie above the truth by chance."""


class Number(NamedTuple):
    """Means over the seeds.

    Attributes:
        bias: Mean of value - truth, in nats.
        spread: Standard deviation of the values over the seeds; None for one seed.
        said: Mean of the errors that were reported.
    """

    bias: float
    spread: float | None
    said: float


class Cell(NamedTuple):
    """One estimator at one D and one true KL.

    Attributes:
        point, lower: None where it gave none.
        seeds: Runs that gave an answer.
        failed: Why there is none, of the first run that failed.
        seconds: Median of CPU, over the runs that gave an answer.
    """

    point: Number | None
    lower: Number | None
    seeds: int
    failed: str | None
    seconds: float | None

    @property
    def bound_broken(self) -> bool:
        """The lower bound lies above the truth by more than chance."""
        return self.lower is not None and self.lower.bias > ERRORS * self.lower.said / math.sqrt(self.seeds)


Grid = dict[tuple[str, int, float], Cell]


def grid(records: Iterable[Record]) -> Grid:
    """All cells that have a record."""
    runs: dict[tuple[str, int, float], list[Record]] = {}
    for record in records:
        runs.setdefault((record["method"], record["dim"], record["kl"]), []).append(record)
    return {key: _cell(found) for key, found in runs.items()}


def _cell(runs: list[Record]) -> Cell:
    answered = [run for run in runs if not run["failed"]]
    failed = next((run["failed"] for run in runs if run["failed"]), None)
    seconds = statistics.median(run["cpu_seconds"] for run in answered) if answered else None
    return Cell(_number(answered, POINT), _number(answered, LOWER), len(answered), failed, seconds)


def _number(runs: list[Record], kinds: tuple[tuple[str, str, str], ...]) -> Number | None:
    found = [e for run in runs if (e := _first(run["estimates"], kinds)) is not None]
    if not found:
        return None
    values = [e["value"] for e in found]
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Number(statistics.mean(values) - runs[0]["kl"], spread, statistics.mean(e["std_error"] for e in found))


def _first(estimates: list[dict[str, Any]], kinds: tuple[tuple[str, str, str], ...]) -> dict[str, Any] | None:
    by_kind = {(e["quantity"], e["target"], e["bound"]): e for e in estimates}
    return next((by_kind[kind] for kind in kinds if kind in by_kind), None)


def page(cells: Grid, methods: Iterable[str], dims: Iterable[int], kls: Iterable[float], head: str) -> str:
    """Markdown: estimate, bound and time of every cell."""
    methods, dims, kls = list(methods), list(dims), list(kls)

    def table(say: Callable[[Cell], str]) -> str:
        lines = [f"| estimator | D | {' | '.join(f'{kl:g} nats' for kl in kls)} |", "|---" * (2 + len(kls)) + "|"]
        for method in methods:
            for dim in dims:
                row = [cells.get((method, dim, kl)) for kl in kls]
                if any(row):
                    lines.append(f"| {method} | {dim} | {' | '.join('' if c is None else say(c) for c in row)} |")
        return "\n".join(lines)

    return f"""# Every estimator at 1 to 1000 latents and 0 to 100 nats

{head}

## Estimate minus true KL

Mean over the seeds ± their standard deviation, and in brackets the mean of the errors that were reported, in nats.

{table(lambda c: _said(c, c.point))}

## Lower bound minus true KL

In the same form; **bold** where it lies above the truth by more than {ERRORS:g} reported errors of its mean.

{table(lambda c: f"**{_said(c, c.lower)}**" if c.bound_broken else _said(c, c.lower))}

## Seconds of CPU, median

{table(lambda c: "" if c.seconds is None else f"{c.seconds:.1f}")}

## No answer

{_failures(cells, methods, dims, kls) or "None."}
"""


def _failures(cells: Grid, methods: list[str], dims: list[int], kls: list[float]) -> str:
    """One line for each reason that an estimator gave at one D."""
    told: dict[tuple[str, int, str], list[float]] = {}
    for method in methods:
        for dim in dims:
            for kl in kls:
                cell = cells.get((method, dim, kl))
                if cell is not None and cell.failed:
                    told.setdefault((method, dim, cell.failed), []).append(kl)
    return "\n".join(
        f"- {method} at D = {dim}, {', '.join(f'{kl:g}' for kl in at)} nats: {why}" for (method, dim, why), at in told.items()
    )


def _said(cell: Cell, number: Number | None) -> str:
    if number is None:
        return "no answer" if cell.failed else "none"
    spread = "" if number.spread is None else f" ± {number.spread:.2g}"
    return f"{_signed(number.bias)}{spread} ({number.said:.1g})"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) < 1 else f"{value:+.3g}"
