"""Show records of the synthetic Gaussians as tables and figures: mean and spread over seeds, for each dimension."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from klprobe.rendering.figures import STYLE, Plot
from klprobe.rendering.forest import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
BOUNDS = {"donsker-varadhan": "DV bound", "nwj": "NWJ bound"}
MEANING = {
    "estimate": "Nats, mean ± standard deviation over the seeds. mean logit bounds nothing; DV and NWJ are lower bounds of the "
    "true KL, which no classifier certifies beyond log n of its draws.",
    "minimize": "Nats, mean ± standard deviation over the seeds. estimated: the mean logit, at the start of a classifier that "
    "was trained with both Gaussians fixed, at the end of the one that the second Gaussian learned from.",
}
WIDE = 30.0
"""Ratio of the largest to the smallest true KL beyond which the axis is logarithmic."""


def table(records: Sequence[Record], experiment: str) -> list[tuple[str, ...]]:
    """Make a title row, then one row for each dimension.

    Args:
        records: Records of one experiment with one choice of settings; for `minimize` its estimations too.
        experiment: Name of the experiment, `estimate` or `minimize`.
    """
    return _estimation_table(records) if experiment == "estimate" else _minimisation_table(records)


def _estimation_table(records: Sequence[Record]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("d", "seeds", "true KL", "mean logit", *BOUNDS.values())]
    for dim, runs in _by_dim(records, "estimate"):
        values = [_spread(final(runs, name)) for name in ("mean-logit", *BOUNDS)]
        rows.append((str(dim), str(len(runs)), f"{runs[0]['truth']:.4g}", *values))
    return rows


def _minimisation_table(records: Sequence[Record]) -> list[tuple[str, ...]]:
    names = ("d", "seeds", "true KL at start", "estimated", "true KL at end", "estimated online", "diverged")
    rows: list[tuple[str, ...]] = [names]
    alone = dict(_by_dim(records, "estimate"))
    for dim, runs in _by_dim(records, "minimize"):
        ends = [[run["curve"][name][-1] for run in runs if run["curve"][name]] for name in ("true_kl", "estimate")]
        start = _spread(final(alone.get(dim, []), "mean-logit"))
        diverged = sum(run["diverged"] is not None for run in runs)
        cells = (start, *map(_spread, ends), f"{diverged} of {len(runs)}" if diverged else "none")
        rows.append((str(dim), str(len(runs)), f"{runs[0]['truth']:.4g}", *cells))
    return rows


def remark(records: Iterable[Record]) -> str | None:
    """Warn about classifiers that classify fresh draws worse than chance, if there are any."""
    losses = [record.get("held_out_loss") for record in records if record["experiment"] == "estimate"]
    lost = [loss for loss in losses if loss is not None and loss > math.log(2)]
    if not lost:
        return None
    return (
        f"{len(lost)} of {len(losses)} classifiers tell fresh draws apart worse than a coin does, whose loss is log 2 = 0.693 "
        f"nats (theirs: up to {max(lost):.3g}): what they say means nothing. Try a lower --classifier-lr, or more --steps."
    )


def final(runs: Iterable[Record], quantity: str) -> list[float]:
    """Final values of the estimations, where they are finite."""
    found = [run["estimates"].get(quantity, {}).get("value") for run in runs]
    return [value for value in found if value is not None]


def draw(records: Sequence[Record], experiment: str, title: str) -> Plot:
    """Draw curves over the steps, with one panel for each dimension; arguments as in `table`."""
    import matplotlib.style
    from matplotlib.figure import Figure

    panels = _by_dim(records, experiment)
    alone = dict(_by_dim(records, "estimate"))
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(max(3.2 * len(panels), 5.6), 3.6))
        for axes, (dim, runs) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, dim, runs, alone.get(dim, []), experiment)
        figure.axes[0].set_ylabel("nats")
        entries = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
        handles = {label: handle for panel in entries for handle, label in panel}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3 if experiment == "minimize" else 4)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    dims = ", ".join(str(dim) for dim, _ in panels)
    head, *rows = table(records, experiment)
    said = "; ".join(", ".join(f"{name} {cell}" for name, cell in zip(head, row, strict=True)) for row in rows)
    return Plot(f"synthetic-{experiment}", f"{title}. {MEANING[experiment]}", f"Line charts for d = {dims}: {said}.", figure)


def _panel(axes: Axes, dim: int, runs: Sequence[Record], alone: Sequence[Record], experiment: str) -> None:
    truth = runs[0]["truth"]
    last = max(run["settings"]["steps"] for run in runs)
    if experiment == "minimize":
        _curve(axes, runs, "true_kl", BLUE, "true KL")
        _curve(axes, runs, "estimate", ORANGE, "online estimate")
        axes.axhline(truth, color=BLUE, linestyle="--", linewidth=1, label="true KL at the start")
        if values := final(alone, "mean-logit"):
            label = "estimate at the start, trained alone"
            axes.axhline(statistics.mean(values), color=ORANGE, linestyle="--", linewidth=1, label=label)
        for stop in (run["diverged"]["step"] for run in runs if run["diverged"]):
            axes.axvline(stop, color=GREY, linestyle=":", linewidth=1, label="a run diverged")
    else:
        _curve(axes, runs, "estimate", ORANGE, "mean logit")
        axes.axhline(truth, color=BLUE, linestyle="--", linewidth=1, label="true KL")
        for marker, (name, label) in zip("^v", BOUNDS.items(), strict=True):
            if values := final(runs, name):
                axes.errorbar([last], [statistics.mean(values)], [_std(values)], marker=marker, color=GREY, label=label, ls="")
    _limits(axes, runs, truth, experiment)
    axes.set_xlim(0, 1.03 * last)
    axes.set(title=f"d = {dim}, {len(runs)} seeds" if len(runs) > 1 else f"d = {dim}, one seed", xlabel="step")


def _limits(axes: Axes, runs: Sequence[Record], truth: float, experiment: str) -> None:
    """Vertical limits that show the true KL; an estimate may lie outside of them."""
    values = [value for run in runs for value in run["curve"]["true_kl" if experiment == "minimize" else "estimate"]]
    top, low = max([*values, truth]), min([*values, truth])
    if experiment == "minimize" and top > WIDE * truth:
        axes.set_yscale("log")
        return
    axes.axhline(0, color="black", linewidth=0.6, zorder=0)
    axes.set_ylim(min(1.05 * low if experiment == "estimate" else 0, -0.12 * top), 1.08 * top)


def _curve(axes: Axes, runs: Sequence[Record], name: str, colour: str, label: str) -> None:
    """Draw the mean over the runs that came this far, and one standard deviation to either side."""
    points: dict[int, list[float]] = {}
    for run in runs:
        for step, value in zip(run["curve"]["step"], run["curve"][name], strict=True):
            points.setdefault(step, []).append(value)
    mean, std = [statistics.mean(v) for v in points.values()], [_std(v) for v in points.values()]
    steps = list(points)
    axes.plot(steps, mean, color=colour, linewidth=1.5, label=label)
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _by_dim(records: Iterable[Record], experiment: str) -> list[tuple[int, list[Record]]]:
    found: dict[int, list[Record]] = {}
    for record in records:
        if record["experiment"] == experiment:
            found.setdefault(record["dim"], []).append(record)
    return sorted(found.items())


def _std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    mean = f"{statistics.mean(values):.3g}"
    return f"{mean} ± {_std(values):.2g}" if len(values) > 1 else mean
