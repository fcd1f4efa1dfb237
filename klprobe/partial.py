"""Work in progress on disk: written every minute, whole or not at all, and taken up again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe import parallel
from klprobe.types import InputError

EVERY = 60.0
"""Seconds between two writes."""


class Keeper:
    """Keeps arrays in one `.npz`, with a fingerprint of the work they belong to; with no path it does nothing.

    Args:
        path: File to keep them in.
        fingerprint: What must be the same for the arrays to be of use.
    """

    def __init__(self, path: Path | None, fingerprint: Mapping[str, Any]) -> None:
        rank, _ = parallel.rank_and_size()
        self.path = path
        self.writes = path is not None and rank == 0
        self.fingerprint = json.dumps(fingerprint, sort_keys=True)
        self.last = time.monotonic()

    def load(self) -> dict[str, NDArray[Any]]:
        """The arrays kept, or none when there is no file.

        Raises:
            InputError: the file belongs to other work, or cannot be read.
        """
        if self.path is None or not self.path.exists():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                arrays = dict(kept)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{self.path} cannot be resumed ({error}): delete it, or run without --resume.") from error
        theirs = json.loads(str(arrays.pop("fingerprint", "{}")))
        ours = json.loads(self.fingerprint)
        different = [f"{k} was {theirs.get(k)!r} and is {ours[k]!r}" for k in ours if theirs.get(k) != ours[k]]
        if different:
            raise InputError(f"{self.path} belongs to another run: {'; '.join(different)}. Delete it, or run without --resume.")
        return arrays

    def save_now_and_then(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write when the last write is a minute old."""
        if time.monotonic() - self.last >= EVERY:
            self.save(state)

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write now: to a file beside it, then renamed over it."""
        if not self.writes or self.path is None:
            return
        arrays = {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in state().items()}
        beside = self.path.with_name(self.path.name + ".writing")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.savez(file, fingerprint=np.array(self.fingerprint), **arrays)  # type: ignore[arg-type]
        os.replace(beside, self.path)
        self.last = time.monotonic()

    def discard(self) -> None:
        """Remove the file: the work is done."""
        if self.writes and self.path is not None:
            self.path.unlink(missing_ok=True)
