"""The user's own arrays, in an .npy, .npz, CSV or Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from klprobe.datasets import Dataset, Split, carved, held_out, parts
from klprobe.files import npy, tables
from klprobe.files.downloads import Download
from klprobe.files.images import channels_first
from klprobe.files.zips import opened
from klprobe.printable import short
from klprobe.registry import spec
from klprobe.training.data import Data, augment
from klprobe.training.levels import BYTE, doubts
from klprobe.types import InputError, Progress, no_progress

__all__ = ["ArrayFile"]

SUFFIXES = (".npy", ".npz", *tables.SUFFIXES)
LABEL_NAMES = ("labels", "y")
BLOCK = 1 << 24
"""Number of values checked at a time."""


@dataclass(frozen=True)
class ArrayFile(Dataset):
    """A .npy, .npz or table of shape (N, ...): its path, as x.npz or x.csv:held_out=0; x_train and x_test, or a tenth held out.

    An .npz may hold labels too, as labels or y, y_train and y_test, and a CSV or Parquet table a column label. Bytes are
    images' 0 to 255; other numbers are taken as they are. An .npy stays memory-mapped when all of it is asked for: held_out=0,
    or split all.
    """

    path: str = ""
    """Path of the file."""
    held_out: int = 10
    """Every held_out-th point is a test point, where the file has no x_train and x_test; with 0 all points are for training."""
    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    scale: int = 0
    """Number that is made 1, as 255 or 4095: values are divided by it. With 0, bytes are divided by 255 and other numbers are
    taken as they are."""
    flip: bool = False
    """Mirror images left to right at random during training."""
    shift: int = 0
    """Largest number of pixels by which images are shifted at random during training."""
    downloads: ClassVar[tuple[Download, ...]] = ()

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read the array: shape (N, C, H, W), channels brought to the front, or (N, ...); `root` is not needed.

        Raises:
            InputError: the file is missing or damaged, has no numbers or not finite ones, or labels do not match.
        """
        return carved(self, self._read, split)

    def _read(self, split: Split) -> Data:
        if self.scale < 0:
            raise InputError(f"array-file needs scale of at least 1, the number that is made 1; got {short(self.scale)}.")
        path = self.locate()
        names = _members(path)
        said: tuple[str, ...] = ()
        apart = {"x_train", "x_test"} <= names
        if apart:
            x = _joined(path, [f"x_{part}" for part in parts(split)])
            labels = _joined(path, [f"y_{part}" for part in parts(split)]) if {"y_train", "y_test"} <= names else None
        elif path.suffix.lower() in tables.SUFFIXES:
            table = tables.read_table(path, path.name)
            x, labels, said = table.values, table.labels, table.notes
        else:
            x = npy.read_file(path, path.name) if path.suffix.lower() == ".npy" else npy.read_sole(path)
            label_name = next((name for name in LABEL_NAMES if name in names), None)
            labels = None if label_name is None else _joined(path, [label_name])
        if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != x.shape[:1]):
            raise InputError(
                f"{path.name} has {len(x)} points but labels {labels.dtype} {labels.shape}: give one integer for each point."
            )
        x = npy.as_data(x, path.name)
        if not x.size:
            raise InputError(f"{path.name} holds nothing: its shape is {x.shape}.")
        _check_finite(x, path.name)
        points = channels_first(torch.from_numpy(x))
        classes = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        which = range(len(points)) if apart else held_out(len(points), self.held_out, split)
        if len(which) < len(points):  # this makes a copy, while the whole array stays where it is
            points, classes = points[which], None if classes is None else classes[which]
        change = augment(tuple(points.shape[1:]), self.flip, self.shift)
        notes = (*said, *doubts(points, self.path, self.scale or (BYTE if points.dtype == torch.uint8 else 1.0)))
        return Data(spec(self), split, points, classes, augment=change, notes=notes, white=self.scale or None)

    def locate(self, root: Path | None = None) -> Path:
        """Path of the file."""
        path = Path(self.path)
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise InputError(
                f"array-file needs a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, as array-file:path=x.npz; got "
                f"{self.path!r}."
            )
        return path


def _members(path: Path) -> set[str]:
    """Names of the arrays in an .npz; empty for other files."""
    if path.suffix.lower() != ".npz":
        return set()
    with opened(path, path.name) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _joined(path: Path, names: Sequence[str]) -> np.ndarray:
    """Join arrays of an .npz, the points of the first, then those of the next."""
    with opened(path, path.name) as archive:
        arrays = [npy.read_member(archive, archive.getinfo(f"{name}.npy"), f"{path.name}: {name!r}") for name in names]
    if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        raise InputError(f"{path.name}: {' and '.join(names)} have shapes {' and '.join(str(a.shape) for a in arrays)}.")
    return np.concatenate(arrays)


def _check_finite(x: np.ndarray, label: str) -> None:
    """Raise InputError at the first point with NaN or infinity; a block at a time, since the array may be a large file."""
    if x.dtype.kind != "f":
        return
    step = max(1, BLOCK // max(1, x[0].size)) if len(x) else 1
    for start in range(0, len(x), step):
        bad = ~np.isfinite(x[start : start + step]).reshape(len(x[start : start + step]), -1).all(1)
        if bad.any():
            raise InputError(
                f"{label} has NaN or infinite numbers, first at point {start + int(bad.argmax())}: repair or remove it."
            )
