"""Images of one's own, in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from klprobe.datasets._decoded import Files, decode
from klprobe.datasets._shared import Data, Split, held_out, parts
from klprobe.downloads import Download
from klprobe.images import find_images, parse_size, read_image
from klprobe.registry import spec
from klprobe.types import InputError, Progress, no_progress

__all__ = ["ImageFolder"]


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images: its path, or image-folder:path=photos:resize=64:gray; folders train and test, or a tenth held out.

    Where every image lies in a folder of its own class, as in train/cat/1.png, images are labelled by those folders.
    """

    path: str = ""
    """The folder."""
    resize: str = ""
    """Size of all images, bilinear, as 64 or 48x64 (height, width); needed where they have several."""
    gray: bool = False
    """Turn colours into one grey channel."""
    strict: bool = False
    """Stop at an image that does not decode, instead of leaving it out."""
    held_out: int = 10
    """Where there are no folders train and test: every so many-th image, in the order of paths, is a test image; 0: none."""
    downloads: ClassVar[tuple[Download, ...]] = ()

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """uint8, shape (N, C, H, W); `root` is not needed. Many pixels are kept in PATH/.klprobe/ and memory-mapped.

        Raises:
            InputError: no such folder, no image in it, or images of several shapes.
        """
        folder, files = self._files(split)
        names = [str(file.relative_to(folder)) for file in files]
        size = parse_size(self.resize, "resize")
        stats = [os.stat(file) for file in files]
        shown = f"{self.resize or 'as-they-are'}{'-gray' if self.gray else ''}-{split}"
        decoded = decode(
            Files(
                label=self.path,
                names=names,
                read=lambda name: read_image(folder / name, name, gray=self.gray, size=size),
                strict=self.strict,
                cache=folder / ".klprobe" / f"{shown}.npy",
                fingerprint=[[s.st_size, s.st_mtime_ns] for s in stats] + [size, self.gray],
            ),
            progress,
        )
        return Data(spec(self), split, decoded.x, _classes(decoded.names, folder), notes=decoded.notes)

    def locate(self, root: Path | None = None) -> Path:
        """The folder."""
        if not self.path or not Path(self.path).is_dir():
            raise InputError(f"image-folder needs a folder, as image-folder:path=photos; got {self.path!r}.")
        return Path(self.path)

    def _files(self, split: str) -> tuple[Path, list[Path]]:
        """The folder, and the images of a split."""
        folder = self.locate()
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder, [file for part in parts(split) for file in find_images(folder / part)]
        files = find_images(folder)
        return folder, [files[i] for i in held_out(len(files), self.held_out, split)]


def _classes(names: list[str], folder: Path) -> torch.Tensor | None:
    """Labels by the folders that the images lie in, numbered in the order of their names; None where that means nothing."""
    places = [Path(name).parts[:-1] for name in names]
    inner = [place[1:] if place and place[0] in ("train", "test") else place for place in places]
    if any(len(place) != 1 for place in inner):
        return None
    known = sorted({place[0] for place in inner})
    return torch.tensor([known.index(place[0]) for place in inner])
