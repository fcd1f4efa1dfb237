"""What every data set gives, where its files lie, and the idx format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from klprobe.training import Batch
from klprobe.types import InputError

Split = Literal["train", "test", "all"]


class Dataset(Protocol):
    """One data set: a frozen dataclass, first in its file's `__all__`."""

    def load(self, split: Split = "train", root: Path | None = None) -> Data:
        """Read one split into memory; `all` is train, then test.

        Args:
            split: `train`, `test` or `all`.
            root: Folder of the data sets' folders; None means KLPROBE_DATA, then ./data. Embedded sets ignore it.
        Raises:
            InputError: unknown split, or a file that is missing or damaged; the message says what to put where.
        """


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        name: Command-line name.
        split: Which part of it.
        x: uint8 (0 to 255, made [0, 1] by `floats`) or float32 (taken as it is), shape (N, C, H, W) or (N, D).
        labels: int64, shape (N,), or None.
    """

    name: str
    split: str
    x: torch.Tensor
    labels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one data point."""
        return tuple(self.x.shape[1:])

    def floats(self, which: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The chosen points as float32, uint8 mapped to [0, 1]; shape (m, *shape)."""
        chosen = self.x[which]
        return chosen / 255 if chosen.dtype == torch.uint8 else chosen

    def batch(self, indices: torch.Tensor) -> Batch:
        """The points at `indices`, shape (m,), as a mini-batch."""
        indices = indices.to(self.x.device)
        return Batch(self.floats(indices), None if self.labels is None else self.labels[indices])

    def to(self, device: torch.device) -> Data:
        """The same data on another device, still uint8 where they are uint8."""
        return replace(self, x=self.x.to(device), labels=None if self.labels is None else self.labels.to(device))


def parts(split: str) -> tuple[str, ...]:
    """The files' parts that make up a split: `all` is train, then test."""
    known = {"train": ("train",), "test": ("test",), "all": ("train", "test")}
    if split not in known:
        raise InputError(f"Unknown split {split!r}; known: {', '.join(known)}.")
    return known[split]


def load_idx(name: str, split: str, root: Path | None) -> Data:
    """A data set in the four original idx files of MNIST, below `root`/`name`.

    Raises:
        InputError: missing or damaged files, or images and labels that do not match.
    """
    prefix = {"train": "train", "test": "t10k"}
    pairs = [(f"{prefix[p]}-images-idx3-ubyte.gz", f"{prefix[p]}-labels-idx1-ubyte.gz") for p in parts(split)]
    folder = _folder(name, [file for pair in pairs for file in pair], root)
    images, labels = [], []
    for image_file, label_file in pairs:
        images.append(read_idx(folder / image_file, dims=3))
        labels.append(read_idx(folder / label_file, dims=1))
        if len(images[-1]) != len(labels[-1]):
            raise InputError(
                f"{folder}: {image_file} holds {len(images[-1])} images but {label_file} {len(labels[-1])} labels: "
                "the two files belong to different sets."
            )
    x = torch.from_numpy(np.concatenate(images)).unsqueeze(1)
    return Data(name, split, x, torch.from_numpy(np.concatenate(labels)).long())


def read_idx(path: Path, dims: int) -> np.ndarray:
    """An uint8 array of `dims` dimensions from a gzipped idx file: magic 0, 0, 8, dims, then the sizes, then the bytes.

    Raises:
        InputError: not gzip, cut short, or another kind of idx file.
    """
    try:
        packed = path.read_bytes()
        if not packed:
            raise EOFError("the file is empty")
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut short ({error}): fetch it again.") from error
    header = 4 + 4 * dims
    if len(content) < header or content[:4] != bytes([0, 0, 8, dims]):
        raise InputError(f"{path} is no idx file of {dims}-dimensional uint8: it starts with bytes {list(content[:4])}.")
    sizes = struct.unpack(f">{dims}I", content[4:header])
    if len(content) - header != math.prod(sizes):
        raise InputError(
            f"{path} promises {' x '.join(map(str, sizes))} = {math.prod(sizes)} bytes but holds {len(content) - header}: "
            "fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def _folder(name: str, files: Sequence[str], root: Path | None) -> Path:
    """The data set's folder with all `files` in it, or an error that says what is missing and where it goes."""
    folder = Path(root or os.environ.get("KLPROBE_DATA") or "data") / name
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{name} is read from {folder.resolve()}, which lacks {', '.join(missing)}. "
            f"Put the original files there, or point --data-root (or KLPROBE_DATA) to the folder that holds {name}/."
        )
    return folder
