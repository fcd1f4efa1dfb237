"""Choose a device to compute on, and check a folder to write to."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Literal

from klprobe.types import InputError

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: DeviceName) -> str:
    """Choose `cuda` or `cpu`; `auto` takes cuda where torch has it.

    Raises:
        InputError: cuda is asked for, and torch finds no CUDA device.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu, or install torch with CUDA.")
    return ("cuda" if available else "cpu") if name == "auto" else name


def check_writable(folder: Path) -> None:
    """Check that the folder can be made and written to, before a long run begins, and leave nothing behind.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    made = []
    try:
        for part in (*reversed(folder.parents), folder):
            if not part.exists():
                part.mkdir(exist_ok=True)  # another process may make it at the same time
                made.append(part)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written to ({error.strerror}): give another folder.") from error
    finally:
        with contextlib.suppress(OSError):  # another process has put something into it
            for part in reversed(made):
                part.rmdir()
