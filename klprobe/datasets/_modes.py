"""Mixtures of equal, narrow 2-D normals, simple data on which lost modes can be counted."""

from __future__ import annotations

import torch

from klprobe.datasets import parts
from klprobe.training.data import Data

SIZES = {"train": 50_000, "test": 10_000}
"""Number of points of each split (ours)."""
SEEDS = {"train": 1, "test": 2}


def load_modes(name: str, split: str, centres: torch.Tensor, std: float) -> Data:
    """Draw points independently from the mixture, always the same ones; the label of a point is its mode.

    Args:
        name, split: Name and split, as in `Data`.
        centres: Means of the modes, shape (modes, 2).
        std: Standard deviation of each mode in each direction.
    """
    xs, labels = [], []
    for part in parts(split):
        rng = torch.Generator().manual_seed(SEEDS[part])
        labels.append(torch.randint(len(centres), (SIZES[part],), generator=rng))
        xs.append(centres[labels[-1]] + std * torch.randn(SIZES[part], 2, generator=rng))
    return Data(name, split, torch.cat(xs), torch.cat(labels))
