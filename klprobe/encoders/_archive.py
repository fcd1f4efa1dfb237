"""Looking into torch's zip files before torch does: what kind they are, and whether they are what they claim."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from klprobe.types import InputError

PACKED_LIMIT = 1 << 26
"""torch stores tensors as they are and packs source code only; 64 MiB of code is a bomb."""


def names_in(path: Path) -> tuple[str, ...]:
    """Names in a zip file without its top folder; empty when it is no zip. Reads the directory at its end alone."""
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                return ()
        with zipfile.ZipFile(path) as archive:
            return tuple(name.partition("/")[2] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError):
        return ()


def check_archive(path: Path) -> None:
    """Raise InputError unless what is stored fits into the file and what is packed stays small: no zip bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path.name} is damaged or truncated ({error}): save or copy it again.") from error
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    packed = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    size = path.stat().st_size
    if stored > size or packed > PACKED_LIMIT:
        raise InputError(
            f"{path.name} has {size:,} bytes but claims to hold {stored + packed:,}, which looks like a zip bomb: torch packs "
            "no tensors. Save it again with torch."
        )


def read_entry(path: Path, name: str) -> bytes:
    """One entry of a file that passed `check_archive`, by its name below the top folder; InputError when damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            full = next(entry for entry in archive.namelist() if entry.partition("/")[2] == name)
            return archive.read(full)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, StopIteration) as error:
        raise InputError(f"{path.name}: {name} cannot be read ({error}): save or copy the file again.") from error
