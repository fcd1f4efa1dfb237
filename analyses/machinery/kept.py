"""Where long work is kept between two runs, and locks that die with the process that holds them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from analyses.machinery.session import Taken

if sys.platform != "win32":
    import fcntl


def cache_folder() -> Path:
    """`KLPROBE_RUNS`, or klprobe's runs in the user's cache folder: never the checkout, which they would fill."""
    if named := os.environ.get("KLPROBE_RUNS"):
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "klprobe" / "runs"


@contextlib.contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file's lock in this block; the system lets it go when the process ends, however it ends.

    Raises:
        Taken: another process has it, and we do not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Taken(path.stem) from error
        yield


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock now."""
    try:
        if not path.exists():
            return True
        with lock(path, wait=False):
            return True
    except Taken:
        return False
