"""The digits of scikit-learn, which come with it: no download, no files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from klprobe.datasets import Dataset, Split, carved, parts
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["Digits"]

HELD_OUT = 5
"""Every fifth image of each class, in file order, is a test image: fixed, stratified, without random numbers.

Every fifth of the whole file would not do: the classes repeat with period ten in parts of it."""


@dataclass(frozen=True)
class Digits(Dataset):
    """scikit-learn's embedded digits: 1,797 grey images of 8 x 8 as vectors in [0, 1], 1,442 train + 355 test."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    downloads: ClassVar[tuple[Download, ...]] = ()

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read the grey levels, 0 to 16, divided by 16: float32, shape (N, 64); `root` is not needed."""
        return carved(self, self._read, split)

    def _read(self, split: Split) -> Data:
        from sklearn.datasets import load_digits

        x, labels = load_digits(return_X_y=True)
        rank = np.empty(len(labels), dtype=int)
        for digit in range(10):
            rank[labels == digit] = np.arange(np.sum(labels == digit))
        is_test = rank % HELD_OUT == HELD_OUT - 1
        order = np.concatenate([np.flatnonzero(is_test == (part == "test")) for part in parts(split)])
        return Data("digits", split, torch.from_numpy(x[order] / 16).float(), torch.from_numpy(labels[order]).long())
