"""One normal distribution, whose mean and covariance are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from klprobe.datasets import Dataset, Split, carved, parts
from klprobe.distributions.problems import Gaussian, paper_gaussian
from klprobe.files.downloads import Download
from klprobe.printable import short
from klprobe.registry import spec
from klprobe.training.data import Data
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Gaussians"]

SIZES = {"train": 50_000, "test": 10_000}
"""Number of points of each split (ours)."""
MOST = 4096
"""Largest dimension: W takes 80 d^2 bytes, and the points take 240,000 d."""
SEEDS = {"train": 1, "test": 2}


@dataclass(frozen=True)
class Gaussians(Dataset):
    """N(b, W^T W), W of shape (10 d, d), entries N(0, 1), d = 2 (gaussians:dim=100): 50,000 train + 10,000 test points.

    Reference: DMVI section 5, which leaves the laws of W and b open; these are klprobe's.
    """

    dim: int = 2
    """Dimension d of the data."""
    seed: int = 0
    """Seed that W and b are drawn with."""
    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    downloads: ClassVar[tuple[Download, ...]] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= MOST:
            raise InputError(f"gaussians needs dim of at least 1 and at most {MOST:,}; got {short(self.dim)}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"gaussians needs seed from 0 to 2^32 - 1; got {short(self.seed)}.")

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Draw the points, always the same ones: float32, shape (N, dim); `root` is not needed."""
        return carved(self, self._read, split)

    def _read(self, split: Split) -> Data:
        law, draws = self.distribution, []
        mean, factor = law.loc.float(), law.scale_tril.float()
        for part in parts(split):
            rng = torch.Generator().manual_seed(2 * self.seed + SEEDS[part])
            draws.append(mean + torch.randn(SIZES[part], self.dim, generator=rng) @ factor.T)
        return Data(spec(self), split, torch.cat(draws))

    @property
    def distribution(self) -> Gaussian:
        """The distribution that the points are drawn from, float64."""
        return paper_gaussian(self.dim, generator=torch.Generator().manual_seed(self.seed))
