"""Eight narrow normals on a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from klprobe.datasets import Dataset, Split, carved
from klprobe.datasets._modes import load_modes
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["Ring"]

MODES, RADIUS, STD = 8, 1.0, 0.01
"""Geometry as usual in the literature; BMS, which uses a ring of 8 modes, does not say its own."""


@dataclass(frozen=True)
class Ring(Dataset):
    """2-D ring: 8 normals of standard deviation 0.01 on the unit circle, 50,000 train + 10,000 test points."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    downloads: ClassVar[tuple[Download, ...]] = ()

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Draw the points, always the same ones, with their modes as labels: float32, shape (N, 2); `root` is not needed."""
        return carved(self, lambda part: load_modes("ring", part, self.centres, STD), split)

    @property
    def centres(self) -> torch.Tensor:
        """Means of the modes, shape (8, 2)."""
        angles = 2 * math.pi * torch.arange(MODES) / MODES
        return RADIUS * torch.stack([angles.cos(), angles.sin()], 1)

    @property
    def std(self) -> float:
        """Standard deviation of a mode in each direction."""
        return STD
