"""Street View House Numbers, cropped digits, from the two original MATLAB files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from klprobe.datasets import Dataset, Split, carved, downloads, folder_with, parts
from klprobe.files.downloads import Download
from klprobe.training.data import Data
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Svhn"]


@dataclass(frozen=True)
class Svhn(Dataset):
    """Street View House Numbers, cropped: 73,257 + 26,032 colour images of 32 x 32 (Netzer et al. 2011)."""

    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    downloads: ClassVar[tuple[Download, ...]] = downloads(
        "svhn",
        ("https://ufldl.stanford.edu/housenumbers/", "http://ufldl.stanford.edu/housenumbers/"),
        {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
    )

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read `root`/svhn/{train,test}_32x32.mat; uint8, shape (N, 3, 32, 32); digit 0, which is class 10 there, is 0."""
        return carved(self, lambda part: self._read(part, root), split)

    def _read(self, split: Split, root: Path | None) -> Data:
        files = [f"{part}_32x32.mat" for part in parts(split)]
        folder = folder_with("svhn", files, root)
        images, labels = zip(*(_read(folder / file) for file in files), strict=True)
        return Data("svhn", split, torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))

    def locate(self, root: Path | None = None) -> Path:
        """The folder of the two files."""
        return folder_with("svhn", ["train_32x32.mat", "test_32x32.mat"], root)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, shape (n, 3, 32, 32), and digits, shape (n,), of a file: X of shape (32, 32, 3, n), y of shape (n, 1)."""
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # a damaged file fails in any way at all
        raise InputError(f"{path} is damaged, or is not a MATLAB file ({error}): fetch it again.") from error
    images, labels = found.get("X"), found.get("y")
    if (
        images is None
        or labels is None
        or images.dtype != np.uint8
        or labels.dtype.kind not in "uif"
        or images.shape != (32, 32, 3, labels.size)
    ):
        held = ", ".join(f"{name} {found[name].dtype} {found[name].shape}" for name in ("X", "y") if name in found) or "neither"
        raise InputError(f"{path} needs X, uint8 of shape (32, 32, 3, n), and y, n labels; it holds {held}.")
    digits = labels.reshape(-1).astype(np.int64)
    if digits.size == 0 or digits.min() < 1 or digits.max() > 10:
        raise InputError(f"{path} needs labels 1 to 10, 10 being the digit 0.")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), digits % 10
