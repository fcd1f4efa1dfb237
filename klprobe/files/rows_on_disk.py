"""Rows of a large `.npy` file, read when they are asked for, by `pread`: a file that is cut is a short read and a sentence."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from klprobe.files import npy
from klprobe.types import InputError

DTYPES = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "u1": torch.uint8}
GAP = 1 << 14
"""Number of bytes between two rows up to which they are read together, because a read costs more than these bytes."""
AT_ONCE = 1 << 24
"""Largest number of bytes of rows that are apart which are read together."""


def rows_of(path: Path, label: str, kinds: str = "fu") -> torch.Tensor | None:
    """Rows on disk, in place of a tensor, where the file is large beside the memory; None where it is better read at once.

    Args:
        path, label: The file, and its name in messages.
        kinds: NumPy's letters of the kinds of numbers that are wanted: f of floats, u of bytes.
    Raises:
        InputError: the file is damaged.
    """
    layout = npy.file_layout(path, label)
    plain = layout.dtype.isnative and not layout.fortran and layout.dtype.str[1:] in DTYPES and layout.dtype.kind in kinds
    if plain and len(layout.shape) > 1 and layout.num_bytes > npy.most_read():
        return cast(torch.Tensor, RowsOnDisk(path, label, layout))
    return None


class RowsOnDisk:
    """Stands in for a read-only tensor of shape (N, ...), of which every index of rows reads these rows alone.

    Slices and whole numbers along the first axis read no other rows. Whatever else a tensor can do, this can too: it then
    reads everything first.

    Args:
        path: The file.
        label: Its name in messages.
        layout: Its header: floats or bytes in this machine's byte order, rows one after the other, as `rows_of` finds out.
    """

    def __init__(self, path: Path, label: str, layout: npy.Layout) -> None:
        self.label, self.offset = label, layout.offset
        self.shape, self.dtype = torch.Size(layout.shape), DTYPES[layout.dtype.str[1:]]
        self.ndim, self.device = len(layout.shape), torch.device("cpu")
        self._numbers = layout.dtype
        self._row = layout.num_bytes // layout.shape[0]
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    def numel(self) -> int:
        """Number of numbers."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Whether these are floats."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether these are complex, which they are not."""
        return False

    def __getitem__(self, index: Any) -> torch.Tensor:
        rows, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(rows, slice) and all(isinstance(part, slice | int) for part in rest):
            start, stop, step = rows.indices(len(self))
            chosen = self._span(start, stop) if step == 1 else self._each(np.arange(start, stop, step))
            return chosen[(slice(None), *rest)] if rest else chosen
        if isinstance(rows, torch.Tensor) and rows.dim() == 1 and rows.dtype == torch.int64 and not rest:
            return self._each(rows.cpu().numpy())
        if isinstance(rows, int) and not isinstance(rows, bool) and not rest:
            return self._each(np.array([rows]))[0]
        return self.whole()[index]

    def whole(self) -> torch.Tensor:
        """All rows, in memory."""
        return self._span(0, len(self))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let functions of torch work on all rows."""
        return function(*map(_in_memory, args), **{name: _in_memory(value) for name, value in (kwargs or {}).items()})

    def _span(self, start: int, stop: int) -> torch.Tensor:
        count = max(0, stop - start)
        array = np.empty((count, *self.shape[1:]), self._numbers)
        view, done = array.reshape(-1).view(np.uint8).data, 0
        while done < len(view):
            read = os.preadv(self._file, [view[done : done + AT_ONCE]], self.offset + start * self._row + done)
            if not read:
                raise InputError(
                    f"{self.label} was cut while it was read: row {start + done // self._row} of {len(self):,} is gone. "
                    "Save or copy it again, and run the command again."
                )
            done += read
        return torch.from_numpy(array)

    def _each(self, rows: np.ndarray) -> torch.Tensor:
        """Rows in any order, the neighbours among them read together."""
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        order, place = np.unique(np.where(rows < 0, rows + len(self), rows), return_inverse=True)
        found = torch.empty((len(order), *self.shape[1:]), dtype=self.dtype)
        begin = 0
        while begin < len(order):
            reach = np.searchsorted(order, order[begin] + max(1, AT_ONCE // self._row))
            apart = np.flatnonzero(np.diff(order[begin:reach]) * self._row > GAP + self._row)
            end = begin + int(apart[0]) + 1 if len(apart) else int(reach)
            first = int(order[begin])
            found[begin:end] = self._span(first, int(order[end - 1]) + 1)[torch.from_numpy(order[begin:end] - first)]
            begin = end
        return found[torch.from_numpy(place.reshape(-1))]


def _in_memory(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_in_memory, value))
    return value.whole() if isinstance(value, RowsOnDisk) else value
