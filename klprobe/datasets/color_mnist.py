"""MNIST in colour, made of its four original idx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from klprobe.datasets import Dataset, Split, carved, parts
from klprobe.datasets._idx import MNIST, load_idx, locate_idx
from klprobe.files.downloads import Download
from klprobe.registry import spec
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["ColorMnist"]

PART_NUMBER = {"train": 0, "test": 1}


@dataclass(frozen=True)
class ColorMnist(Dataset):
    """MNIST digits, each in one random hue: 60,000 + 10,000 colour images of 28 x 28.

    The colour of an image depends on the seed, the part (train or test) and the image's number in it, and on nothing else:
    a hue uniform on the circle, full saturation and value, times the grey level. DMVI and AGAN name Metz et al. (2017) and
    give no recipe; this one is ours. Images are kept grey, and coloured when a batch is made of them.
    """

    seed: int = 0
    """Seed of the colours."""
    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    downloads: ClassVar[tuple[Download, ...]] = MNIST

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read `root`/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; uint8, shape (N, 3, 28, 28)."""
        return carved(self, lambda part: self._read(part, root), split)

    def _read(self, split: Split, root: Path | None) -> Data:
        loaded = [load_idx("mnist", part, root) for part in parts(split)]
        hue = np.concatenate([hues(len(grey), PART_NUMBER[grey.split], self.seed) for grey in loaded])
        labels = torch.cat([grey.labels for grey in loaded if grey.labels is not None])
        return Data(spec(self), split, torch.cat([grey.stored for grey in loaded]), labels, tint(hue))

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder of MNIST's four files."""
        return locate_idx("mnist", "all", root)


def hues(count: int, part: int, seed: int) -> np.ndarray:
    """Hues in [0, 1) of the images 0 to count - 1, float64; each depends on the image's number alone, not on `count`."""
    state = np.arange(count, dtype=np.uint64) + np.uint64((2 * seed + part) % 2**32 << 32)
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the mixing of SplitMix64 (Steele et al. 2014)
        state = (state + np.uint64(0x9E3779B97F4A7C15)) ^ (state >> np.uint64(30))
        state = state * np.uint64(multiplier)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) / 2**53


def tint(hue: np.ndarray) -> torch.Tensor:
    """Convert hues (N,) to red, green and blue in [0, 1] at full saturation and value, float32, shape (N, 3)."""
    offsets = torch.tensor([0.0, 4.0, 2.0])  # places of red, green and blue on the colour circle, in sixths
    sextant = (6 * torch.from_numpy(hue).float()[:, None] + offsets) % 6
    return ((sextant - 3).abs() - 1).clamp(0, 1)
