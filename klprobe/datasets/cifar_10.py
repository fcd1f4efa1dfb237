"""CIFAR-10, from either of its official layouts, unpacked or in its archive."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from klprobe.datasets import Dataset, Split, carved, data_root, downloads, parts
from klprobe.files.downloads import Download
from klprobe.files.plain import check_plain, read_bounded
from klprobe.files.python2_pickle import read_pickle
from klprobe.registry import spec
from klprobe.training.data import Data, augment
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Cifar10"]

BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
PER_BATCH = 10_000
SHAPE, PIXELS = (3, 32, 32), 3072
LARGEST = 1 << 26
"""Largest number of bytes of a batch file; the official ones have half of that."""
LARGEST_WHOLE = 1 << 28
"""Largest number of bytes of all batches, or of an unpacked archive; the official ones have 186 million."""
LONGEST_PART = 1 << 20
"""Largest number of bytes unpacked in one piece, because a name in an archive can claim to be longer."""
MOST_MEMBERS = 1000


class Place(NamedTuple):
    """A folder or an archive that the batches may be in, and the suffix of their files."""

    path: Path
    suffix: str

    def whole(self) -> bool:
        """Whether no batch is missing, judged by the names of files; an archive is either whole or damaged."""
        names = [name + self.suffix for part in BATCHES.values() for name in part]
        return self.path.is_file() or all((self.path / name).is_file() for name in names)


LAYOUTS = (
    Place(Path("cifar-10-batches-bin"), ".bin"),
    Place(Path("cifar-10-batches-py"), ""),
    Place(Path("cifar-10-binary.tar.gz"), ".bin"),
    Place(Path("cifar-10-python.tar.gz"), ""),
)


@dataclass(frozen=True)
class Cifar10(Dataset):
    """CIFAR-10 photographs of ten kinds of things: 50,000 + 10,000 colour images of 32 x 32 (Krizhevsky 2009)."""

    partial: bool = False
    """Use the batch files that are there even if some are missing or incomplete."""
    validation: int = 0
    """Number of training points that are kept apart as the split validation; they are a fixed random choice."""
    flip: bool = False
    """Mirror images left to right at random during training."""
    shift: int = 0
    """Largest number of pixels by which images are shifted at random during training."""
    downloads: ClassVar[tuple[Download, ...]] = downloads(
        "cifar-10",
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    )

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Read data_batch_1 to data_batch_5, or test_batch; uint8, shape (N, 3, 32, 32).

        Raises:
            InputError: batches are missing (unless `partial` is set), damaged, or do not have 10,000 images.
        """
        return carved(self, lambda part: self._read(part, root), split)

    def _read(self, split: Split, root: Path | None) -> Data:
        wanted = [batch for part in parts(split) for batch in BATCHES[part]]
        place = self._place(root)
        files = _read(place, wanted, self.partial)
        missing = [name + place.suffix for name in wanted if not any(file.startswith(name) for file in files)]
        if missing and (not self.partial or not files):
            again = "" if not files else f", or take those that are there: {spec(Cifar10(partial=True))}"
            raise InputError(f"{place.path} lacks {', '.join(missing)}. Fetch it again: klprobe data fetch cifar-10{again}.")
        batches = [_batch(content, f"{place.path}: {file}", place.suffix == ".bin") for file, content in sorted(files.items())]
        for file, (images, _) in zip(sorted(files), batches, strict=True):
            if len(images) != PER_BATCH and not self.partial:
                raise InputError(f"{place.path}: {file} holds {len(images)} images, not {PER_BATCH}: fetch it again.")
        x, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*batches, strict=True))
        complete = len(wanted) * PER_BATCH
        notes = () if len(x) == complete else (f"cifar-10 ({split}) is not whole: {len(x):,} of {complete:,} images are here.",)
        return Data(spec(self), split, x, labels.long(), augment=augment(SHAPE, self.flip, self.shift), notes=notes)

    def locate(self, root: Path | None = None) -> Path:
        """Find the folder or archive that is read."""
        return self._place(root).path

    def whole(self, root: Path | None = None) -> bool:
        """Whether no batch is missing, judged by the names of files."""
        return self._place(root).whole()

    def _place(self, root: Path | None) -> Place:
        """Find the first complete layout below `root`/cifar-10 or `root`; otherwise return the first layout there is."""
        folder = data_root(root)
        places = [Place(below / path, suffix) for below in (folder / "cifar-10", folder) for path, suffix in LAYOUTS]
        found = [place for place in places if place.path.exists()]
        if found:
            return next((place for place in found if place.whole()), found[0])
        raise InputError(
            f"cifar-10 is read from {(folder / 'cifar-10').resolve()}, which has none of "
            f"{', '.join(str(layout.path) for layout in LAYOUTS)}. Put one there (klprobe data fetch cifar-10 does it), "
            "or point --data-root (or KLPROBE_DATA) to the folder that holds cifar-10/."
        )


def _read(place: Place, wanted: list[str], partial: bool) -> dict[str, bytes]:
    """Read name and content of the needed batches that are there, and of parts of them such as test_batch_first_1000."""
    rest = r"\w*" if partial else ""
    pattern = re.compile(f"({'|'.join(wanted)}){rest}{re.escape(place.suffix)}")
    if not place.path.is_dir():
        return _unpacked(place.path, pattern)
    found: dict[str, bytes] = {}
    for file in sorted(place.path.iterdir()):
        if pattern.fullmatch(file.name):
            left = LARGEST_WHOLE - sum(map(len, found.values()))
            found[file.name] = read_bounded(file, min(LARGEST, left))
    return found


def _unpacked(path: Path, pattern: re.Pattern[str]) -> dict[str, bytes]:
    """Read the members of an archive whose names match, up to its end, where its checksum is."""
    check_plain(path)
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as packed:
            stream = _Forwards(packed)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for count, member in enumerate(archive):
                    if count == MOST_MEMBERS:
                        raise tarfile.ReadError(f"it has more than {MOST_MEMBERS:,} members")
                    name = Path(member.name).name
                    if pattern.fullmatch(name) and member.isreg() and not member.issparse():
                        if member.size > LARGEST:
                            raise InputError(f"{path}: {name} claims {member.size:,} bytes: fetch it again.")
                        found[name] = b"".join(stream.parts(member.size))
            while stream.read(LONGEST_PART):
                pass
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged archive raises many kinds of errors, even RecursionError for names in a row
        raise InputError(f"{path} is damaged or cut short ({str(error)[:200]}): fetch it again.") from error
    return found


class _Forwards(io.RawIOBase):
    """An unpacked stream that is read forwards only, in pieces of limited size and number.

    Raises:
        tarfile.ReadError: a piece, or the whole, is larger than allowed, or the archive asks to go backwards.
    """

    def __init__(self, packed: gzip.GzipFile) -> None:
        self.packed = packed

    def tell(self) -> int:
        return self.packed.tell()

    def seek(self, to: int, whence: int = 0) -> int:
        if whence or not self.tell() <= to <= LARGEST_WHOLE:
            raise tarfile.ReadError("a member of an impossible size")
        return self.packed.seek(to)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_PART:
            raise tarfile.ReadError(f"a name of {size:,} bytes")
        if self.tell() > LARGEST_WHOLE:
            raise tarfile.ReadError(f"it unpacks to more than {LARGEST_WHOLE:,} bytes")
        return self.packed.read(size)

    def parts(self, size: int) -> Iterator[bytes]:
        """Yield this many bytes, in pieces."""
        while size > 0:
            part = self.read(min(size, LONGEST_PART))
            if not part:
                raise tarfile.ReadError("unexpected end of data")
            size -= len(part)
            yield part


def _batch(content: bytes, label: str, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read images (n, 3, 32, 32) and labels (n,) of a file, whose rows are a label and the planes of red, green and blue."""
    if binary:
        if not content or len(content) % (1 + PIXELS):
            raise InputError(f"{label} has {len(content):,} bytes, which is not a multiple of {1 + PIXELS}: fetch it again.")
        rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
        images, labels = rows[:, 1:], rows[:, 0]
    else:
        found = read_pickle(content, label)
        data, labels = found.get(b"data"), _labels(found.get(b"labels"))
        if not isinstance(data, np.ndarray) or data.shape[1:] != (PIXELS,) or not len(data) or labels.shape != data.shape[:1]:
            raise InputError(f"{label} lacks data of shape (n, {PIXELS}) or as many labels: fetch it again.")
        images = data
    if labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{label} has labels beyond 0 to 9: fetch it again.")
    return images.reshape(-1, *SHAPE), labels.astype(np.uint8)


def _labels(found: Any) -> np.ndarray:
    """Labels of a pickle, a list of whole numbers or an array; empty for anything else, such as endlessly nested lists."""
    if isinstance(found, np.ndarray):
        return found
    whole = isinstance(found, list) and all(type(label) is int and 0 <= label <= 255 for label in found)
    return np.asarray(found if whole else [], np.int64)
