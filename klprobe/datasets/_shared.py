"""What every data set gives, and where its files lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch

from klprobe.datasets._augment import Augment
from klprobe.downloads import Download
from klprobe.printable import short
from klprobe.registry import spec
from klprobe.training import Batch
from klprobe.types import InputError, Progress, no_progress

Split = Literal["train", "validation", "test", "all"]
SHARE_OF_DEVICE = 0.5
"""Of a GPU's free memory that data may take; the rest is for the networks."""


class Dataset(Protocol):
    """One data set: a frozen dataclass of settings with default values, first in its file's `__all__`.

    A set that lies in files also has `locate(root)`: the file or folder that it is read from, InputError where it is missing.
    """

    downloads: ClassVar[tuple[Download, ...]]
    """What `klprobe data fetch` gets."""

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read one split.

        Args:
            split: `train`, `test` or `all` of them in this order; `validation` where there is one (`has_validation`).
            root: Folder of the data sets' folders; None means KLPROBE_DATA, then ./data. Embedded sets ignore it.
            progress: Told how far the work is, where a set takes more than a moment.
        Raises:
            InputError: unknown split, or a file that is missing or damaged; the message says what to put where.
        """


@dataclass(frozen=True)
class Data:
    """A data set in memory, or mapped from a file, as small as it comes: bytes stay bytes until a batch is made of them.

    Attributes:
        name: Command-line name, settings included.
        split: Which part of it.
        stored: uint8 (0 to 255, made [0, 1] by `floats`), or any other number (taken as it is), shape (N, ...).
        labels: int64, shape (N,), or None.
        tint: Colours that grey images are seen in, float32, shape (N, 3); None: as they are stored.
        augment: What happens to the images of a mini-batch, and nowhere else.
        notes: What the user should know, such as files left out; one sentence each.
        device: Where batches go; None means where the data are.
    """

    name: str
    split: str
    stored: torch.Tensor
    labels: torch.Tensor | None = None
    tint: torch.Tensor | None = None
    augment: Augment | None = None
    notes: tuple[str, ...] = ()
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one data point."""
        stored = tuple(self.stored.shape[1:])
        return stored if self.tint is None else (3, *stored[1:])

    @property
    def x(self) -> torch.Tensor:
        """All points at once, shape (N, *shape)."""
        return self.points(slice(None))

    def points(self, which: torch.Tensor | slice) -> torch.Tensor:
        """The chosen points, uint8 where they are stored so, shape (m, *shape)."""
        chosen = self.stored[which]
        return chosen if self.tint is None else (chosen * self.tint[which][:, :, None, None]).round().byte()

    def floats(self, which: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The chosen points as float32, uint8 mapped to [0, 1]; shape (m, *shape)."""
        chosen = self.points(which).to(self.device or self.stored.device)
        return chosen / 255 if chosen.dtype == torch.uint8 else chosen.float()

    def batch(self, indices: torch.Tensor) -> Batch:
        """The points at `indices`, shape (m,), as a mini-batch on the device, augmented."""
        here = indices.to(self.stored.device)
        labels = None if self.labels is None else self.labels[here].to(self.device or self.stored.device)
        x = self.floats(here)
        return Batch(x if self.augment is None else self.augment(x, indices), labels)

    def take(self, which: torch.Tensor, split: str) -> Data:
        """The points of these numbers, shape (m,), a copy, as another split."""
        labels, tint = (None if beside is None else beside[which] for beside in (self.labels, self.tint))
        return replace(self, split=split, stored=self.stored[which], labels=labels, tint=tint)

    def to(self, device: torch.device) -> Data:
        """The same data, all of them on another device if they fit, still uint8; else its batches go there one by one."""
        if not fits(self.stored, device):
            return replace(self, device=device)
        labels, tint = (None if beside is None else beside.to(device) for beside in (self.labels, self.tint))
        return replace(self, stored=self.stored.to(device), labels=labels, tint=tint, device=device)


def fits(x: torch.Tensor, device: torch.device) -> bool:
    """Whether the data leave the device enough memory for the work."""
    if device.type != "cuda":
        return True
    return x.numel() * x.element_size() <= SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]


def parts(split: str, known: Sequence[str] = ("train", "test")) -> tuple[str, ...]:
    """The parts of a data set that make up a split; `all` is all of them in their order."""
    if split == "all":
        return tuple(known)
    if split not in known:
        raise InputError(f"Unknown split {split!r}; known: {', '.join((*known, 'all'))}.")
    return (split,)


def carved(chosen: Any, read: Callable[[Split], Data], split: Split) -> Data:
    """A split of a set whose own are train and test, under the set's name: `validation`, where it has some, is kept of train.

    Args:
        chosen: The data set; its setting `validation` is the number of points.
        read: From train, test or all to the data.
    Raises:
        InputError: unknown split, or one without points.
    """
    name, count = spec(chosen), chosen.validation
    if count < 0 and split in ("test", "all"):  # the others say how many there may be
        raise InputError(f"{name} needs validation of at least 0; got {count}.")
    if split in ("test", "all") or (split == "train" and not count):
        return replace(read(split), name=name)
    parts(split, ("train", "validation", "test"))
    if not count:
        raise InputError(f"{name} has no split validation: {name}:validation=1000 keeps 1,000 of its training points for one.")
    whole = read("train")
    if not 0 < count < len(whole):
        raise InputError(
            f"{name} needs validation from 1 to {len(whole) - 1:,}, fewer than the training points; got {short(count)}."
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    kept = order[:count] if split == "validation" else order[count:]
    return replace(whole.take(kept.sort().values, split), name=name)


def has_validation(chosen: Dataset) -> bool:
    """Whether a set has a split `validation`: an official one, or one kept of its training points."""
    return bool(getattr(chosen, "validation", True))


def held_out(count: int, every: int, split: str) -> list[int]:
    """Numbers of the points of a split of a set that has none: every so many-th is a test point, or none with `every` = 0.

    Raises:
        InputError: unknown split, or one without points.
    """
    if split == "all":
        return list(range(count))
    if every < 0 or every == 1:
        raise InputError(f"held_out is 0, for no test points, or at least 2; got {short(every)}.")
    test = set(range(every - 1, count, every)) if every else set()
    which = {"test": sorted(test), "train": [i for i in range(count) if i not in test]}[parts(split)[0]]
    if not which:
        raise InputError(
            f"Of {count} points with held_out={short(every)}, none is left to {split}: give a smaller held_out, at least 2."
        )
    return which


def data_root(root: Path | None) -> Path:
    """Folder of the data sets' folders."""
    return Path(root or os.environ.get("KLPROBE_DATA") or "data")


def folder_with(name: str, files: Sequence[str], root: Path | None, *, fetch: str = "") -> Path:
    """The data set's folder with all `files` in it, or an error that says what is missing and where it goes.

    Args:
        name: Of the folder.
        files: In it.
        root: As in `Dataset.load`.
        fetch: How else to come by them; by default `klprobe data fetch` does.
    """
    folder = data_root(root) / name
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{name} is read from {folder.resolve()}, which lacks {', '.join(missing)}. "
            f"Put the original files there ({fetch or f'klprobe data fetch {name} does it'}), "
            f"or point --data-root (or KLPROBE_DATA) to the folder that holds {name}/."
        )
    return folder


def downloads(folder: str, sites: Sequence[str], sha256: Mapping[str, str]) -> tuple[Download, ...]:
    """The files of one folder, which every one of the `sites` has under the same names."""
    return tuple(Download(f"{folder}/{file}", tuple(site + file for site in sites), digest) for file, digest in sha256.items())
