"""The page analyses/ours/results/ratio_estimators.md, from the records alone.

python -m analyses.ours.ratio_estimators_page
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from analyses.machinery.cells import NO_PAPER
from analyses.machinery.declared import Page
from analyses.ours.ratio_estimators import BEST, GOALS, METHODS, RECORDS, SLOW, headline, table
from klprobe.runtime.records import read_records

Record = dict[str, Any]


def page(records: Sequence[Record]) -> str:
    """Markdown: what was to be reached and was, every method's errors, and what was left out."""
    plain = [r for r in records if not r["settings"]]
    parts = [
        "# KL from samples alone, on pairs of distributions whose KL is known",
        f"Made by `python -m analyses.ours.ratio_estimators_page` from the records of `python -m "
        f"analyses.ours.ratio_estimators`, which says what the cases are. {_made(plain)}",
        "Each fit is of the package's defaults; no method is told a density, nor that a distribution is Gaussian. An error is "
        "estimate minus truth, in nats or as a share of the truth, as the case's goal is. Reported error: the standard error "
        "that the method stated, which covers the draws it is read at and not what the fit missed.",
        "## Goals\n\n" + goals(plain),
        "## All methods\n\n" + table(plain),
        "## Left out\n\n" + "\n".join(f"- {method} at D = {dim}: {why}" for (method, dim), why in SLOW.items()),
    ]
    return "\n\n".join(parts) + "\n"


def goals(records: Sequence[Record]) -> str:
    """One row for each case: the best method's median over its seeds, and what else was tried."""
    lines = ["| case | goal | method | seeds | median | range | reached | CPU s | also tried, median |"]
    lines.append("|---" * 9 + "|")
    for case in GOALS:
        found = {m: _errors([r for r in records if (r["case"], r["method"]) == (case, m)]) for m in METHODS}
        tried = {m: errors for m, errors in found.items() if errors}
        if not tried:
            continue
        best = min((m for m in BEST[case] if m in tried), key=lambda m: (-len(tried[m]), abs(statistics.median(tried[m]))))
        lines.append(_goal(case, best, tried, [r for r in records if (r["case"], r["method"]) == (case, best)]))
    return "\n".join(lines)


def _goal(case: str, best: str, tried: dict[str, list[float]], rows: Sequence[Record]) -> str:
    unit, limit = GOALS[case]
    errors = tried[best]
    reached = "yes" if abs(statistics.median(errors)) <= limit else "no"
    spread = f"{_show(min(errors), unit)} to {_show(max(errors), unit)}"
    others = "; ".join(f"{m} {_show(statistics.median(e), unit)}" for m, e in tried.items() if m != best)
    goal = f"{limit:g} nats" if unit == "nats" else f"{limit:.0%}"
    seconds = statistics.median(r["cpu_seconds"] for r in rows)
    middle = f"{len(errors)} | {_show(statistics.median(errors), unit)} | {spread} | {reached} | {seconds:.0f}"
    return f"| {case} | {goal} | {best} | {middle} | {others} |"


def _errors(rows: Sequence[Record]) -> list[float]:
    found = []
    for row in rows:
        if (e := headline(row)) is not None:
            scale = 1.0 if GOALS[row["case"]][0] == "nats" else row["truth"]
            found.append((e["value"] - row["truth"]) / scale)
    return found


def _show(error: float, unit: str) -> str:
    return f"{error:+.3f}" if unit == "nats" else f"{error:+.1%}"


def _made(records: Sequence[Record]) -> str:
    """When, and on what as far as the records say."""
    dates = sorted({r["time"][:10] for r in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machines = {(r["machine"]["processor"], r["machine"]["cores"]) for r in records if "machine" in r}
    where = (
        "; ".join(f"{processor}, {cores} cores" for processor, cores in sorted(machines)) or "a machine that was not recorded"
    )
    return f"One torch thread of {where}; {when}; torch {records[-1]['versions']['torch']}; seconds of CPU."


def best_of_each() -> str:
    """Each case's best method."""
    plain = [record for record in read_records(RECORDS) if not record["settings"]]
    rows = [line.strip("| ").split(" | ") for line in goals(plain).splitlines()[2:]]
    said = "; ".join(f"{case} {method} {median} ({seeds} seeds)" for case, _, method, seeds, median, *_ in rows)
    return f"{said}. [Page](ours/results/ratio_estimators.md)"


PAGE = Page(
    order=6,
    title="Ratio estimators on known KLs",
    paper=NO_PAPER,
    commands="ours.ratio_estimators, then ratio_estimators_page",
    headline=best_of_each,
    records="ratio_estimators.jsonl",
)


def main() -> None:
    """Write the page."""
    RECORDS.parent.with_name("ratio_estimators.md").write_text(page(read_records(RECORDS)))


if __name__ == "__main__":
    main()
