"""Records of experiments as JSON lines, one line for each cell, so that a stopped run can continue."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from klprobe.files.plain import check_plain
from klprobe.types import InputError

if sys.platform != "win32":
    import fcntl

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Read the records of a JSON-lines file, none where there is no file; a last line that was cut short does not count.

    Raises:
        InputError: the path is not a plain file, or the file does not hold records.
    """
    check_plain(path)
    lines = path.read_text().split("\n") if path.exists() else []
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not a file of klprobe's records ({error}): delete it, or give another folder.") from error


def keep_record(path: Path, record: Record) -> None:
    """Append one line, after removing what a killed run may have left of its own; of two processes one waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _lock(file)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")


def _lock(file: BinaryIO) -> None:
    """Lock the file until it is closed, where the system and the disk have locks."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
