"""Draw data points as PNG: images and square vectors as a grid of tiles, points of the plane as a scatter plot."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from klprobe.files.images import has_picture, square_side
from klprobe.printable import visible
from klprobe.training.checkpoint import Checkpoint
from klprobe.training.trained import TrainedSystem
from klprobe.types import InputError

GAP = 1
"""Number of pixels between two tiles."""
SHOWN = 64
"""Number of data points in a picture that is drawn during training."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Colours of sets of points, which colour-blind readers can tell apart too (Okabe and Ito 2008)."""
LEAST_SIDE = 28
"""Side in pixels below which tiles are enlarged by a whole factor."""


def save_rows(path: Path, rows: Mapping[str, torch.Tensor]) -> None:
    """Draw several sets of data points into one PNG, written whole or not at all.

    Args:
        path: Path of the PNG file; its folder is made where it is missing.
        rows: Sets by name, each of shape (n, *shape), with values in [0, 1] for images (C, H, W) and square vectors. As
            tiles, the i-th points of all sets lie below each other; points of the plane have one colour for each set.
    Raises:
        InputError: data of this shape cannot be drawn, or the file cannot be written.
    """
    sets = [points.detach().float().cpu() for points in rows.values()]
    shape = tuple(sets[0].shape[1:])
    content = _scatter(dict(zip(rows, sets, strict=True))) if shape == (2,) else png(_tiles([_images(s, shape) for s in sets]))
    draft = path.with_name(path.name + ".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"The picture {path} cannot be written ({error}).") from error


def tiled(points: torch.Tensor) -> NDArray[np.uint8]:
    """Join images or square vectors, shape (n, *shape), to one image of tiles, shape (height, width, 3) or (height, width).

    Raises:
        InputError: data of this shape are no tiles.
    """
    return _tiles([_images(points.detach().float().cpu(), tuple(points.shape[1:]))])


def sampled_rows(system: TrainedSystem, num: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw about `num` samples for `save_rows`, as one set for every class where there are classes."""
    if "labels" not in system.capabilities:
        return {"samples": system.sample(num, generator=generator)}
    classes = system.classes
    points = system.sample(max(1, num // classes) * classes, generator=generator)
    return {f"class {c}": points[c::classes] for c in range(classes)}


def painter(name: str, algorithm: Any, data: Any, out: Path, seed: int, device: str) -> Callable[[int, nn.ModuleDict], None]:
    """Make the function that `klprobe.training.loop.train` calls: it draws samples and reconstructions into `out`."""
    x = data.floats(slice(0, SHOWN)).to(device)
    labels = data.labels[:SHOWN] if "labels" in algorithm.capabilities and data.labels is not None else None

    def paint(step: int, networks: nn.ModuleDict) -> None:
        rng = torch.Generator(device).manual_seed(seed)  # the same codes every time, so that pictures can be compared
        system = TrainedSystem(Checkpoint(algorithm, networks, {"system": name}), device)
        save_rows(out / f"samples-{step:07d}.png", sampled_rows(system, SHOWN, rng))
        if "encode" in system.capabilities:
            again = system.reconstruct(x, labels, rng)
            save_rows(out / f"reconstructions-{step:07d}.png", {"data": x, "reconstructions": again})

    return paint


def _images(points: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if not has_picture(shape):
        raise InputError(
            f"Data points of shape {shape} have no picture: images, vectors that fill a square, and points of the plane do."
        )
    images = points if len(shape) == 3 else points.reshape(-1, 1, square_side(shape[0]), square_side(shape[0]))
    enlarged = math.ceil(LEAST_SIDE / images.shape[-1])
    return images.repeat_interleave(enlarged, -1).repeat_interleave(enlarged, -2)


def _tiles(sets: list[torch.Tensor]) -> NDArray[np.uint8]:
    num, channels, height, width = sets[0].shape
    columns = math.ceil(math.sqrt(num * len(sets)))
    blocks = math.ceil(num / columns)
    canvas = torch.ones(channels, blocks * len(sets) * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for s, images in enumerate(sets):
        for i, image in enumerate(images):
            row, column = (i // columns) * len(sets) + s, i % columns
            top, left = row * (height + GAP), column * (width + GAP)
            canvas[:, top : top + height, left : left + width] = image
    pixels = (canvas.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels[:, :, 0] if channels == 1 else pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Write a PNG file with these pixels, shape (height, width, 3) or (height, width), as bytes."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _scatter(sets: Mapping[str, torch.Tensor]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLOURS)
    for name, points in sets.items():
        axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=4, alpha=0.6, label=visible(name))
    axes.set(xlabel="first coordinate", ylabel="second coordinate")
    axes.set_aspect("equal")
    for text in axes.legend(loc="upper right").get_texts():
        text.set_parse_math(False)  # a dollar sign in a name does not begin a formula
    file = BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
