"""What the image items share: a row's model at each preset, images as they are judged and drawn, and why there are none."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from analyses.bms.image_settings import LARGE, LATENTS, STEPS, Row
from analyses.machinery.cells import Cell, Preset, Record
from analyses.machinery.drawing import save
from klprobe.rendering.pictures import png, tiled

QUICK = {
    "cifar-10": ("cifar-10:partial:validation=5000", 200, 32),
    "celeba": ("celeba", 20, 16),
    LARGE: (LARGE, 10, 16),
}
"""Data, steps and images a step; of CelebA so few that Tables 7 and 8 would take two cores about twelve minutes, half of it for
the IvOM (extrapolated from two steps of five rows on images of noise)."""


def model(preset: Preset, row: Row) -> Cell:
    """A row's system with the paper's settings, and a preset's data, steps and batch; digits stand in when tiny."""
    data, steps, settings = row.data, STEPS[row.data], {"latent_dim": LATENTS}
    if preset == "quick":
        data, steps, settings["batch_size"] = QUICK[data]
    elif preset == "tiny":
        data, steps, settings = "digits", 3, {"latent_dim": 4}
    return {"system": row.system, "dataset": data, "settings": {**row.settings, **settings}, "steps": steps, "seed": 0}


def held_out(preset: Preset) -> str:
    """The split that judges; the quick preset's CIFAR-10 is a part of the data set, whose test images are few."""
    return "validation" if preset == "quick" else "test"


def as_images(x: torch.Tensor) -> torch.Tensor:
    """Images as they are; vectors that fill a square, shape (n, side^2), as images, shape (n, 1, side, side)."""
    return x if x.dim() == 4 else x.unflatten(1, (1, math.isqrt(x.shape[1]), -1))


def tiles(x: torch.Tensor) -> str:
    """Points as one picture of tiles, in base64 of a PNG file."""
    return base64.b64encode(png(tiled(x))).decode()


def strip(x: torch.Tensor) -> str:
    """Points side by side, shape (n, *shape), in base64 of a PNG file."""
    return tiles(torch.cat(list(as_images(x)), -1)[None])


def save_small(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> Path:
    """`save` of a .png with 33 levels a channel: off by 4 of 255 at most, which no one sees, and a third smaller."""
    written = save(path, size, draw)
    with Image.open(written) as figure:
        coarse = figure.convert("RGB").point([min(255, 8 * round(level / 8)) for level in range(256)] * 3)
    coarse.save(written, optimize=True)
    return written


def of_last_preset(records: list[Record]) -> list[Record]:
    """Those of the preset of the last record, of each cell the last one."""
    kept = [record for record in records if record["cell"]["preset"] == records[-1]["cell"]["preset"]]
    return [r for i, r in enumerate(kept) if r["cell"] not in [later["cell"] for later in kept[i + 1 :]]]
