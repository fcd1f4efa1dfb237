"""The figures of `klprobe holes`: densities at draws, principal planes, pairs of latents, and what holes decode to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from klprobe.distributions.pairs import Pairs
from klprobe.estimation.holes import Holes
from klprobe.estimation.report import finite
from klprobe.rendering import wording
from klprobe.rendering.figures import STYLE, Plot, draw_dimensions, draw_radius
from klprobe.rendering.forest import BLUE, GREY, ORANGE
from klprobe.rendering.pictures import tiled
from klprobe.types import Quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("densities", "planes", "tsne", "decoded", "radius", "dimensions", "pairs")
SHOWN = 2000
"""Number of draws of each kind in a scatter plot."""
MARKED = 50
"""Number of deepest holes that a scatter plot marks."""
BINS = 80


def draw_holes(
    holes: Holes, decoded: Mapping[str, torch.Tensor] | None = None, embedding: torch.Tensor | None = None
) -> tuple[Plot, ...]:
    """Draw every figure that there are data for.

    Args:
        holes: Result of `find_holes`.
        decoded: Decoded codes by name, each of shape (n, *shape).
        embedding: t-SNE of the first codes, the first prior draws and the deepest holes, from `embed`.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        plots = [_densities(holes, Figure(figsize=(9, 3.6)))]
        if holes.codes.z.shape[1] > 1:
            plots.append(_planes(holes, Figure(figsize=(9, 5) if holes.codes.z.shape[1] >= 4 else (5, 5.5))))
        if embedding is not None:
            plots.append(_tsne(holes, embedding, Figure(figsize=(6, 5.6))))
        if decoded:
            plots.append(_decoded(decoded, Figure()))
        plots.append(draw_radius(holes.radius, Figure(figsize=(9, 3.6))))
        if holes.dimensionwise_kl and any(map(finite, holes.dimensionwise_kl)):
            plots.append(draw_dimensions(holes.dimensionwise_kl, Figure(figsize=(9, 3.6))))
        if holes.pairs is not None:
            plots.append(_pairs(holes.pairs, Figure(figsize=(6.4, 5.2))))
    return tuple(plots)


def percent(share: Quantity) -> str:
    """Write a share as `4.2 ± 0.4 %`."""
    if share.value is None:
        return "not known"
    return f"{wording.number(100 * share.value, 100 * (share.std_error or 0.0))} %"


def _densities(holes: Holes, figure: Figure) -> Plot:
    """Draw histograms of log q_N at draws of q and of p; draws left of the quantile are in a hole."""
    axes = figure.subplots()
    q, p = holes.codes.log_q.numpy(), holes.prior_draws.log_q.numpy()
    low = min(np.quantile(q, 0.001), np.quantile(p, 0.005))
    high, below = max(q.max(), p.max()), holes.threshold - low
    width = (high - low) / BINS
    left = np.linspace(low, holes.threshold, 1 + max(1, round(below / width)))  # the quantile is the edge of a bin
    edges = np.concatenate([left, np.linspace(holes.threshold, high, 1 + max(1, round((high - left[-1]) / width)))[1:]])
    for scores, colour, line, label in ((q, BLUE, "-", "codes, z ~ q"), (p, "black", "--", "draws of the prior, z ~ p")):
        heights = np.histogram(scores, edges)[0] / (len(scores) * np.diff(edges))
        axes.stairs(heights, edges, color=colour, linestyle=line, linewidth=1.5, label=label, fill=False)
        if scores is p:
            axes.stairs(heights[: len(left) - 1], left, fill=True, color=ORANGE, alpha=0.5, label="draws in holes")
    axes.axvline(holes.threshold, color=GREY, linewidth=1, linestyle=":")
    axes.annotate(
        f" {100 * holes.level:g} % quantile\n of the codes",
        (holes.threshold, 0.98),
        xycoords=("data", "axes fraction"),
        va="top",
    )
    axes.set(xlabel="log q_N(z), nats: how usual a place is for codes", ylabel="density", xlim=(low, edges[-1]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return Plot(
        "densities",
        "How dense codes are around draws of q and of the prior; each code is scored without its own data point. Prior draws "
        f"left of the dotted line lie in holes: {percent(holes.share)} of them, against {100 * holes.level:g} % of the codes.",
        f"Two histograms of log q_N(z). {percent(holes.share)} of the prior's draws lie below {holes.threshold:.3g} nats, the "
        f"{100 * holes.level:g} % quantile of the codes.",
        figure,
    )


def _planes(holes: Holes, figure: Figure) -> Plot:
    """Draw codes and prior draws in the plane in which codes spread most, and in the one in which they spread least."""
    codes, prior = holes.codes.z.numpy(), holes.prior_draws.z.numpy()
    vectors, spread = _directions(codes, prior)
    planes = {"where codes spread most" if codes.shape[1] > 2 else "all of the latent space": [0, 1]}
    if codes.shape[1] >= 4:
        planes["where codes spread least"] = [-2, -1]
    parts = codes[:SHOWN], prior[:SHOWN], holes.deepest(MARKED).z.numpy()
    panels = figure.subplots(1, len(planes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, which) in zip(panels, planes.items(), strict=True):
        _scatter(axes, *((part - prior.mean(0)) @ vectors[:, which] for part in parts))
        across, up = (f"spread of codes {spread[k]:.2f}, of the prior 1" for k in which)
        axes.set(title=name, xlabel=across, ylabel=up)
        axes.set_box_aspect(1)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, markerscale=2)
    return Plot(
        "planes",
        "Codes, draws of the prior and the deepest holes, seen in principal planes: where codes spread most beside the prior, "
        "and where they spread least. What is a hole in many latents need not look like one in two.",
        f"Scatter plots of {len(parts[0])} codes and as many draws of the prior in principal planes.",
        figure,
    )


def _directions(codes: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions of the codes in units of the prior's spread, widest first, and the codes' spread there."""
    spread = prior.std(0)
    variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov((codes / spread).T)))
    return vectors[:, ::-1] / spread[:, None], np.sqrt(variances[::-1].clip(min=0))


def embed(holes: Holes, seed: int) -> torch.Tensor:
    """t-SNE of the codes, the prior's draws and the deepest holes that a scatter plot shows, shape (m, 2)."""
    from sklearn.manifold import TSNE

    z = torch.cat([holes.codes.z[:SHOWN], holes.prior_draws.z[:SHOWN], holes.deepest(MARKED).z]).numpy()
    return torch.from_numpy(TSNE(random_state=seed % 2**32, init="pca").fit_transform(z))


def _tsne(holes: Holes, embedding: torch.Tensor, figure: Figure) -> Plot:
    axes = figure.subplots()
    count = min(SHOWN, len(holes.codes.z))
    _scatter(axes, *(part.numpy() for part in embedding.split([count, count, len(embedding) - 2 * count])))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, markerscale=2)
    return Plot(
        "tsne",
        "t-SNE of the same draws: neighbours stay neighbours, distances and densities mean little.",
        f"t-SNE embedding of {count} codes and as many draws of the prior.",
        figure,
    )


def _scatter(axes: Axes, codes: np.ndarray, prior: np.ndarray, marked: np.ndarray) -> None:
    """Draw points of the plane, each of shape (n, 2)."""
    axes.scatter(prior[:, 0], prior[:, 1], color="black", s=3, alpha=0.35, label="draws of the prior", rasterized=True)
    axes.scatter(codes[:, 0], codes[:, 1], color=BLUE, s=3, alpha=0.35, label="codes", rasterized=True)
    axes.scatter(marked[:, 0], marked[:, 1], color=ORANGE, s=16, marker="x", linewidths=1, label="deepest holes")


def _decoded(decoded: Mapping[str, torch.Tensor], figure: Figure) -> Plot:
    """Draw decoded codes of each kind side by side."""
    figure.set_size_inches(9, 3.3)
    panels = figure.subplots(1, len(decoded), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, points) in zip(panels, decoded.items(), strict=True):
        axes.set_title(name, fontsize=10)
        if tuple(points.shape[1:]) == (2,):
            axes.scatter(*points.T.numpy(), color=BLUE, s=6)
            axes.set_aspect("equal")
            continue
        image = tiled(points)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
    return Plot(
        "decoded",
        "What the decoder makes of codes, of draws of the prior outside holes, and of the deepest holes.",
        f"Grids of decoded points: {', '.join(decoded)}.",
        figure,
    )


def _pairs(pairs: Pairs, figure: Figure) -> Plot:
    axes = figure.subplots()
    shown = pairs.dependence.clone().fill_diagonal_(torch.nan).numpy()
    image = axes.imshow(shown, cmap="cividis", vmin=0)
    names = [str(d) for d in pairs.latents.tolist()]
    step = max(1, len(names) // 16)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.set_yticks(range(0, len(names), step), names[::step])
    axes.set(xlabel="latent", ylabel="latent")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="dependence (nats)")
    i, j, _, dependence = max(pairs.ranked(), key=lambda pair: pair[3])
    return Plot(
        "pairs",
        "What each pair of latents has of KL beyond its two latents alone: their dependence under q_N, none under the prior.",
        f"Heat map over {len(names)} latents. The most dependent pair is {i} and {j}, with {wording.number(dependence).value} "
        "nats.",
        figure,
    )
