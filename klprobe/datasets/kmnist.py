"""Kuzushiji-MNIST, from its four original idx files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from klprobe.datasets import Dataset, Split, carved, downloads
from klprobe.datasets._idx import load_idx, locate_idx
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import Progress, no_progress

__all__ = ["Kmnist"]


@dataclass(frozen=True)
class Kmnist(Dataset):
    """Kuzushiji-MNIST, cursive Japanese characters: 60,000 + 10,000 grey images of 28 x 28 (Clanuwat et al. 2018)."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    flat: bool = False
    """Give the images as vectors of 784 values, for networks without convolutions."""
    downloads: ClassVar[tuple[Download, ...]] = downloads(
        "kmnist",
        ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
        {
            "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
    )

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read `root`/kmnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; uint8, (N, 1, 28, 28) or (N, 784)."""
        return carved(self, lambda part: load_idx("kmnist", part, root, self.flat), split)

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder of the four files."""
        return locate_idx("kmnist", "all", root)
