"""MNIST, from its four original idx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klprobe.datasets._shared import Data, Split, load_idx

__all__ = ["Mnist"]


@dataclass(frozen=True)
class Mnist:
    """MNIST handwritten digits: 60,000 + 10,000 grey images of 28 x 28 (LeCun et al. 1998)."""

    def load(self, split: Split = "train", root: Path | None = None) -> Data:
        """Read `root`/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; uint8, shape (N, 1, 28, 28)."""
        return load_idx("mnist", split, root)
