"""The figures of `klprobe evaluate`: samples, reconstructions, nearest neighbours, latents and critics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from klprobe.files.images import has_picture
from klprobe.rendering.figures import STYLE, Plot, draw_radius
from klprobe.rendering.forest import BLUE, ORANGE
from klprobe.rendering.pictures import tiled
from klprobe.types import RadiusHistogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("samples", "reconstructions", "neighbours", "latents", "radius", "critic")
SHOWN = 36
"""Number of points in a grid."""
ROWS_AT_ONCE = 5000
CAPTIONS = {
    "samples": "Samples of the model, and held-out data.",
    "reconstructions": "Held-out data, and what the model makes of their codes; the same places in both grids.",
    "neighbours": "Samples, and the training data nearest to each (Euclidean distance of the values): equal pairs are copies.",
}


def draw_evaluation(
    pairs: Mapping[str, Mapping[str, torch.Tensor]], rows: Sequence[Any], radius: RadiusHistogram | None = None
) -> tuple[Plot, ...]:
    """Draw every figure that there are data for.

    Args:
        pairs: For each figure, two sets of points of shape (n, *shape) by their titles.
        rows: Rows of an evaluation; those of the metrics `latents` and `critic` are drawn.
        radius: Histograms of |z| under q and under the prior.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        plots = [
            _grids(name, sets, Figure(figsize=(9, 4.6)))
            for name, sets in pairs.items()
            if all(has_picture(tuple(points.shape[1:])) for points in sets.values())
        ]
        shapes = [row.score.details for row in rows if row.metric == "latents" and "means" in row.score.details]
        if shapes:
            plots.append(_latents(shapes[0], Figure(figsize=(9, 3.8))))
        if radius is not None:
            plots.append(draw_radius(radius, Figure(figsize=(9, 3.6))))
        plots += [_critic(row, Figure(figsize=(9, 3.6))) for row in rows if row.metric == "critic"]
    return tuple(plots)


def nearest(samples: torch.Tensor, training: Any) -> torch.Tensor:
    """Find the training point nearest to each sample, shape of the samples; `training` is a `klprobe.datasets` Data."""
    best, which = torch.full((len(samples),), torch.inf), torch.zeros(len(samples), dtype=torch.int64)
    for start in range(0, len(training), ROWS_AT_ONCE):
        some = training.floats(slice(start, start + ROWS_AT_ONCE)).flatten(1).cpu()
        distance, index = torch.cdist(samples.flatten(1), some).min(1)
        which = torch.where(distance < best, index + start, which)
        best = torch.minimum(best, distance)
    return training.floats(which).cpu()


def _grids(name: str, sets: Mapping[str, torch.Tensor], figure: Figure) -> Plot:
    panels = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, points) in zip(panels, sets.items(), strict=True):
        axes.set_title(title, fontsize=10)
        if tuple(points.shape[1:]) == (2,):
            axes.scatter(*points.T.numpy(), color=BLUE, s=6)
            axes.set(xlabel="first coordinate", ylabel="second coordinate")
            axes.set_aspect("equal")
            continue
        axes.imshow(tiled(points[:SHOWN]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
    return Plot(name, CAPTIONS[name], f"Two grids of points: {', '.join(sets)}.", figure)


def _latents(shape: Mapping[str, Any], figure: Figure) -> Plot:
    """Draw a histogram of the latents' means, and their covariance matrix (AGAN Figs. 11, 12)."""
    means, covariance = np.array(shape["means"]), np.array(shape["covariance"])
    left, right = figure.subplots(1, 2)
    left.hist(means, bins=min(40, max(5, len(means) // 2)), color=BLUE)
    left.axvline(0, color=ORANGE, linestyle="--", label="the prior's")
    left.set(xlabel="mean of a latent over held-out data", ylabel="latents")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left")
    limit = max(1.0, float(np.abs(covariance).max()))
    image = right.imshow(covariance, cmap="PuOr", vmin=-limit, vmax=limit)
    right.set(xlabel="latent", ylabel="latent")
    figure.colorbar(image, label="covariance")
    for axis in (left.yaxis, right.xaxis, right.yaxis):
        axis.get_major_locator().set_params(integer=True)
    off = covariance - np.diag(np.diag(covariance))
    return Plot(
        "latents",
        "Means of the latents and their covariance under q, one code a held-out point; the prior N(0, I) has means 0 and the "
        "unit matrix (AGAN Figs. 11, 12).",
        f"Histogram of {len(means)} means between {means.min():.3g} and {means.max():.3g}; heat map of the covariance, whose "
        f"largest entry off the diagonal is {np.abs(off).max():.3g}.",
        figure,
    )


def _critic(row: Any, figure: Figure) -> Plot:
    """Draw the critics' distance during their training, for the model and for real data in its place (AGAN Fig. 13)."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    known = {"samples": (row.score, BLUE, "o"), "real data": (row.real, ORANGE, "s")}
    sets = {name: look for name, look in known.items() if look[0] is not None}
    for name, (score, colour, marker) in sets.items():
        curves = np.array(score.details["curves"])  # dimensions: critics, checks, and (step, mini-batch, held out)
        for i, curve in enumerate(curves):
            axes.plot(curve[:, 0], curve[:, 1], color=colour, linestyle=":", label=f"{name}, mini-batch" if i == 0 else None)
            line = f"{name}, held out" if i == 0 else None
            axes.plot(curve[:, 0], curve[:, 2], color=colour, marker=marker, markersize=4, label=line)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="steps of a critic", ylabel="E f(data) - E f(samples)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    said = "; ".join(f"{name} {score.value:.3g}" for name, (score, _, _) in sets.items())
    return Plot(
        "critic",
        "Distance between data and samples by two independent Wasserstein critics, on the mini-batch and on points that they "
        "were not trained on; real data: training data in the samples' place. Far apart, the critic learns its points by heart "
        "(AGAN Fig. 13).",
        f"Line chart of the critics' distance against training steps. Last values on held-out points: {said}.",
        figure,
    )
