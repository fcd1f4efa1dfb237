"""One writer a folder: a lock that ends with its process, however the process ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from klprobe.types import InputError

if sys.platform != "win32":
    import fcntl

LOCK = ".klprobe.lock"
"""The file that is locked; it is removed when the folder is given free."""


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made where it is missing, while the block runs; a folder that stayed empty is removed.

    Where the system or the disk knows no locks, nothing is held.

    Raises:
        InputError: another process writes into the folder now, or the folder cannot be made.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder --out {folder} cannot be written to ({error.strerror}): give another one.") from error
    held = _lock(folder)
    try:
        yield
    finally:
        if held is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(held)
        with contextlib.suppress(OSError):  # not empty
            for part in made:
                part.rmdir()


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the lock; None where locks are not known."""
    if sys.platform == "win32":
        return None
    while True:
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"The folder --out {folder} cannot be written to ({error.strerror}): give another one.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"Another klprobe process writes into {folder} now: wait until it has ended, or give another folder."
            ) from error
        except OSError:  # a disk that knows no locks
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(folder / LOCK).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # its last holder has removed the file in between
