"""CelebA, aligned and cropped, from its zip file or the folder of its JPEGs."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from klprobe.datasets import Dataset, Split, data_root, folder_with, parts
from klprobe.datasets._decoded import Files, decode
from klprobe.files.downloads import Download
from klprobe.files.images import Undecodable, read_image
from klprobe.files.plain import check_plain, read_bounded
from klprobe.registry import spec
from klprobe.training.data import Data, augment
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Celeba"]

ALIGNED = (218, 178)
"""Height and width of the aligned images."""
BOX = (15, 40, 163, 188)
"""Left, top, right and bottom of the face, 148 x 148, rows 40 to 187 and columns 15 to 162: the cut in the authors' code of
VAE/GAN (Larsen et al. 2016) and of Real NVP (Dinh et al. 2017), who then resize it to 64 x 64. A centred cut of 148, as many
PyTorch pipelines have it, begins five rows higher. DMVI, AGAN and BMS say 64 x 64 and no more."""
PARTITION = "list_eval_partition.txt"
PARTS = {"train": "0", "validation": "1", "test": "2"}
LARGEST = 1 << 24
"""Largest number of bytes of a JPEG or of the list of splits; the official ones have about 10,000 and 5 million."""
TERMS = (
    "img_align_celeba.zip, or its unpacked folder, and list_eval_partition.txt: their owners give them for non-commercial "
    "research, at mmlab.ie.cuhk.edu.hk/projects/CelebA.html, and klprobe does not fetch them"
)


@dataclass(frozen=True)
class Celeba(Dataset):
    """CelebA faces: 162,770 + 19,867 + 19,962 colour images, cut to the face, 64 x 64 or celeba:size=128 (Liu et al. 2015)."""

    size: int = 64
    """Height and width, in pixels, that faces are resized to, bilinearly and antialiased; the papers have 64 and 128."""
    strict: bool = False
    """Stop at an image file that cannot be decoded; otherwise such images are left out."""
    flip: bool = False
    """Mirror images left to right at random during training."""
    shift: int = 0
    """Largest number of pixels by which images are shifted at random during training."""
    downloads: ClassVar[tuple[Download, ...]] = ()
    validation: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 148:
            raise InputError(f"celeba needs size from 1 to 148, the size of the cut; got {self.size}.")

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read an official split, which can be `validation` too; uint8, shape (N, 3, size, size).

        Images are decoded once, and their pixels kept in `root`/celeba/klprobe-SIZE-SPLIT.npy, which is memory-mapped: 2 GB
        for the training split at 64 x 64. They are made again when the zip file, or the folder's list of files, changes.

        Raises:
            InputError: files are missing or damaged, or the images are not the aligned ones.
        """
        wanted = {PARTS[part] for part in parts(split, tuple(PARTS))}
        source = self.locate(root)
        names = [name for name, part in _partition(source.parent / PARTITION) if part in wanted]
        fetch, missing = _fetcher(source, names)
        if missing:
            raise InputError(f"{source} lacks {len(missing):,} of {len(names):,} images, such as {missing[0]}: copy it again.")

        def read(name: str) -> torch.Tensor:
            image = read_image(
                io.BytesIO(fetch(name)), f"{source}: {name}", size=(self.size, self.size), expected=ALIGNED, box=BOX
            )
            return image.expand(3, -1, -1)

        status = source.stat()
        files = Files(
            label=f"celeba ({split})",
            names=names,
            read=read,
            strict=self.strict,
            cache=source.parent / f"klprobe-{self.size}-{split}.npy",
            fingerprint=[source.name, status.st_size, status.st_mtime_ns, self.size, BOX],
            remedies=("copy it again", "copy it again"),
        )
        decoded = decode(files, progress)
        change = augment((3, self.size, self.size), self.flip, self.shift)
        return Data(spec(self), split, decoded.x, augment=change, notes=decoded.notes)

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder of the JPEGs or their zip file."""
        folder = data_root(root) / "celeba"
        for source in (folder / "img_align_celeba", folder / "img_align_celeba.zip"):
            if source.exists():
                folder_with("celeba", [PARTITION], root, fetch=TERMS)
                return source
        folder_with("celeba", ["img_align_celeba.zip", PARTITION], root, fetch=TERMS)
        return folder / "img_align_celeba.zip"


def _partition(path: Path) -> list[tuple[str, str]]:
    """Read the names of images with the number of their part, in the order of the file."""
    lines = [line.split() for line in read_bounded(path, LARGEST).decode(errors="replace").splitlines() if line.strip()]
    if not lines or any(len(line) != 2 or line[1] not in PARTS.values() for line in lines):
        raise InputError(f"{path} is damaged: each line is the name of an image and 0, 1 or 2. Copy it again.")
    return [(name, part) for name, part in lines]


def _fetcher(source: Path, names: list[str]) -> tuple[Callable[[str], bytes], list[str]]:
    """Make a function from a name to the file's bytes, and list the names that are missing."""
    if source.is_dir():
        held = {file.name for file in source.iterdir()}
        return lambda name: _jpeg(source / name), [name for name in names if name not in held]
    check_plain(source)
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} is damaged or cut short ({error}): copy it again.") from error
    entries = {Path(entry.filename).name: entry for entry in archive.infolist() if not entry.is_dir()}

    def fetch(name: str) -> bytes:
        if entries[name].file_size > LARGEST:
            raise Undecodable(f"{source}: {name} claims {entries[name].file_size:,} bytes.")
        try:
            return archive.read(entries[name])
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise Undecodable(f"{source}: {name} is damaged ({error}).") from error

    return fetch, [name for name in names if name not in entries]


def _jpeg(path: Path) -> bytes:
    """Read a file of the folder."""
    try:
        return read_bounded(path, LARGEST)
    except (InputError, OSError) as error:
        raise Undecodable(f"{path} cannot be read ({error}).") from error
