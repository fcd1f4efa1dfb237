"""Read untrusted `.npy` data without pickles, and without more memory than the file itself justifies."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from klprobe.files.plain import check_plain
from klprobe.files.zips import DAMAGED, opened
from klprobe.types import InputError

HEADER_BYTES = 1 << 16
"""Largest number of bytes of a header; that of a plain array has about a hundred."""
CHUNK_BYTES = 1 << 24
INFLATE_RATIO, INFLATE_FREE = 100, 1 << 28
"""Growth, and number of bytes, beyond which an entry counts as a zip bomb; codes of real data hardly compress."""

SHARE_OF_MEMORY = 8
"""A file is read, and not mapped, up to this part of the machine's memory."""

MAGIC = b"\x93NUMPY"
ENTRY = re.compile(
    r"""\s*(?:(['"])descr\1\s*:\s*(['"])(?P<descr>[<>|=]?[a-zA-Z?][0-9]{0,9}(?:\[\w{1,8}\])?)\2"""
    r"""|(['"])fortran_order\4\s*:\s*(?P<fortran_order>True|False)"""
    r"""|(['"])shape\6\s*:\s*\(\s*(?P<shape>|(?:-?[0-9]{1,18}L?\s*,\s*)+(?:-?[0-9]{1,18}L?\s*,?)?)\s*\))\s*,"""
)
"""One entry of a header, with the comma after it; Python 2 ended whole numbers with L."""
RECORDS = re.compile(r"""^\s*\{['"]descr['"]\s*:\s*(\[[^\n]{1,80}?\])\s*,\s*['"]fortran""")
"""Pattern of the beginning of a header whose entries have several fields."""
MOST_DIMENSIONS = 32
"""Largest number of dimensions, which is that of numpy 1."""

DATA_NAMES = ("x", "data", "images", "arr_0")
"""Names of the array in an .npz that holds the data, where there are several arrays."""


class Layout(NamedTuple):
    """Type and shape of an array, by the header of its `.npy` file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of data that have to follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(head: bytes, label: str) -> Layout:
    """Read the layout from the first bytes of a `.npy` file; InputError when they are not such a header.

    A header is a line of Python. It is matched against the few forms that a plain array's can have, and never evaluated.
    """
    start = {b"\x01\x00": 10, b"\x02\x00": 12}.get(head[6:8], 0) if head.startswith(MAGIC) else 0
    end = start + int.from_bytes(head[8:start], "little")
    header = head[start:end].decode("latin1") if start and start < end <= len(head) else ""
    if records := RECORDS.search(header):
        raise InputError(f"{label} holds records, {records[1]}, and not real numbers: save each field as an array of its own.")
    found = _entries(header)
    if set(found) != {"descr", "fortran_order", "shape"}:
        raise InputError(f"{label} is not a plain .npy array, or its header is damaged: write it again with numpy.save.")
    shape = tuple(int(size.rstrip("L")) for size in re.split(r"[\s,]+", found["shape"]) if size)
    try:
        dtype = np.dtype(found["descr"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{label} has numbers that numpy does not know, {found['descr']!r}: save float32.") from error
    if dtype.hasobject:
        raise InputError(
            f"{label} is an object array, that is a pickle, and klprobe never unpickles: "
            "save numbers, numpy.asarray(values, dtype='float32')."
        )
    num_bytes = math.prod(size or 1 for size in shape) * max(1, dtype.itemsize)
    if min(shape, default=0) < 0 or len(shape) > MOST_DIMENSIONS or num_bytes >= 2**62:
        raise InputError(f"{label} claims the impossible shape {shape[:MOST_DIMENSIONS]}: write it again with numpy.save.")
    return Layout(shape, dtype, found["fortran_order"] == "True", end)


def _entries(header: str) -> dict[str, str]:
    """Find the value of each key of a header; empty when it is not a header."""
    text = header.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return {}
    found: dict[str, str] = {}
    place, inside = 0, text[1:-1].strip().removesuffix(",") + ","
    while match := ENTRY.match(inside, place):
        key, value = next((key, value) for key, value in match.groupdict().items() if value is not None)
        if key in found:
            return {}
        found[key], place = value, match.end()
    return found if place == len(inside) else {}


def layout_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> Layout:
    """The layout of one array of an `.npz` file, without reading the array.

    Raises:
        InputError: what is there is no array, or the file is damaged.
    """
    try:
        with archive.open(info) as stream:
            return read_layout(stream.read(HEADER_BYTES), label)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{label} cannot be read ({error}): the file is damaged, save or copy it again.") from error


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> np.ndarray:
    """Read one array of an `.npz` file.

    Memory is allocated only after header, directory and compressed size have been found to agree.
    """
    try:
        with archive.open(info) as stream:
            layout = read_layout(stream.read(HEADER_BYTES), label)
        _check_size(layout, info.file_size - layout.offset, label)
        if layout.num_bytes > max(INFLATE_FREE, INFLATE_RATIO * info.compress_size):
            raise InputError(
                f"{label} would grow from {info.compress_size:,} to {layout.num_bytes:,} bytes, which looks like a zip bomb: "
                "if it is real, save it as .npy in a folder, which is read in parts."
            )
        with archive.open(info) as stream:
            stream.read(layout.offset)
            return _fill(layout, stream, label)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{label} cannot be read ({error}): the file is damaged, save or copy it again.") from error
    except MemoryError as error:
        raise InputError(f"{label} does not fit into memory: save it as .npy in a folder, which is read in parts.") from error


def read_sole(path: Path, preferred: Sequence[str] = DATA_NAMES) -> np.ndarray:
    """Read the only array of an `.npz` file, or the first of the `preferred` names among several."""
    with opened(path, path.name) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = next(iter(members)) if len(members) == 1 else next((n for n in preferred if n in members), None)
        if name is None:
            held = ", ".join(repr(name[:80]) for name in list(members)[:8]) or "nothing"
            raise InputError(f"{path.name} holds {held}: keep one array, or call the data {preferred[0]!r}.")
        return read_member(archive, members[name], f"{path.name}: {name[:80]!r}")


def as_data(array: np.ndarray, label: str, *, least: int = 2) -> np.ndarray:
    """Turn the array into data points, shape (N, ...), in this machine's byte order; it stays memory-mapped where possible.

    Raises:
        InputError: the array does not hold numbers, or has fewer than `least` dimensions.
    """
    if array.dtype.kind not in "fiub" or array.ndim < least:
        raise InputError(f"{label} is {array.dtype} of shape {array.shape}, but data are numbers of shape (N, ...).")
    if array.dtype == np.longdouble:  # torch does not have this type
        return array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # with which torch hardly works
        if array.dtype.itemsize == 8 and array.size and int(array.max()) >= 1 << 63:
            raise InputError(f"{label} holds whole numbers beyond 2^63: save them as float64.")
        return array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)
    return np.ascontiguousarray(array) if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def file_layout(path: Path, label: str) -> Layout:
    """Read the layout of a `.npy` file; InputError where the file is damaged, or not as long as its header says."""
    check_plain(path, label)
    with path.open("rb") as stream:
        layout = read_layout(stream.read(HEADER_BYTES), label)
    _check_size(layout, path.stat().st_size - layout.offset, label)
    return layout


def read_file(path: Path, label: str) -> np.ndarray:
    """Read a `.npy` file into memory; map one that takes more than a share of the machine's memory.

    A mapped file that is cut ends the process without a word, so what can be read is read.

    Raises:
        InputError: the file is damaged, or was cut or written to while it was read.
    """
    layout = file_layout(path, label)
    if layout.num_bytes > most_read():
        return map_file(path, label)
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        stream.seek(layout.offset)
        array = _fill(layout, stream, label)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{label} was written to while it was read: wait until it is whole, and run the command again.")
    return array


def most_read() -> int:
    """Number of bytes up to which a file is read, and beyond which it is mapped."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE_OF_MEMORY


def map_file(path: Path, label: str) -> np.ndarray:
    """Map a `.npy` file into memory, copy-on-write, so that values are read when needed, and the file never changes.

    Who cuts the file ends this process: it is for files of klprobe's own, and for those that `read_file` finds too large.
    """
    layout = file_layout(path, label)
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
