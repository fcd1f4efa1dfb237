"""Reading `.npy` data that nobody vouches for: no pickle, no memory beyond what the file itself justifies."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from klprobe.types import InputError

HEADER_BYTES = 1 << 16
"""A plain array's header is about a hundred bytes; nothing longer is looked at."""
CHUNK_BYTES = 1 << 24
INFLATE_RATIO, INFLATE_FREE = 100, 1 << 30
"""Codes of real data hardly compress: what grows more than 100-fold, beyond 1 GiB, is taken for a zip bomb."""

DATA_NAMES = ("x", "data", "images", "arr_0")
"""Which array of an .npz is the data, where it holds several."""


class Layout(NamedTuple):
    """What the header of a `.npy` file promises."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of data that have to follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(head: bytes, label: str) -> Layout:
    """The layout that the first bytes of a `.npy` file promise; InputError when they are no such header."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except (ValueError, KeyError, OverflowError) as error:
        raise InputError(f"{label} is no .npy array, or its header is damaged: write it again with numpy.save.") from error
    if any(size < 0 for size in shape):
        raise InputError(f"{label} claims the impossible shape {shape}: write it again with numpy.save.")
    if dtype.hasobject:
        raise InputError(
            f"{label} is an object array, that is a pickle, and klprobe never unpickles: "
            "save numbers, numpy.asarray(values, dtype='float32')."
        )
    return Layout(shape, dtype, fortran, stream.tell())


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> np.ndarray:
    """One array of an `.npz` file.

    Memory is taken only after header, directory and compressed size have been found to agree.
    """
    try:
        with archive.open(info) as stream:
            layout = read_layout(stream.read(HEADER_BYTES), label)
        _check_size(layout, info.file_size - layout.offset, label)
        if layout.num_bytes > max(INFLATE_FREE, INFLATE_RATIO * info.compress_size):
            raise InputError(
                f"{label} would grow from {info.compress_size:,} to {layout.num_bytes:,} bytes, which looks like a zip bomb: "
                "if it is real, save it as .npy in a folder, where it is memory-mapped."
            )
        with archive.open(info) as stream:
            stream.read(layout.offset)
            return _fill(layout, stream, label)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise InputError(f"{label} cannot be read ({error}): the file is damaged, save or copy it again.") from error
    except MemoryError as error:
        raise InputError(f"{label} does not fit into memory: save it as .npy in a folder, which is memory-mapped.") from error


def read_sole(path: Path, preferred: Sequence[str] = DATA_NAMES) -> np.ndarray:
    """The array of an `.npz` file that holds one, or the first of the `preferred` names among several."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            name = next(iter(members)) if len(members) == 1 else next((n for n in preferred if n in members), None)
            if name is None:
                held = ", ".join(map(repr, list(members)[:8])) or "nothing"
                raise InputError(f"{path.name} holds {held}: keep one array, or call the data {preferred[0]!r}.")
            return read_member(archive, members[name], f"{path.name}: {name!r}")
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is no complete .npz file ({error}): it is damaged, save it again.") from error


def as_data(array: np.ndarray, label: str) -> np.ndarray:
    """The array as data points, shape (N, ...), in this machine's byte order; a mapped one stays mapped where it can.

    Raises:
        InputError: no numbers, or no more than one dimension.
    """
    if array.dtype.kind not in "fiub" or array.ndim < 2:
        raise InputError(f"{label} is {array.dtype} of shape {array.shape}, but data are numbers of shape (N, ...).")
    if array.dtype == np.longdouble:  # which torch does not have
        return array.astype(np.float64)
    return np.ascontiguousarray(array) if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def map_file(path: Path, label: str) -> np.ndarray:
    """A `.npy` file, memory-mapped copy-on-write: nothing is read before it is needed, and the file never changes."""
    with path.open("rb") as stream:
        layout = read_layout(stream.read(HEADER_BYTES), label)
    _check_size(layout, path.stat().st_size - layout.offset, label)
    if layout.num_bytes == 0:
        return np.empty(layout.shape, layout.dtype)
    order: Literal["C", "F"] = "F" if layout.fortran else "C"
    return np.memmap(path, dtype=layout.dtype, mode="c", offset=layout.offset, shape=layout.shape, order=order)


def _check_size(layout: Layout, available: int, label: str) -> None:
    if layout.num_bytes != available:
        raise InputError(
            f"{label} is damaged or truncated: shape {layout.shape} of {layout.dtype} takes {layout.num_bytes:,} bytes, "
            f"but {max(available, 0):,} are there. Save or copy it again."
        )


def _fill(layout: Layout, stream: IO[bytes], label: str) -> np.ndarray:
    array = np.empty(layout.num_bytes, np.uint8)
    view, done = array.data, 0
    while chunk := stream.read(min(CHUNK_BYTES, len(view) - done) or 1):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done != len(view):
        raise InputError(f"{label} ends after {done:,} of {len(view):,} bytes: save or copy it again.")
    return array.view(layout.dtype).reshape(layout.shape, order="F" if layout.fortran else "C")
