"""Data sets, one in each file: here are their base class, the folder that their files lie in, and how a name finds one."""

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

    A data set inherits from this class, and overrides, by a setting or a method, whatever is different for it.
    """

    downloads: ClassVar[tuple[Download, ...]] = ()
    """Files that `klprobe data fetch` downloads."""

    @property
    def path(self) -> str | None:
        """The user's own file or folder, empty until it is named; None for klprobe's own data sets."""
        return None

    @property
    def validation(self) -> int | None:
        """Number of training points kept for the split `validation`; 0 for no such split, None where it has an official one."""
        return 0

    @property
    def strict(self) -> bool | None:
        """Whether one bad file stops the run; None where the data are not image files."""
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
        """Find the file or folder that it is read from; None where it is built in. InputError where it is missing."""
        return None

    def whole(self, root: Path | None = None) -> bool:
        """Whether all of its files are where `locate` looks for them."""
        return True

    def only_reading(self) -> Dataset:
        """The same set, which writes nothing beside its files; for a set that a file has named, and not the user."""
        return self

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read one split.

        Args:
            split: `train`, `test` or `all` of them in this order; `validation` where there is one (`has_validation`).
            root: Folder of the data sets' folders; None means KLPROBE_DATA, then ./data. Embedded sets ignore it.
            progress: Function that is called with how far the work is, where a set takes more than a moment.
        Raises:
            InputError: the split is unknown, or a file is missing or damaged; the message says what to put where.
        """
        raise NotImplementedError


def parts(split: str, known: Sequence[str] = ("train", "test")) -> tuple[str, ...]:
    """List the parts of a data set that make up a split; `all` is all of them in their order."""
    if split == "all":
        return tuple(known)
    if split not in known:
        raise InputError(f"Unknown split {split!r}; known: {', '.join((*known, 'all'))}.")
    return (split,)


def carved(chosen: Any, read: Callable[[Split], Data], split: Split) -> Data:
    """Read a split of a set that has train and test only; its `validation` points, if it has any, are taken from train.

    Args:
        chosen: The data set; its setting `validation` is the number of points.
        read: Function that returns the data of train, test or all.
    Raises:
        InputError: unknown split, or one without points.
    """
    name, count = spec(chosen), chosen.validation
    if count < 0 and split in ("test", "all"):  # the other splits get a message with the whole range
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
    """Whether a set has a split `validation`: an official one, or one taken from its training points."""
    return chosen.validation is None or chosen.validation != 0


def held_out(count: int, every: int, split: str) -> list[int]:
    """List the numbers of a split's points in data without splits: every `every`-th point is for the test, none with 0.

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
    """Find the folder that holds one folder for each data set."""
    return Path(root or os.environ.get("KLPROBE_DATA") or "data")


def folder_with(name: str, files: Sequence[str], root: Path | None, *, fetch: str = "") -> Path:
    """Find the data set's folder with all `files` in it, or raise an error that says which are missing and where to put them.

    Args:
        name: Name of the folder.
        files: Names of the files in it.
        root: Folder of the data sets' folders, as in `Dataset.load`.
        fetch: Sentence that says how to get the files; by default, with `klprobe data fetch`.
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
    """Describe the downloads of one folder, whose files have the same names on each of the `sites`."""
    return tuple(Download(f"{folder}/{file}", tuple(site + file for site in sites), digest) for file, digest in sha256.items())


@dataclass(frozen=True)
class PythonData(Dataset):
    """Data that `package.module:name` names; every tenth point is a test point, unless the data have splits of their own."""

    name: str
    """Name as the user typed it; the code that it names is imported and called."""

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read the points as they are; the channels of images are brought to the front.

        Raises:
            InputError: there is no such module or name, or no data can be made of what it names.
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
    """Whether this is the name of one of klprobe's own data sets, with or without settings."""
    return name.partition(":")[0].replace("_", "-") in registry.names("datasets")


def dataset(name: str) -> Dataset:
    """Find the data set that a user names: `mnist`, a folder of images, .npy or .npz, with settings (`photos:resize=64`).

    It may also be `package.module:name`, code of the user's own, which is imported and called. A name that a file gives goes to
    `klprobe.files.remembered.dataset_of_file` instead.

    Raises:
        InputError: nothing has that name, or the data set does not have that setting.
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
