"""Decode many image files to one array of bytes: once, by several threads; a large array is kept beside the data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klprobe.files.child import machine_bytes
from klprobe.files.images import Undecodable, check_same_shape
from klprobe.files.npy import map_file
from klprobe.types import InputError, Progress, no_progress

KEEP_FROM = 1 << 25
"""Number of bytes of pixels from which they are kept in a file, and read through a memory map."""
AT_ONCE = 512
"""Largest number of images between two reports of progress."""
BYTES_AT_ONCE = 1 << 27
"""Largest number of bytes of pixels in one block, which limits memory and changes no result."""
NAMED = 5
"""Largest number of left-out files that a note names."""
VERSION = 1
"""Version of the files that are kept; a file of another version is not read."""


@dataclass(frozen=True)
class Files:
    """The image files to decode.

    Attributes:
        label: Name of the whole, for messages.
        names: Names of the files.
        read: Function from a name to the image, uint8, shape (C, H, W), the same for all; Undecodable for a bad file.
        strict: Whether one bad file stops the run; otherwise it is left out, and a note says so.
        cache: Path of the `.npy` file where many pixels are kept; a `.json` beside it says what it holds.
        fingerprint: JSON that describes the files and how they are prepared; where it differs, the pixels are decoded again.
        remedies: Sentences that say what to do when images have several sizes, and when only some have colours.
        keeps: Whether new pixels may be kept; pixels that an earlier run kept are read in any case.
    """

    label: str
    names: Sequence[str]
    read: Callable[[str], torch.Tensor]
    strict: bool
    cache: Path
    fingerprint: Any
    remedies: tuple[str, str]
    keeps: bool = True


@dataclass(frozen=True)
class Decoded:
    """Images, uint8, shape (n, C, H, W), the names of their files, and notes about them."""

    x: torch.Tensor
    names: list[str]
    notes: tuple[str, ...]


def decode(files: Files, progress: Progress = no_progress) -> Decoded:
    """Decode all images, in the order of the names, without those that cannot be decoded.

    Raises:
        InputError: no image can be decoded, or one cannot and `strict` is set, or two have different shapes.
    """
    mark = hashlib.sha256(json.dumps([VERSION, files.fingerprint, list(files.names)]).encode()).hexdigest()
    x, bad, notes = _kept(files, mark) or _decode(files, mark, progress)
    if bad and files.strict:
        raise InputError(f"{_left_out(files.label, bad, len(files.names))} Remove or replace them, or do not give strict.")
    lost = set(bad)
    notes += (_left_out(files.label, bad, len(files.names)),) if bad else ()
    return Decoded(x, [name for name in files.names if name not in lost], notes)


def _left_out(label: str, bad: Sequence[str], count: int) -> str:
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{label}: {len(bad)} of {count:,} images do not decode and are left out: {', '.join(bad[:NAMED])}{more}."


def _kept(files: Files, mark: str) -> tuple[torch.Tensor, list[str], tuple[str, ...]] | None:
    """Read the pixels that an earlier run kept, and the names of bad files, if they belong to these files."""
    try:
        said = json.loads(files.cache.with_suffix(".json").read_text())
        if said["fingerprint"] != mark:
            return None
        pixels = map_file(files.cache, files.cache.name)
        return torch.from_numpy(pixels[: said["count"]]), list(said["left_out"]), ()
    except (OSError, ValueError, KeyError, TypeError):  # the file is missing or damaged: it is made again
        return None


def _decode(files: Files, mark: str, progress: Progress) -> tuple[torch.Tensor, list[str], tuple[str, ...]]:
    """Decode the images; return pixels, names of bad files, and a note that says where the pixels are kept, if they are."""
    draft = files.cache.with_name(f"{files.cache.name}.{os.getpid()}.draft")
    pixels, done, bad = None, 0, []
    try:
        for images, lost in _blocks(files, progress):
            bad += lost
            if not images:
                continue
            if pixels is None:
                like = images[0]
                pixels = _room((len(files.names), *like.shape), draft if files.keeps else None, files)
            pixels[done : done + len(images)] = torch.stack(images).numpy()
            done += len(images)
        if pixels is None:
            raise InputError(
                f"{files.label}: none of the {len(files.names)} images can be decoded, such as {bad[0]}. Copy them again."
            )
        if not isinstance(pixels, np.memmap):
            return torch.from_numpy(pixels[:done]), bad, ()
        pixels.flush()
        _keep(draft, files.cache, {"fingerprint": mark, "count": done, "left_out": bad})
        note = f"{files.label}: {done:,} images were decoded, and their pixels are kept in {files.cache}."
        return torch.from_numpy(map_file(files.cache, files.cache.name)[:done]), bad, (note,)
    finally:
        draft.unlink(missing_ok=True)


def _room(shape: tuple[int, ...], draft: Path | None, files: Files) -> np.ndarray:
    """Make an array to fill: in the file `draft` when it is large and the disk has room for it, otherwise in memory.

    Raises:
        InputError: neither has room for it.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if draft is not None and size >= KEEP_FROM:
        with contextlib.suppress(OSError):  # the folder cannot be written to
            draft.parent.mkdir(exist_ok=True)
            if shutil.disk_usage(draft.parent).free > 2 * size:
                return np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
    if size > machine_bytes() / 2:
        raise InputError(
            f"{files.label}: {shape[0]:,} images of {' x '.join(map(str, shape[1:]))} take {size / 1e9:.3g} GB, for which "
            f"neither the disk nor memory has room: {files.remedies[0]}."
        )
    return np.empty(shape, np.uint8)


def _keep(draft: Path, cache: Path, said: dict[str, Any]) -> None:
    """Move pixels and their description to their places; in between there is no `.json`, so that nothing can be misread."""
    beside, note = cache.with_suffix(".json"), draft.with_suffix(".json")
    beside.unlink(missing_ok=True)
    os.replace(draft, cache)
    note.write_text(json.dumps(said))
    os.replace(note, beside)


def _blocks(files: Files, progress: Progress) -> Iterator[tuple[list[torch.Tensor], list[str]]]:
    """Yield the images that can be decoded, and the names of those that cannot, one block at a time.

    The first block is one image, whose size says how many the next blocks hold. An image of another shape is an error as soon
    as it is decoded, so that a block never takes more than its share.

    Raises:
        InputError: two images have different shapes.
    """
    first: list[tuple[torch.Tensor, str]] = []

    def read(name: str) -> torch.Tensor | None:
        try:
            image = files.read(name)
        except Undecodable:
            if files.strict:
                raise
            return None
        for other, other_name in first:
            check_same_shape([other, image], [other_name, name], files.remedies)
        return image

    start, size = 0, 1
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        while start < len(files.names):
            names = files.names[start : start + size]
            images = list(pool.map(read, names))
            lost = [name for name, image in zip(names, images, strict=True) if image is None]
            found = [image for image in images if image is not None]
            start += len(names)
            if found and not first:  # the block is one image
                first.append((found[0], names[0]))
                size = max(1, min(AT_ONCE, BYTES_AT_ONCE // found[0].numel()))
            progress(start, len(files.names), "decoding images")
            yield found, lost
