"""The idx format of MNIST and of the data sets like it."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from klprobe.datasets import data_root, downloads, folder_with, parts
from klprobe.training.data import Data
from klprobe.types import InputError

TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""The folder of a set below torchvision's root."""
PREFIX = {"train": "train", "test": "t10k"}
LARGEST = 1 << 28
"""Largest number of bytes of an array; the official ones have up to 47 million."""
MNIST = downloads(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
"""Copies of the original files; the page of LeCun et al. asks that programs do not download from it."""


def locate_idx(name: str, split: str, root: Path | None) -> Path:
    """Find the folder with the files of a split, or raise an error that says which are missing.

    It is `root`/`name`, or where torchvision puts them: `root`/MNIST/raw, also where `root` is that MNIST, or its raw.
    """
    wanted = _names(split)
    here, theirs = data_root(root), TORCHVISION[name]
    places = [here / name, here / theirs / "raw"]
    places += [here / "raw"] * (here.resolve().name == theirs) + [here] * (here.resolve().parts[-2:] == (theirs, "raw"))
    for folder in places:
        if all(_file(folder, file) for file in wanted):
            return folder
    lack = [file for file in wanted if not _file(places[0], file)]
    return folder_with(name, [f"{file}.gz" for file in lack], root)


def _names(split: str) -> list[str]:
    return [f"{PREFIX[part]}-{kind}-ubyte" for part in parts(split) for kind in ("images-idx3", "labels-idx1")]


def _file(folder: Path, name: str) -> Path | None:
    """Find a file as it was published, or unpacked; None where neither is there."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def load_idx(name: str, split: str, root: Path | None, flat: bool = False) -> Data:
    """Read a data set of four idx files as MNIST has them, gzipped or not, below `root`; with `flat` as vectors.

    Raises:
        InputError: missing or damaged files, or images and labels that do not match.
    """
    folder = locate_idx(name, split, root)
    files = [file for found in _names(split) if (file := _file(folder, found))]
    images, labels = [], []
    for image_file, label_file in zip(files[::2], files[1::2], strict=True):
        images.append(read_idx(image_file, dims=3))
        labels.append(read_idx(label_file, dims=1))
        if len(images[-1]) != len(labels[-1]):
            raise InputError(
                f"{folder}: {image_file.name} holds {len(images[-1])} images but {label_file.name} {len(labels[-1])} labels: "
                "the two files belong to different sets."
            )
    x = torch.from_numpy(np.concatenate(images)).unsqueeze(1)
    return Data(name, split, x.flatten(1) if flat else x, torch.from_numpy(np.concatenate(labels)).long())


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read a uint8 array of `dims` dimensions from an idx file, gzipped or not: 0, 0, 8, dims, the sizes, then the values.

    Raises:
        InputError: the file is not gzip, is cut short, or is another kind of idx file.
    """
    try:
        if not path.stat().st_size:
            raise EOFError("the file is empty")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or head[:4] != bytes([0, 0, 8, dims]):
                raise InputError(
                    f"{path} is not an idx file of {dims}-dimensional uint8: it starts with bytes {list(head[:4])}."
                )
            sizes = struct.unpack(f">{dims}I", head[4:])
            promised = math.prod(sizes)
            content = stream.read(min(promised, LARGEST) + 1)  # 1 more, so that gzip reads to its end
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut short ({error}): fetch it again.") from error
    if len(content) != promised:
        held = f"{len(content)}" if len(content) < promised else "more"
        raise InputError(f"{path} promises {' x '.join(map(str, sizes))} = {promised} bytes but holds {held}: fetch it again.")
    if not promised:
        raise InputError(f"{path} holds nothing: it promises {' x '.join(map(str, sizes))} bytes. Fetch it again.")
    return np.frombuffer(content, np.uint8).reshape(sizes)
