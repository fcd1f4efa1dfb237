"""One file = one data set; here is what every one of them gives, where its files lie, and the way from a name to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, Protocol

import torch

from klprobe import registry
from klprobe.files.downloads import Download
from klprobe.files.images import channels_first
from klprobe.files.remembered import MODULE
from klprobe.printable import short
from klprobe.registry import spec
from klprobe.runtime.user_code import import_named, is_module
from klprobe.runtime.user_data import made, points_of
from klprobe.training.data import Data
from klprobe.training.levels import BYTE, doubts
from klprobe.types import InputError, Progress, no_progress

Split = Literal["train", "validation", "test", "all"]

EVERY = 10
"""Every point at a multiple of this number is a test point, as with the user's own files."""


class Dataset(Protocol):
    """One data set: a frozen dataclass of settings with default values, first in its file's `__all__`.

    A data set inherits from this class, and overrides, by a setting or a method, what does not hold of it.
    """

    downloads: ClassVar[tuple[Download, ...]] = ()
    """What `klprobe data fetch` gets."""

    @property
    def path(self) -> str | None:
        """The user's own file or folder, empty until she names it; None: the set is klprobe's."""
        return None

    @property
    def validation(self) -> int | None:
        """Training points kept for the split `validation`, 0 for no such split; None: it has an official one."""
        return 0

    @property
    def strict(self) -> bool | None:
        """Whether one bad file stops everything; None: it is no set of image files."""
        return None

    @property
    def centres(self) -> torch.Tensor | None:
        """Means of the modes, shape (modes, D), where they are known."""
        return None

    @property
    def std(self) -> float | None:
        """Standard deviation of a mode in each direction, where it is known."""
        return None

    def locate(self, root: Path | None = None) -> Path | None:
        """The file or folder that it is read from, InputError where that is missing; None: it is built in."""
        return None

    def whole(self, root: Path | None = None) -> bool:
        """Whether all of its files are where `locate` says."""
        return True

    def only_reading(self) -> Dataset:
        """The same set, which writes nothing beside its files: for one that a file has named, not the user."""
        return self

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read one split.

        Args:
            split: `train`, `test` or `all` of them in this order; `validation` where there is one (`has_validation`).
            root: Folder of the data sets' folders; None means KLPROBE_DATA, then ./data. Embedded sets ignore it.
            progress: Told how far the work is, where a set takes more than a moment.
        Raises:
            InputError: unknown split, or a file that is missing or damaged; the message says what to put where.
        """
        raise NotImplementedError


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
    return chosen.validation is None or chosen.validation != 0


def held_out(count: int, every: int, split: str) -> list[int]:
    """Numbers of the points of a split of a data set without splits: every `every`-th point is a test point, or none with 0.

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


@dataclass(frozen=True)
class PythonData(Dataset):
    """What `package.module:name` stands for: a tenth of it, every tenth point, is held out, unless it has splits of its own."""

    name: str
    """As the user typed it: her code is imported and called."""

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Points as they are, images with their channels brought to the front.

        Raises:
            InputError: no such module or name, or nothing that data can be made of.
        """
        found = import_named(self.name, "data set")
        if isinstance(found, type) or not hasattr(found, "load") or isinstance(found, ModuleType):
            found = made(found, self.name)
        if hasattr(found, "load") and not isinstance(found, ModuleType):
            return found.load(split, root, progress)
        points = points_of(found, self.name)
        x, labels = points.fetch(0, points.length)
        which = torch.tensor(held_out(len(x), EVERY, split))
        x, labels = channels_first(x)[which], None if labels is None else labels[which]
        white = BYTE if x.dtype == torch.uint8 else 1.0
        return Data(self.name, split, x, labels, notes=(*points.notes, *doubts(x, self.name, white, settings=False)))


def is_ours(name: str) -> bool:
    """Whether a name is that of a data set of klprobe's, with or without settings."""
    return name.partition(":")[0].replace("_", "-") in registry.names("datasets")


def dataset(name: str) -> Dataset:
    """The data set that a user names: `mnist`, her own folder of images, .npy or .npz, settings after it (`photos:resize=64`).

    Or `package.module:name`, her own code, which is then imported and called. What a file names goes to
    `klprobe.files.remembered.dataset_of_file` instead.

    Raises:
        InputError: nothing by that name, or a setting that it does not have.
    """
    first, colon, settings = name.partition(":")
    if not is_ours(name):
        if colon and Path(name).exists():
            raise InputError(f"{name} has a colon, which separates a data set's settings: rename it, or link to it.")
        if Path(first).exists():
            kind = "image-folder" if Path(first).is_dir() else "array-file"
            return registry.create("datasets", f"{kind}:path={first}{colon}{settings}")
        if MODULE.fullmatch(name) and is_module(name):
            return PythonData(name)
        if Path(first).suffix or len(Path(first).parts) > 1:
            raise InputError(
                f"{short(first)} does not exist: give a data set's name (klprobe data list), a .npy, .npz, .csv or .parquet, "
                "a folder of images, or package.module:dataset."
            )
    return registry.create("datasets", name)
