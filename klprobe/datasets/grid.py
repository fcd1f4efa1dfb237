"""Twenty-five narrow normals on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from klprobe.datasets import Dataset, Split, carved
from klprobe.datasets._modes import load_modes
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["Grid"]

TICKS, STD = (-4.0, -2.0, 0.0, 2.0, 4.0), 0.05
"""Coordinates and standard deviation as usual in the literature; BMS, which uses a grid of 25 modes, does not say its own."""


@dataclass(frozen=True)
class Grid(Dataset):
    """2-D grid: 25 normals of standard deviation 0.05 at {-4, -2, 0, 2, 4}^2, 50,000 train + 10,000 test points."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    downloads: ClassVar[tuple[Download, ...]] = ()

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Draw the points, always the same ones, with their modes as labels: float32, shape (N, 2); `root` is not needed."""
        return carved(self, lambda part: load_modes("grid", part, self.centres, STD), split)

    @property
    def centres(self) -> torch.Tensor:
        """Means of the modes, shape (25, 2)."""
        ticks = torch.tensor(TICKS)
        return torch.cartesian_prod(ticks, ticks)

    @property
    def std(self) -> float:
        """Standard deviation of a mode in each direction."""
        return STD
