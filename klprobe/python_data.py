"""Data of the user's own Python, `package.module:name`, as a data set with its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch

from klprobe.datasets._shared import Data, Split, held_out
from klprobe.downloads import Download
from klprobe.encoders._named import import_named
from klprobe.images import channels_first
from klprobe.types import InputError, Progress, no_progress

EVERY = 10
"""Every so many-th point is a test point, as with files of one's own."""
SHAPES = (
    "a tensor or an array of shape (N, ...), a Dataset with __len__ and __getitem__ that gives x or (x, label), or an object "
)
SHAPES += "with load(split, root, progress), as the data sets of klprobe have it"


@dataclass(frozen=True)
class PythonData:
    """What `package.module:name` stands for: a tenth of it, every tenth point, is held out, unless it has splits of its own."""

    name: str
    """As the user typed it: her code is imported and called."""
    downloads: ClassVar[tuple[Download, ...]] = ()
    validation: ClassVar[int] = 0

    def load(self, split: Split = "train", root: Path | None = None, progress: Progress = no_progress) -> Data:
        """Points as they are, images with their channels brought to the front.

        Raises:
            InputError: no such module or name, or nothing that data can be made of.
        """
        found = import_named(self.name, "data set")
        is_set = hasattr(found, "load") and not isinstance(found, type | ModuleType)
        if callable(found) and not is_set and not hasattr(found, "__getitem__"):
            found = found()
        if hasattr(found, "load") and not isinstance(found, ModuleType):
            return found.load(split, root, progress)
        x, labels = _points(found, self.name)
        which = torch.tensor(held_out(len(x), EVERY, split))
        return Data(self.name, split, channels_first(x[which]), None if labels is None else labels[which])


def _points(found: Any, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All points, and their labels where there are some."""
    labels = None
    if isinstance(found, np.ndarray) and found.dtype.kind in "fiub":
        found = torch.from_numpy(np.ascontiguousarray(found))
    if not isinstance(found, torch.Tensor) and hasattr(found, "__getitem__") and hasattr(found, "__len__"):
        items = [found[i] for i in range(len(found))]
        pairs = bool(items) and all(isinstance(item, tuple | list) and len(item) == 2 for item in items)
        found = _stacked([item[0] if isinstance(item, tuple | list) else item for item in items], name)
        labels = _stacked([item[1] for item in items], name).long() if pairs else None
    if not isinstance(found, torch.Tensor) or found.dim() < 2 or not len(found) or found.is_complex():
        raise InputError(f"{name} is a {type(found).__name__}, of which no data can be made: give {SHAPES}.")
    if found.is_floating_point() and not found.isfinite().all():
        raise InputError(f"{name} has NaN or infinite numbers: mend or drop those points.")
    return found, labels


def _stacked(items: Sequence[Any], name: str) -> torch.Tensor:
    try:
        return torch.stack([torch.as_tensor(item) for item in items])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} gives points that do not fit together ({error}): give {SHAPES}.") from error
