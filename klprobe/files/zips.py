"""Open untrusted zip files, such as `.npz` and torch's files; any fault in one is an InputError."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klprobe.files.plain import check_plain
from klprobe.types import InputError

DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)
"""Errors of `zipfile` for a damaged file; ValueError is for names that are not UTF-8 and for impossible offsets."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods of packing that numpy and torch use; bzip2 and lzma pack zeros a thousand times better."""


@contextmanager
def opened(path: Path, label: str, remedy: str = "save or copy it again") -> Iterator[zipfile.ZipFile]:
    """Open the zip file for reading in this block.

    Args:
        path: Path of the file.
        label: Name of the file, for messages.
        remedy: Sentence that says what to do when it is damaged.
    Raises:
        InputError: the file is damaged or cut short, found on opening or in the block, has a name twice, or is packed in
            an unusual way.
    """
    check_plain(path, label)
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive.infolist(), label, remedy)
            yield archive
    except InputError:
        raise
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise InputError(f"{label} is damaged or cut short ({error}): {remedy}.") from error


def _check(entries: list[zipfile.ZipInfo], label: str, remedy: str) -> None:
    """Raise InputError where a name is there twice, because readers may then take different members."""
    seen: set[str] = set()
    for entry in entries:
        if entry.filename in seen:
            raise InputError(f"{label} holds {entry.filename[:80]!r} twice: it is damaged, or not what it seems; {remedy}.")
        if entry.compress_type not in METHODS:
            raise InputError(
                f"{label}: {entry.filename[:80]!r} is packed in a way that no array is (by bzip2 or lzma): {remedy}."
            )
        seen.add(entry.filename)
