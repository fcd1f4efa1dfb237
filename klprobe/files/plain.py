"""Check that a file is a plain file, because opening a pipe waits for ever, and a device such as /dev/zero never ends."""

from __future__ import annotations

from pathlib import Path

from klprobe.types import InputError


def check_plain(path: Path, label: str = "") -> None:
    """Raise InputError where a path leads to something that is not a plain file or a link to one; a missing file passes.

    Args:
        path: Path of a file that is about to be opened.
        label: Name of the file in the message; the path where it is empty.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{label or path} is no plain file, but a folder, a pipe or a device: give a file.")


def read_bounded(path: Path, most: int, label: str = "") -> bytes:
    """Read a plain file of at most that many bytes.

    Raises:
        InputError: the file is not a plain file, or is larger; OSError where there is no file.
    """
    check_plain(path, label)
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise InputError(f"{label or path} has more than {most:,} bytes, which is the limit: it is damaged, or another file.")
    return content
