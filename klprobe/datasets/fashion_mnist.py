"""Fashion-MNIST, from its four original idx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from klprobe.datasets import Dataset, Split, carved, downloads
from klprobe.datasets._idx import load_idx, locate_idx
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["FashionMnist"]


@dataclass(frozen=True)
class FashionMnist(Dataset):
    """Fashion-MNIST articles of clothing: 60,000 + 10,000 grey images of 28 x 28 (Xiao, Rasul, Vollgraf 2017)."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    flat: bool = False
    """Give the images as vectors of 784 values, for networks without convolutions."""
    downloads: ClassVar[tuple[Download, ...]] = downloads(
        "fashion-mnist",
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    )

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read `root`/fashion-mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; uint8, (N, 1, 28, 28) or (N, 784)."""
        return carved(self, lambda part: load_idx("fashion-mnist", part, root, self.flat), split)

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder of the four files."""
        return locate_idx("fashion-mnist", "all", root)
