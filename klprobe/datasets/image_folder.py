"""The user's own images, in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch

from klprobe.datasets import Dataset, Split, carved, held_out, parts
from klprobe.datasets._decoded import Files, decode
from klprobe.files.downloads import Download
from klprobe.files.images import find_images, parse_size, read_image
from klprobe.printable import short
from klprobe.registry import spec
from klprobe.training.data import Data, augment
from klprobe.training.levels import BYTE, doubts
from klprobe.types import InputError, Progress, no_progress

__all__ = ["ImageFolder"]

LARGEST = 4096
"""Largest height and width to which images are resized, in pixels."""


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """A folder of images: its path, as photos or photos:resize=64:gray; folders train and test, or a tenth held out.

    Where every image lies in a folder of its own class, as in train/cat/1.png, images are labelled by those folders.
    """

    path: str = ""
    """Path of the folder."""
    resize: str = ""
    """Resize all images to this size, bilinearly: 64, or 48x64 for height and width. It is needed where the images have several
    sizes."""
    gray: bool = False
    """Turn colour images into grey images of one channel."""
    rgb: bool = False
    """Turn grey images into colour images of three equal channels."""
    scale: int = 0
    """Level that stands for white, as 4095 for 12 bits in files of 16. With 0 it is the highest of a file's number of bits."""
    strict: bool = False
    """Stop at an image file that cannot be decoded; otherwise such images are left out."""
    held_out: int = 10
    """Every held_out-th image, in the order of paths, is a test image, where there are no folders train and test; with 0 none
    is."""
    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    flip: bool = False
    """Mirror images left to right at random during training."""
    shift: int = 0
    """Largest number of pixels by which images are shifted at random during training."""
    downloads: ClassVar[tuple[Download, ...]] = ()
    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if max(parse_size(self.resize, "resize") or (1,)) > LARGEST:
            raise InputError(f"image-folder needs resize of at most {LARGEST} pixels a side; got {self.resize}.")
        if self.gray and self.rgb:
            raise InputError("image-folder takes gray or rgb, and not both.")
        if self.scale < 0:
            raise InputError(f"image-folder needs scale of at least 1, the level that is white; got {short(self.scale)}.")

    def only_reading(self) -> ImageFolder:
        """The same set, which writes nothing into the folder; for a folder that a file has named, and not the user."""
        return _OnlyRead(**{field.name: getattr(self, field.name) for field in fields(self)})

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read the images: uint8, shape (N, C, H, W); many pixels are kept in PATH/.klprobe/ and memory-mapped.

        Raises:
            InputError: the folder is missing or has no image, or images have several shapes.
        """
        return carved(self, lambda part: self._read(part, progress), split)

    def _read(self, split: Split, progress: Progress) -> Data:
        folder = self.locate()
        files, all_files, hidden = self._files(split)
        names, every = ([str(file.relative_to(folder)) for file in some] for some in (files, all_files))
        size, white = parse_size(self.resize, "resize"), self.scale or None
        more = [self.rgb, white] if self.rgb or white else []
        changes = f"{'-gray' * self.gray}{'-rgb' * self.rgb}{f'-{white}' if white else ''}"
        shown = f"{self.resize or 'as-they-are'}{changes}-{split}"

        def read(name: str) -> torch.Tensor:
            return read_image(folder / name, name, gray=self.gray, rgb=self.rgb, size=size, white=white)

        decoded = decode(
            Files(
                label=self.path,
                names=names,
                read=read,
                strict=self.strict,
                cache=folder / ".klprobe" / f"{shown}.npy",
                fingerprint=[_stamp(folder / name) for name in names] + [size, self.gray, *more],
                keeps=self.keeps,
                remedies=(
                    f"name the set {self.path}:resize=64",
                    f"name the set {self.path}:gray, or {self.path}:rgb to make grey images three equal channels",
                ),
            ),
            progress,
        )
        x, labels = decoded.x, _classes(decoded.names, every)
        change = augment(tuple(x.shape[1:]), self.flip, self.shift)
        notes = (*hidden, *decoded.notes, *doubts(x, self.path, BYTE))
        return Data(spec(self), split, x, labels, augment=change, notes=notes)

    def locate(self, root: Path | None = None) -> Path:
        """Path of the folder."""
        if not self.path or not Path(self.path).is_dir():
            raise InputError(f"image-folder needs a folder, as image-folder:path=photos; got {self.path!r}.")
        return Path(self.path)

    def _files(self, split: str) -> tuple[list[Path], list[Path], tuple[str, ...]]:
        """The images of a split, all images, and what is to be said of those that were passed over."""
        folder = self.locate()
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            found = {part: find_images(folder / part) for part in ("train", "test")}
            hidden = tuple(note for part in parts(split) for note in found[part].note(f"{self.path}/{part}"))
            chosen = [file for part in parts(split) for file in found[part].files]
            return chosen, found["train"].files + found["test"].files, hidden
        files, _ = every = find_images(folder)
        return [files[i] for i in held_out(len(files), self.held_out, split)], files, every.note(self.path)


class _OnlyRead(ImageFolder):
    """An image folder that is only read, and never written to."""

    keeps = False


def _stamp(file: Path) -> list[int]:
    """Size and time of a file; empty for a broken link."""
    try:
        status = os.stat(file)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _classes(names: Sequence[str], every: Sequence[str]) -> torch.Tensor | None:
    """Labels by the folders of the images, numbered in the order of names over `every` image; None without classes."""
    if any(len(_class(name)) != 1 for name in every):
        return None
    known = sorted({_class(name) for name in every})
    return torch.tensor([known.index(_class(name)) for name in names])


def _class(name: str) -> tuple[str, ...]:
    """The folders in an image's path, without train and test."""
    folders = Path(name).parts[:-1]
    return folders[1:] if folders[:1] in (("train",), ("test",)) else folders
