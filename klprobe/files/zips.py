"""Opening untrusted zip files, such as `.npz` and torch's files: whatever is wrong with one is an InputError."""

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
"""What `zipfile` raises of a damaged file: ValueError of names that are no UTF-8 and of impossible places."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""numpy and torch write no other; bzip2 and lzma pack zeros a thousand times better."""


@contextmanager
def opened(path: Path, label: str, remedy: str = "save or copy it again") -> Iterator[zipfile.ZipFile]:
    """The zip file, for reading in this block.

    Args:
        path: The file.
        label: What errors call it.
        remedy: What to do when it is damaged.
    Raises:
        InputError: damaged or cut short, found on opening or in the block; a name twice; packed in an unusual way.
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
    """Two readers of one file may take different members of the same name."""
    seen: set[str] = set()
    for entry in entries:
        if entry.filename in seen:
            raise InputError(f"{label} holds {entry.filename[:80]!r} twice: it is damaged, or not what it seems; {remedy}.")
        if entry.compress_type not in METHODS:
            raise InputError(
                f"{label}: {entry.filename[:80]!r} is packed in a way that no array is (by bzip2 or lzma): {remedy}."
            )
        seen.add(entry.filename)
