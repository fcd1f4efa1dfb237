"""Checks of torch's zip files before torch reads them: of which kind they are, and whether they are what they claim."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from klprobe.files.zips import DAMAGED, opened
from klprobe.types import InputError

PACKED_LIMIT = 1 << 26
"""Largest number of bytes of packed entries: torch packs source code only, and 64 MiB of code is a zip bomb."""


def names_in(path: Path) -> tuple[str, ...]:
    """Names in a zip file without its top folder, from the directory at its end alone; empty where there is no zip file."""
    if not path.is_file():
        return ()
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                return ()
        with zipfile.ZipFile(path) as archive:
            return tuple(name.partition("/")[2] for name in archive.namelist())
    except DAMAGED:
        return ()


def check_archive(path: Path) -> None:
    """Raise InputError unless stored entries fit into the file and packed entries stay small, so that it is no zip bomb."""
    with opened(path, path.name) as archive:
        entries = archive.infolist()
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    packed = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    size = path.stat().st_size
    if stored > size or packed > PACKED_LIMIT:
        raise InputError(
            f"{path.name} has {size:,} bytes but claims to hold {stored + packed:,}, which looks like a zip bomb: torch packs "
            "no tensors. Save it again with torch."
        )


def repacked(path: Path, change: Callable[[str, bytes], bytes | None]) -> io.BytesIO:
    """Copy the file in memory with exactly the entries that `change` saw, so that torch reads the same file as klprobe.

    Two readers of one zip file may disagree on what it holds: two top folders, names that differ in case, a second directory.

    Args:
        path: A file that `check_archive` has not seen yet.
        change: Function from an entry's name, without the top folder, and its content to the content to keep; None for none.
    Raises:
        InputError: the file is damaged, a zip bomb, or has a name twice; and any error that `change` raises.
    """
    check_archive(path)
    copy, seen = io.BytesIO(), set()
    with opened(path, path.name) as archive, zipfile.ZipFile(copy, "w") as out:
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if name.lower() in seen:
                raise InputError(
                    f"{path.name} holds {name[:80]} twice: it is damaged, or not what it seems. Save it again with torch."
                )
            seen.add(name.lower())
            content = change(name, archive.read(entry))
            if content is not None:
                out.writestr(f"archive/{name}", content)
    copy.seek(0)
    return copy
