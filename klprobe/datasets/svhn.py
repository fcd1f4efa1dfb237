"""Street View House Numbers, cropped digits, from the two original MATLAB files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from klprobe.datasets import Dataset, Split, carved, data_root, downloads, folder_with, parts
from klprobe.files.child import Child, Limits
from klprobe.files.confined import Opened
from klprobe.files.downloads import Download
from klprobe.files.plain import check_plain
from klprobe.training.data import Data
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Svhn"]

MOST_IMAGES = 200_000
"""Largest number of images in a file; the official ones have up to 73,257."""
NUMERIC = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double")
"""MATLAB's names of the number types that labels may have; nested cells would crash the reader."""
LIMITS = Limits(memory=3.0)
"""Limits of the process that opens a file, which holds the images, 0.6 GB at most, up to three times."""


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
        folder = _folder(files, root)
        images, labels = zip(*(_read(folder / file) for file in files), strict=True)
        return Data("svhn", split, torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder of the two files."""
        return _folder(["train_32x32.mat", "test_32x32.mat"], root)


def _folder(files: list[str], root: Path | None) -> Path:
    """Find the folder of the files: `root`/svhn, or `root`, where torchvision puts them."""
    here = data_root(root)
    if not (here / "svhn").is_dir() and all((here / file).is_file() for file in files):
        return here
    return folder_with("svhn", files, root)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read images (n, 3, 32, 32) and digits (n,) of a file, which a confined process opens."""
    check_plain(path)
    with Child(open_mat, {"path": str(path)}, label=path.name, limits=LIMITS) as child:
        return child.tensors["images"].numpy(), child.tensors["digits"].numpy()


def open_mat(path: str) -> Opened:
    """Open a file in a confined process: images X of shape (32, 32, 3, n), digits y of shape (n, 1).

    The headers of the file's variables are checked before anything is unpacked.
    """
    from scipy.io import loadmat, whosmat

    try:
        said = {name: (kind, shape) for name, shape, kind in whosmat(path) if name in ("X", "y")}
        held = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(said.items())) or "neither"
        images, labels = said.get("X", ("", ())), said.get("y", ("", ()))
        count = math.prod(labels[1])
        if images != ("uint8", (32, 32, 3, count)) or labels[0] not in NUMERIC or count > MOST_IMAGES:
            raise InputError(
                f"{path} needs X, uint8 of shape (32, 32, 3, n), and y, n labels, n at most {MOST_IMAGES:,}; it holds "
                f"{held[:200]}."
            )
        found = loadmat(path, variable_names=["X", "y"])
        x, digits = found["X"], found["y"].reshape(-1).astype(np.int64)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} takes more memory than its images need: fetch it again.") from error
    except Exception as error:  # a damaged file raises many kinds of errors
        raise InputError(f"{path} is damaged, or no MATLAB file ({str(error)[:200]}): fetch it again.") from error
    if x.dtype != np.uint8 or x.shape != (32, 32, 3, len(digits)):
        raise InputError(f"{path} is damaged: X is not what its header says. Fetch it again.")
    if digits.size == 0 or digits.min() < 1 or digits.max() > 10:
        raise InputError(f"{path} needs labels 1 to 10, 10 being the digit 0.")
    return Opened(
        tensors={
            "images": torch.from_numpy(np.ascontiguousarray(x.transpose(3, 2, 0, 1))),
            "digits": torch.from_numpy(digits % 10),
        }
    )
