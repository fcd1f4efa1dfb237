"""Keep unfinished work on disk: written every minute and at its end, whole or not at all, and continued later.

The file stays until whoever has the result in safety removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe.files import json_files
from klprobe.files.npy import read_member
from klprobe.files.zips import opened
from klprobe.printable import short
from klprobe.runtime import parallel
from klprobe.types import InputError, RunWarning

VERSION = "1"
"""Version of the file: raised when what is kept can no longer be continued by older code, or of older code."""
EVERY = 60.0
"""Time between two writes, in seconds."""


class Keeper:
    """Keeps arrays in one `.npz`, with a fingerprint of the work they belong to; with no path it does nothing.

    Args:
        path: File to keep them in.
        fingerprint: Facts that must be the same for the arrays to be used.
    """

    def __init__(self, path: Path | None, fingerprint: Mapping[str, Any]) -> None:
        rank, _ = parallel.rank_and_size()
        self.path = path
        self.writes = path is not None and rank == 0
        self.fingerprint = json.dumps(fingerprint, sort_keys=True)
        self.last = time.monotonic()

    def load(self) -> dict[str, NDArray[Any]]:
        """Load the arrays that were kept; empty when there is no file.

        Raises:
            InputError: the file belongs to other work, or cannot be read.
        """
        if self.path is None or not self.path.exists():
            return {}
        label, remedy = f"{self.path} cannot be resumed: it", "delete it, or run without --resume"
        with opened(self.path, label, remedy) as archive:
            arrays = {info.filename.removesuffix(".npy"): read_member(archive, info, label) for info in archive.infolist()}
        if (version := str(arrays.pop("version", VERSION))) != VERSION:
            raise InputError(f"{label} is of version {short(version)}, and this klprobe reads version {VERSION}: {remedy}.")
        told, digest = (str(arrays.pop(name, "")) for name in ("fingerprint", "digest"))
        if digest != _digest(told, arrays):
            raise InputError(f"{label} is damaged, or of another version of klprobe: {remedy}.")
        theirs, ours = json_files.parse(told, label), json.loads(self.fingerprint)
        different = [f"{k} was {theirs.get(k)!r} and is {ours[k]!r}" for k in ours if theirs.get(k) != ours[k]]
        if different:
            raise InputError(f"{self.path} belongs to another run: {'; '.join(different)}. Delete it, or run without --resume.")
        return arrays

    def save_now_and_then(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write when the last write is a minute old."""
        if time.monotonic() - self.last >= EVERY:
            self.save(state)

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write now, to another file that then replaces the old one. A full disk gives a warning, and does not stop the run."""
        if not self.writes or self.path is None:
            return
        try:
            self._write(self.path, state)
        except OSError as error:
            warnings.warn(
                f"the draws made so far could not be saved to {self.path} ({error.strerror}); the run continues, and cannot be "
                "resumed until there is room.",
                RunWarning,
                stacklevel=2,
            )
        self.last = time.monotonic()

    def _write(self, path: Path, state: Callable[[], Mapping[str, Any]]) -> None:
        arrays = {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in state().items()}
        beside = path.with_name(path.name + ".writing")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                about = {"fingerprint": np.array(self.fingerprint), "digest": np.array(_digest(self.fingerprint, arrays))}
                about["version"] = np.array(VERSION)
                np.savez(file, **about, **arrays)  # type: ignore[arg-type]
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def _digest(fingerprint: str, arrays: Mapping[str, Any]) -> str:
    """Digest of everything in the file, so that a resumed run has exactly the bytes that were saved."""
    state = hashlib.sha256(fingerprint.encode(errors="replace"))
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        state.update(f"\n{name} {array.dtype} {array.shape}\n".encode(errors="replace") + array.tobytes())
    return state.hexdigest()
