"""The figures and the page of the dimension scaling, from records/dimension_scaling.jsonl alone.

python -m analyses.ours.dimension_scaling_page        # estimates.svg, bounds.svg, seconds.svg and dimension_scaling.md
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.machinery.cells import NO_PAPER
from analyses.machinery.declared import Page
from analyses.ours import dimension_scaling
from analyses.ours.dimension_scaling import LIMIT, RECORDS
from analyses.ours.dimension_scaling_settings import DIMS, KLS
from analyses.ours.dimension_scaling_summary import ERRORS, Cell, Grid, Number, Record, grid, page
from klprobe import registry
from klprobe.rendering.figures import STYLE, Plot
from klprobe.runtime.records import read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HERE = Path(__file__).parent / "results"
Pick = Callable[[Cell], Number | None]
"""Which number of a cell is drawn."""
Bar = Callable[[Number], float]
"""Half the length of its error bar, in nats."""
LOOK = dict(zip(DIMS, (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D")), strict=True))
"""Colour, of Okabe and Ito's palette for all kinds of colour vision, and marker of each D."""
LINEAR, MOST = 0.1, 300.0
"""Nats up to which the axis of differences is linear, and where it ends."""
LEAST = 0.05
"""Seconds that less is drawn as."""
TICKS = (-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100)


def ordered() -> list[str]:
    """Estimators that need both densities, then those that need the prior's, then those that need samples alone."""
    names = registry.names("estimators")
    return sorted(names, key=lambda name: (-len(registry.load("estimators", name).requires), name))


def draw(cells: Grid, methods: Sequence[str], number: Pick, bar: Bar, title: str) -> Figure:
    """One panel for each estimator: a number minus the truth over the true KL, a line for each D."""
    import matplotlib.style
    from matplotlib.figure import Figure

    columns = 4
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(12, 2.5 * -(-len(methods) // columns) + 0.9))
        panels = figure.subplots(-(-len(methods) // columns), columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, method in zip(panels, methods, strict=False):
            _panel(axes, cells, method, number, bar)
        for axes in panels[len(methods) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("nats")
        for axes in panels[max(len(methods) - columns, 0) : len(methods)]:
            axes.set_xlabel("true KL, nats")
            axes.tick_params(labelbottom=True)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(DIMS) + 2)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _panel(axes: Axes, cells: Grid, method: str, number: Pick, bar: Bar) -> None:
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.6)
    axes.set_ylim(-MOST, MOST)
    axes.set_yticks(TICKS, [f"{tick:+g}" if tick else "0" for tick in TICKS])
    axes.tick_params(axis="y", which="minor", left=False)
    axes.axhspan(-LINEAR, LINEAR, color="#eeeeee", zorder=0, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8, zorder=1)
    axes.set_xticks(range(len(KLS)), [f"{kl:g}" for kl in KLS])
    axes.set_title(method)
    for i, (dim, (colour, marker)) in enumerate(LOOK.items()):
        shift = 0.16 * (i - (len(LOOK) - 1) / 2)
        row = [(x + shift, cells.get((method, dim, kl))) for x, kl in enumerate(KLS)]
        shown = [(x, found) for x, cell in row if cell is not None and (found := number(cell)) is not None]
        inside = [(x, found) for x, found in shown if abs(found.bias) < MOST]
        axes.errorbar(
            [x for x, _ in inside],
            [found.bias for _, found in inside],
            [bar(found) for _, found in inside],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1,
            capsize=2,
            label=f"D = {dim}",
        )
        beyond = [(x, math.copysign(0.6 * MOST, found.bias)) for x, found in shown if abs(found.bias) >= MOST]
        axes.plot([x for x, _ in beyond], [y for _, y in beyond], marker, color=colour, markersize=4.5, fillstyle="none")
        missing = [x for x, cell in row if cell is not None and cell.seeds == 0]
        axes.plot(missing, [-0.55 * MOST] * len(missing), "x", color=colour, markersize=6, mew=1.8)
    axes.plot([], [], "x", color="#555555", markersize=6, mew=1.8, label=f"no answer: not done in {LIMIT:g} s, or diverged")
    axes.plot([], [], "o", color="#555555", markersize=4.5, fillstyle="none", label="beyond the axis")


def draw_seconds(cells: Grid, methods: Sequence[str]) -> Figure:
    """Median seconds of CPU for each estimator and D, all KLs and seeds together."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(7, 0.32 * len(methods) + 1.3))
        axes = figure.subplots()
        for i, (dim, (colour, marker)) in enumerate(LOOK.items()):
            axes.plot([], [], marker, color=colour, markersize=5, label=f"D = {dim}")
            for row, method in enumerate(methods):
                tried = [cell.seconds for (name, d, _), cell in cells.items() if (name, d) == (method, dim)]
                took = [seconds for seconds in tried if seconds is not None]
                y = row + 0.15 * (i - 1.5)
                if took:
                    axes.plot(max(statistics.median(took), LEAST), y, marker, color=colour, markersize=5)
                elif tried:
                    axes.plot(LIMIT * 1.35, y, "x", color=colour, markersize=6, mew=1.8)
        axes.axvline(LIMIT, color="black", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="seconds of CPU a fit, median; cross: no answer", xlim=(0.04, 60))
        axes.set_xticks([0.1, 1, 10, LIMIT], ["0.1", "1", "10", f"{LIMIT:g}"])
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=len(DIMS))
    return figure


def head(records: Sequence[Record]) -> str:
    """What the page and nobody by hand says of where it comes from."""
    last = max(records, key=lambda r: r["time"])
    machine = last["machine"]
    return (
        "Made by `python -m analyses.ours.dimension_scaling_page` from records of `python -m analyses.ours.dimension_scaling`. "
        "q = N(m, I) and p = N(0, I), |m|^2 / 2 the true KL. Settings smaller than the package's, so that a fit takes "
        f"{LIMIT:g} s of CPU at most: `dimension_scaling_settings.py`. "
        f"Recorded so far are {len(records)} of {len(dimension_scaling.cells())} cells; an empty "
        "one has not been run, and a number without ± is of one seed. One thread of "
        f"{machine['cores']} cores ({machine['processor']}), {last['time'][:10]}.\n\n"
        "![estimates](estimates.svg)\n\n![lower bounds](bounds.svg)\n\n![seconds](seconds.svg)"
    )


def main() -> None:
    """Write the three figures and the page."""
    records = read_records(RECORDS)
    cells, methods = grid(records), ordered()
    bounding = [m for m in methods if any(cell.lower for (name, *_), cell in cells.items() if name == m)]
    axis = "In the grey band the axis is linear."
    above = f"Estimate minus true KL, nats: mean over the seeds, bars one standard deviation of them. {axis}"
    below = f"Lower bound minus true KL, nats, not to lie above 0: mean over the seeds, bars {ERRORS:g} reported errors. {axis}"
    for name, figure in {
        "estimates": draw(cells, methods, lambda c: c.point, lambda n: n.spread or 0.0, above),
        "bounds": draw(cells, bounding, lambda c: c.lower, lambda n: ERRORS * n.said, below),
        "seconds": draw_seconds(cells, methods),
    }.items():
        (HERE / f"{name}.svg").write_bytes(Plot(name, "", "", figure).svg)
    (HERE / "dimension_scaling.md").write_text(page(cells, methods, DIMS, KLS, head(records)))


def headline() -> str:
    """How many cells there are, and whether a bound of any lies above the truth."""
    records = read_records(RECORDS)
    cells = grid(records)
    broken = sum(cell.bound_broken for cell in cells.values())
    bounds = sum(cell.lower is not None for cell in cells.values())
    said = f"{len(records)} of {len(dimension_scaling.cells())} cells; {broken} of {bounds} lower bounds, means over the seeds,"
    return f"{said} lie above the truth by more than chance. [Page](ours/results/dimension_scaling.md)"


PAGE = Page(
    order=5,
    title="Ours: every estimator by dimension and KL",
    paper=NO_PAPER,
    commands="ours.dimension_scaling, then dimension_scaling_page",
    headline=headline,
    records="dimension_scaling.jsonl",
)


if __name__ == "__main__":
    main()
