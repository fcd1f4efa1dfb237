"""MNIST, from its four original idx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from klprobe.datasets import Dataset, Split, carved
from klprobe.datasets._idx import MNIST, load_idx, locate_idx
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["Mnist"]


@dataclass(frozen=True)
class Mnist(Dataset):
    """MNIST handwritten digits: 60,000 + 10,000 grey images of 28 x 28 (LeCun et al. 1998)."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    flat: bool = False
    """Give the images as vectors of 784 values, for networks without convolutions."""
    downloads: ClassVar[tuple[Download, ...]] = MNIST

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read `root`/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; uint8, (N, 1, 28, 28) or (N, 784)."""
        return carved(self, lambda part: load_idx("mnist", part, root, self.flat), split)

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder of the four files."""
        return locate_idx("mnist", "all", root)
