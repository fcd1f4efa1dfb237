"""Looking into torch's zip files before torch does: what kind they are, and whether they are what they claim."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from klprobe.files.zips import DAMAGED, opened
from klprobe.types import InputError

PACKED_LIMIT = 1 << 26
"""torch stores tensors as they are and packs source code only; 64 MiB of code is a bomb."""


def names_in(path: Path) -> tuple[str, ...]:
    """Names in a zip file without its top folder, from the directory at its end alone; empty of what is no zip, or no file."""
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
    """Raise InputError unless what is stored fits into the file and what is packed stays small: no zip bomb."""
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
    """A copy in memory whose entries are exactly those that `change` saw, so that torch cannot read another file than we did.

    Two readers of one zip file may disagree on what it holds: two top folders, names that differ in case, a second directory.

    Args:
        path: A file that `check_archive` has not seen yet.
        change: From an entry's name, without the top folder, and its content to the content to keep; None leaves it out.
    Raises:
        InputError: damaged, a zip bomb, or with a name twice; whatever `change` raises.
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
