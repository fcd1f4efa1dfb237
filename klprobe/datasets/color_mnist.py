"""MNIST in colour, made of its four original idx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from klprobe.datasets._shared import Data, Split, load_idx, parts

__all__ = ["ColorMnist"]

CHUNK = 10_000
"""Images coloured at a time: bounds memory, not results."""
PART_NUMBER = {"train": 0, "test": 1}


@dataclass(frozen=True)
class ColorMnist:
    """MNIST digits, each in one random hue: 60,000 + 10,000 colour images of 28 x 28.

    The colour of an image depends on the seed, the part (train or test) and the image's number in it, and on nothing else:
    a hue uniform on the circle, full saturation and value, times the grey level. DMVI and AGAN name Metz et al. (2017) and
    give no recipe; this one is ours.
    """

    seed: int = 0
    """Of the colours."""

    def load(self, split: Split = "train", root: Path | None = None) -> Data:
        """Read `root`/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; uint8, shape (N, 3, 28, 28)."""
        loaded = [load_idx("mnist", part, root) for part in parts(split)]
        x = torch.cat([colour(data.x, hues(len(data), PART_NUMBER[data.split], self.seed)) for data in loaded])
        labels = [data.labels for data in loaded if data.labels is not None]
        return Data("color-mnist", split, x, torch.cat(labels))


def hues(count: int, part: int, seed: int) -> np.ndarray:
    """Hues in [0, 1) of the images 0 to count - 1, float64: each a hash of its own number, whatever `count` is."""
    state = np.arange(count, dtype=np.uint64) + np.uint64((2 * seed + part) % 2**32 << 32)
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the mixing of SplitMix64 (Steele et al. 2014)
        state = (state + np.uint64(0x9E3779B97F4A7C15)) ^ (state >> np.uint64(30))
        state = state * np.uint64(multiplier)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) / 2**53


def colour(grey: torch.Tensor, hue: np.ndarray) -> torch.Tensor:
    """Colour images, uint8, shape (N, 3, H, W), of grey ones (N, 1, H, W) and hues (N,)."""
    offsets = torch.tensor([0.0, 4.0, 2.0])  # of red, green and blue on the circle of six sextants
    sextant = (6 * torch.from_numpy(hue).float()[:, None] + offsets) % 6
    rgb = ((sextant - 3).abs() - 1).clamp(0, 1)[:, :, None, None]
    images = [(g * c).round().byte() for g, c in zip(grey.split(CHUNK), rgb.split(CHUNK), strict=True)]
    return torch.cat(images)
