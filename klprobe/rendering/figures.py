"""The report's figures: every estimate on one axis, KL per dimension, |z| against the prior's, and loss curves.

They are drawn with matplotlib's object API, without windows, pyplot or the user's own matplotlib settings.
"""

from __future__ import annotations

import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from klprobe.estimation.report import Report, finite
from klprobe.printable import visible
from klprobe.rendering import wording
from klprobe.rendering.forest import BLUE, ORANGE, draw_forest
from klprobe.types import RadiusHistogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "text.parse_math": False,  # a dollar sign in a name does not begin a formula
    "svg.hashsalt": "klprobe",  # names inside an SVG file are not random
}
NAMES = ("estimates", "dimensions", "radius", "losses")
LABELLED_LATENTS = 40
"""Largest number of latents for which each bar has its latent's number; more latents are one outline over the rank."""

Curve = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure, its name (one of `NAMES`), a caption, and an alternative text for readers who do not see the figure."""

    name: str
    caption: str
    alt: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """Write the figure as PNG."""
        return self._render("png")

    @cached_property
    def svg(self) -> bytes:
        """Write the figure as SVG; the same report gives the same bytes."""
        return self._render("svg")

    def _render(self, kind: str) -> bytes:
        import matplotlib.style
        from matplotlib.text import Text

        file = io.BytesIO()
        for text in self.figure.findobj(Text):
            if (shown := visible(text.get_text(), lines=True)) != text.get_text():
                text.set_text(shown)
        with matplotlib.style.context(["default", STYLE]):
            self.figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
        return file.getvalue()


def draw(report: Report) -> tuple[Plot, ...]:
    """Draw every figure that this report has the data for."""
    import matplotlib.style
    from matplotlib.figure import Figure

    methods = learned(report)
    with matplotlib.style.context(["default", STYLE]):
        plots = []
        if report.estimates or finite(report.average_kl.value):
            plots.append(_estimates(report, Figure()))
        if report.dimensionwise_kl and any(finite(value) for value in report.dimensionwise_kl):
            plots.append(draw_dimensions(report.dimensionwise_kl, Figure(figsize=(9, 3.6))))
        if report.radius:
            plots.append(draw_radius(report.radius, Figure(figsize=(9, 3.6))))
        if methods:
            plots.append(_losses(methods, Figure()))
    return tuple(plots)


def _estimates(report: Report, figure: Figure) -> Plot:
    draw_forest(report, figure)
    said = "; ".join(f"{target} KL {wording.headline(report, target)}" for target in wording.TARGETS)
    return Plot(
        "estimates",
        "Every estimate of the KL, with the limits that the average KL sets. Where a bound's marker points, the KL lies.",
        f"Dot plot of {len(report.estimates)} estimates with error bars. Brackets: {said}.",
        figure,
    )


def draw_dimensions(values: Sequence[float], figure: Figure) -> Plot:
    """Draw the KL of each latent's marginal from the prior's, the largest first."""
    axes = figure.subplots()
    ranked = sorted(((v, d) for d, v in enumerate(values) if finite(v)), reverse=True)
    heights = [value for value, _ in ranked]
    if len(ranked) <= LABELLED_LATENTS:
        axes.bar(range(len(ranked)), heights, color=BLUE, width=0.7)
        axes.set_xticks(range(len(ranked)), [str(d) for _, d in ranked], fontsize="small" if len(ranked) > 20 else "medium")
        axes.set_xlabel("latent (index, largest KL first)")
        axes.set_xlim(-0.7, max(len(ranked), 8) - 0.3)
    else:
        axes.stairs(heights, fill=True, color=BLUE)
        axes.set_xlabel("latents, largest KL first (rank)")
        axes.set_xlim(0, len(ranked))
    axes.set_ylabel("KL[q_N(z_d) || p(z_d)] (nats)")
    axes.axhline(0, color="black", linewidth=0.8)
    missing = len(values) - len(ranked)
    largest, middle, total = (wording.number(v).value for v in (heights[0], statistics.median(heights), sum(heights)))
    return Plot(
        "dimensions",
        "KL of each latent's own distribution under q_N from its prior."
        + (f" {missing} latents have no finite value and are left out." if missing else ""),
        f"Bar chart of {len(ranked)} latents: the largest, latent {ranked[0][1]}, has {largest} nats, the median {middle}, "
        f"the sum {total}.",
        figure,
    )


def draw_radius(radius: RadiusHistogram, figure: Figure) -> Plot:
    """Draw the density of the length of codes beside the prior's."""
    axes = figure.subplots()
    axes.stairs(radius.posterior, radius.edges, fill=True, color=BLUE, alpha=0.35, label="q_N(z)")
    axes.stairs(radius.posterior, radius.edges, color=BLUE, linewidth=1)
    axes.stairs(radius.prior, radius.edges, color="black", linewidth=1.5, linestyle="--", label="p(z), the prior")
    axes.set_xlabel("|z|, Euclidean distance from the origin")
    axes.set_ylabel("density")
    axes.set_xlim(radius.edges[0], radius.edges[-1])
    axes.set_ylim(bottom=0)
    axes.legend()
    peaks = [_peak(radius.edges, heights) for heights in (radius.posterior, radius.prior)]
    return Plot(
        "radius",
        "Length of codes under q_N against the prior's. Where only the prior has mass, samples decode to nothing the decoder "
        "was trained on.",
        f"Two histograms of |z|: under q_N most codes have length near {peaks[0]:.2g}, under the prior near {peaks[1]:.2g}.",
        figure,
    )


def _peak(edges: Sequence[float], heights: Sequence[float]) -> float:
    top = max(range(len(heights)), key=lambda i: heights[i])
    return (edges[top] + edges[top + 1]) / 2


class Learning(NamedTuple):
    """Loss curves of one estimator by name, and the step whose weights it used."""

    curves: Mapping[str, Curve]
    chosen_step: float | None


def learned(report: Report) -> dict[str, Learning]:
    """Read the curves of each method from details {"curves": {"train": [[step, nats], ...]}, "chosen_step": ...}, if finite."""
    found: dict[str, Learning] = {}
    for estimate in report.estimates:
        recorded = estimate.details.get("curves") or {}
        curves = {name: [(step, loss) for step, loss in points if finite(loss)] for name, points in recorded.items()}
        curves = {name: points for name, points in curves.items() if points}
        if curves:
            found.setdefault(estimate.method, Learning(curves, estimate.details.get("chosen_step")))
    return found


def _losses(methods: Mapping[str, Learning], figure: Figure) -> Plot:
    columns = min(len(methods), 2)
    rows = -(-len(methods) // columns)
    figure.set_size_inches(9, 0.4 + 2.6 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (method, learning) in zip(panels, methods.items(), strict=False):
        _loss_panel(axes, method, learning)
    for axes in panels[len(methods) :]:
        axes.set_visible(False)
    last = {method: list(learning.curves.values())[-1][-1][1] for method, learning in methods.items()}
    said = ", ".join(f"{method} {wording.number(value).value}" for method, value in last.items())
    return Plot(
        "losses",
        "Loss of every learned estimator against training steps. A validation curve that turns up again shows overfitting; the "
        "dotted line marks the step whose weights were used.",
        f"Line charts of training and validation loss. Last values in nats: {said}.",
        figure,
    )


def _loss_panel(axes: Axes, method: str, learning: Learning) -> None:
    looks = {"train": (BLUE, "-", ""), "validation": (ORANGE, "--", ".")}
    for name, points in learning.curves.items():
        colour, line, marker = looks.get(name, ("black", "-.", ""))
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker=marker, markersize=4, label=name)
    if finite(learning.chosen_step):
        axes.axvline(learning.chosen_step, color="black", linestyle=":", linewidth=1, label="used", zorder=0)
    axes.set(title=method, xlabel="step", ylabel="loss (nats)", ylim=_end_of_fit(learning.curves))
    axes.legend(fontsize="small")


def _end_of_fit(curves: Mapping[str, Curve]) -> tuple[float, float]:
    """Vertical limits without the first tenth of the steps, so that the end can be read where a fit starts far off."""
    last = max(step for points in curves.values() for step, _ in points)
    losses = [loss for points in curves.values() for step, loss in points if step >= last / 10]
    low, high = min(losses), max(losses)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
