"""Files that are plain files: opening a pipe waits for ever, and a device such as /dev/zero never ends."""

from __future__ import annotations

from pathlib import Path

from klprobe.types import InputError


def check_plain(path: Path, label: str = "") -> None:
    """Raise InputError where there is something at a path, but no plain file or link to one; a path to nothing passes.

    Args:
        path: Of a file that is about to be opened.
        label: What the error calls it; the path where it is empty.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{label or path} is no plain file, but a folder, a pipe or a device: give a file.")


def read_bounded(path: Path, most: int, label: str = "") -> bytes:
    """The content of a plain file of at most so many bytes.

    Raises:
        InputError: no plain file, or a larger one; OSError where there is none.
    """
    check_plain(path, label)
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise InputError(f"{label or path} has more than {most:,} bytes, which is the limit: it is damaged, or another file.")
    return content
