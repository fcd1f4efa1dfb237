"""Figure 1 of the paper for one model: average KL, minimal value and every estimate on one axis, with shaded brackets.

Reference: Rosca, Lakshminarayanan, Mohamed (2018), Distribution Matching in Variational Inference, Figure 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from klprobe.estimation.report import Report, finite
from klprobe.rendering import wording
from klprobe.types import NOT_A_KL, Bound, Bracket

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
"""Colours of Okabe and Ito's palette, which suits all kinds of colour vision."""
COLOUR = {"population": ORANGE, "empirical": BLUE}
MARKER: dict[Bound, str] = {"exact": "o", "lower": ">", "upper": "<", "none": "x"}
MARKER_MEANING = {
    "exact": "exact",
    "lower": "lower bound: the KL lies to the right",
    "upper": "upper bound: the KL lies to the left",
    "none": "no bound: the KL may lie on either side",
}
ERRORS_SHOWN = 2
"""Length of an error bar in standard errors, each way."""
FAR = 3
"""Ratio of the average KL to the largest estimate beyond which it becomes an arrow, so that the others can be read."""
WIDE = 20
"""Ratio of the axis's end to the smallest end of a bracket beyond which the axis is logarithmic."""
CLOSED_FORM = "closed-form"
"""Method whose bounds are the two limits at the top of the figure, and are not repeated below."""


class Row(NamedTuple):
    """One line of the figure; a heading has no bound."""

    label: str
    colour: str
    bound: Bound | None = None
    value: float | None = None
    std_error: float | None = None


class Scale(NamedTuple):
    """The axis, from a gutter left of zero to `right`; logarithmic beyond `linear_to` unless that is None."""

    left: float
    right: float
    linear_to: float | None


def draw_forest(report: Report, figure: Figure) -> None:
    """Draw every estimate of the KL with its error bar into an empty figure."""
    groups = [_limits(report), *(_estimates(report, target) for target in wording.TARGETS)]
    rows = [row for group in groups for row in group]
    scale = axis_scale(report, rows)
    figure.set_size_inches(9, 1.6 + 0.27 * len(rows))
    axes = figure.subplots()
    _set_axis(axes, scale, rows)
    for y, row in enumerate(rows):
        _draw_row(axes, y, row, scale)
    top = len(groups[0])
    for row in groups[0][1:]:
        if finite(row.value):
            axes.axvline(row.value, color=GREY, linestyle=":", linewidth=1, zorder=0)
    for target, group in zip(wording.TARGETS, groups[1:], strict=True):
        if target in report.brackets and group:
            _shade(axes, report.brackets[target], (top - 0.4, top + len(group) - 0.5), COLOUR[target], scale)
        top += len(group)
    _legend(figure, report, rows)


def _limits(report: Report) -> list[Row]:
    average = report.average_kl
    if not finite(average.value):
        return []
    minimum = average.value - report.log_n
    return [
        Row("limits from the average KL", GREY),
        Row("average KL", GREY, "upper", average.value, average.std_error),
        Row("minimal value: average KL - log N", GREY, "lower", minimum, average.std_error),
    ]


def _estimates(report: Report, target: wording.Target) -> list[Row]:
    colour = COLOUR[target]
    rows = [
        Row(e.method if e.quantity == "kl" else f"{e.method} {e.quantity}", colour, e.bound, e.value, e.std_error)
        for e in wording.main_estimates(report)
        if e.target == target and e.quantity not in NOT_A_KL and e.method != CLOSED_FORM
    ]
    return [Row(f"{target} {wording.SYMBOL[target]}", colour), *rows] if rows else []


def axis_scale(report: Report, rows: list[Row]) -> Scale:
    """Choose limits that keep the brackets readable beside values a thousand times as large.

    A KL is never negative, so the axis starts in a gutter left of zero. It ends at the largest bound; estimates that are no
    bound, and an average KL far beyond the rest, do not count. An arrow marks a value beyond either edge.
    """
    shown = [row for row in rows if finite(row.value)]
    others = [_reach(row) for row in shown if row.colour != GREY and row.bound != "none"]
    if others and max(others) > 0 and max(map(_reach, shown)) > FAR * max(others):
        shown = [row for row in shown if row.colour != GREY]
    right = max((_reach(row) for row in shown if row.bound != "none"), default=max(map(_reach, shown), default=1.0))
    right = right if right > 0 else 1.0
    sides = [side for b in report.brackets.values() for side in (b.lower, b.upper)]
    ends = [s.value for s in sides if finite(s.value) and s.value > ERRORS_SHOWN * (s.std_error or 0.0)]
    if not ends or right <= WIDE * min(ends):
        return Scale(-0.06 * right, 1.04 * right, None)
    linear_to = 10.0 ** math.floor(math.log10(min(ends)))
    return Scale(-0.4 * linear_to, 1.6 * right, linear_to)


def _reach(row: Row) -> float:
    return (row.value or 0.0) + ERRORS_SHOWN * (row.std_error if finite(row.std_error) else 0.0)


def _set_axis(axes: Axes, scale: Scale, rows: list[Row]) -> None:
    axes.set_xlabel("KL divergence (nats)")
    if scale.linear_to is not None:
        axes.set_xscale("symlog", linthresh=scale.linear_to, subs=range(2, 10))
        axes.set_xlabel(f"KL divergence (nats), logarithmic beyond {scale.linear_to:g}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(scale.left, scale.right)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=row.colour if row.bound is None else "black", fontweight="bold" if row.bound is None else "normal")


def _draw_row(axes: Axes, y: int, row: Row, scale: Scale) -> None:
    beside = axes.get_yaxis_transform()  # x is from 0 (left edge) to 1 (right edge), y in rows
    text = "nats ± standard error" if y == 0 else "" if row.bound is None else str(wording.number(row.value, row.std_error))
    axes.text(1.02, y, text, transform=beside, va="center", fontsize="small")
    if row.bound is None or not finite(row.value):
        return
    if not scale.left <= row.value <= scale.right:
        x, arrow = (0.02, "\N{LEFTWARDS ARROW}") if row.value < scale.left else (0.98, "\N{RIGHTWARDS ARROW}")
        axes.text(x, y, arrow, transform=beside, ha="center", va="center_baseline", color=row.colour, fontsize=14)
        return
    error = ERRORS_SHOWN * row.std_error if finite(row.std_error) else 0.0
    axes.errorbar(row.value, y, xerr=error, fmt=MARKER[row.bound], color=row.colour, markersize=5, capsize=2.5, elinewidth=1.3)


def _shade(axes: Axes, bracket: Bracket, rows: tuple[float, float], colour: str, scale: Scale) -> None:
    """Draw the bracket as a band over its rows, and its interval as a paler one, up to the edge where there is no end."""
    low, high = bracket.lower.value, bracket.upper.value
    if not finite(low) and not finite(high):
        return
    axes.vlines([end for end in (low, high) if finite(end)], *rows, color=colour, alpha=0.6, linewidth=1, zorder=0)
    for ends, alpha in (((low, high), 0.15), (bracket.interval or (low, high), 0.08)):
        left, right = max(ends[0], 0.0) if finite(ends[0]) else 0.0, ends[1] if finite(ends[1]) else scale.right
        hatch = "////" if left > right else None
        axes.fill_betweenx(
            rows, left, right, facecolor=colour, edgecolor=colour, alpha=alpha, linewidth=0, hatch=hatch, zorder=0
        )


def _legend(figure: Figure, report: Report, rows: list[Row]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    used = [bound for bound in MARKER if any(row.bound == bound for row in rows)]
    entries: list[Line2D | Patch] = [
        Line2D([], [], marker=MARKER[bound], linestyle="", color="black", label=MARKER_MEANING[bound]) for bound in used
    ]
    paler = " (paler: its 95 % interval)" if any(b.interval for b in report.brackets.values()) else ""
    entries.append(Patch(facecolor=GREY, alpha=0.3, label=f"bracket{paler}"))
    entries.append(Line2D([], [], marker="|", color="black", label=f"error bar: {ERRORS_SHOWN} standard errors each way"))
    figure.legend(handles=entries, loc="outside lower left", ncols=3, fontsize="small")
