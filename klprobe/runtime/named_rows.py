"""Several arrays of one length, by name: what a user gives to an encoder that takes more than one input.

They are the arrays of an .npz, a dictionary or a DataLoader, or the parts of a Dataset's items; parts without a name are
called 0, 1, ... by their place. Whole numbers stay whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klprobe.files import npy
from klprobe.files.zips import opened
from klprobe.runtime.user_arrays import as_tensor, check_finite, one_point, safely
from klprobe.types import InputError

Rows = Callable[[int, int], dict[str, torch.Tensor]]
SEED = 0
"""Seed of torch's global generator while a DataLoader deals out its batches, which is restored afterwards."""


@dataclass(frozen=True)
class NamedRows:
    """N rows of several arrays.

    Attributes:
        length: N.
        fetch: (start, stop) to the rows between, of each array by name.
        arrays: The arrays themselves, where they are in memory; else empty.
    """

    length: int
    fetch: Rows
    arrays: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def some(self, which: torch.Tensor) -> dict[str, torch.Tensor]:
        """The rows of these numbers, shape (m,), of each array."""
        if self.arrays:
            return {name: checked(x[which], 0, name) for name, x in self.arrays.items()}
        found = [self.fetch(int(i), int(i) + 1) for i in which]
        return {name: torch.cat([row[name] for row in found]) for name in found[0]}


@dataclass(frozen=True)
class Offer:
    """Arrays that there are, of which some are read.

    Attributes:
        names: All their names.
        rows: Function from the wanted names to the rows.
    """

    names: tuple[str, ...]
    rows: Callable[[Sequence[str]], NamedRows]


def in_npz(path: Path) -> Offer:
    """The arrays of an .npz; what is no array of numbers, damaged, or of another length, is refused when it is wanted."""
    with opened(path, path.name) as archive:
        names = tuple(info.filename.removesuffix(".npy") for info in archive.infolist())

    def rows(wanted: Sequence[str]) -> NamedRows:
        with opened(path, path.name) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            labels = {name: f"{path.name}: {name[:80]!r}" for name in wanted}
            arrays = {name: npy.read_member(archive, members[name], labels[name]) for name in wanted}
        ready = {name: torch.from_numpy(npy.as_data(array, labels[name], least=1)) for name, array in arrays.items()}
        return of_arrays(ready, path.name)

    return Offer(names, rows)


def of_arrays(arrays: Mapping[str, torch.Tensor], name: str) -> NamedRows:
    """Arrays that must have one number of rows."""
    lengths = {key: len(x) if x.dim() else 0 for key, x in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        told = ", ".join(f"{key!r:.80} has {length:,}" for key, length in lengths.items())
        raise InputError(f"{name}: the arrays must have one number of rows, a row a point, and {told}.")

    def fetch(start: int, stop: int) -> dict[str, torch.Tensor]:
        return {key: checked(x[start:stop], start, f"{name}: {key!r:.80}") for key, x in arrays.items()}

    return NamedRows(next(iter(lengths.values())), fetch, arrays)


def checked(x: torch.Tensor, start: int, name: str) -> torch.Tensor:
    """Rows of any shape, of which the first is row `start`; InputError where one is not finite."""
    check_finite(x[:, None] if x.dim() == 1 else x, start, name)
    return x


def in_object(found: Any, name: str) -> Offer | None:
    """The arrays that an object of the user's has; None where it has one alone.

    Raises:
        InputError: its first item cannot be read. What is no numbers, or of another length, is refused when it is wanted.
    """
    if isinstance(found, Mapping):
        held = {str(key): value for key, value in found.items()}
    elif as_tensor(found, name) is not None or isinstance(found, str | bytes | type):
        return None
    elif isinstance(found, tuple) and len(found) > 1 and all(hasattr(part, "dtype") for part in found):
        held = parts_of(found)
    elif isinstance(found, torch.utils.data.DataLoader):
        return _in_loader(found, name)
    else:
        return _in_items(found, name) if hasattr(found, "__getitem__") and hasattr(found, "__len__") else None

    def rows(wanted: Sequence[str]) -> NamedRows:
        return of_arrays({key: _array(held[key], f"{name}: {key!r:.80}") for key in wanted}, name)

    return Offer(tuple(held), rows)


def _array(value: Any, name: str) -> torch.Tensor:
    found = as_tensor(value, name)
    if found is None:
        array = safely(lambda: np.asarray(value), f"{name} cannot be made an array")
        found = torch.from_numpy(npy.as_data(array, name, least=1))
    return found.to_dense() if found.layout != torch.strided else found


def parts_of(item: Any) -> dict[str, Any]:
    """The parts of an item or a batch by name, or by place; none where it is one part."""
    if isinstance(item, Mapping):
        return {str(key): value for key, value in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return dict(zip(item._fields, item, strict=True))
    return {str(i): value for i, value in enumerate(item)} if isinstance(item, tuple | list) and len(item) > 1 else {}


def _in_loader(loader: Any, name: str) -> Offer | None:
    """The parts of a DataLoader's batches, all of which are read into one."""

    def dealt(do: Callable[[], Any]) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return safely(do, f"{name} failed while it dealt out its batches")

    def rows(wanted: Sequence[str]) -> NamedRows:
        blocks: dict[str, list[torch.Tensor]] = {key: [] for key in wanted}

        def read() -> None:
            for batch in loader:
                parts = parts_of(batch)
                for key in wanted:
                    blocks[key].append(_array(parts[key], f"{name}: {key!r:.80}"))

        dealt(read)
        failed = f"{name}: its batches do not fit together"
        return of_arrays(safely(lambda: {key: torch.cat(parts) for key, parts in blocks.items()}, failed), name)

    names = tuple(parts_of(dealt(lambda: next(iter(loader), ()))))
    return Offer(names, rows) if names else None


def _in_items(found: Any, name: str) -> Offer | None:
    """The parts of a map-style Dataset's items, which are read when they are needed."""
    length = safely(lambda: len(found), f"{name} has no length")
    names = tuple(parts_of(safely(partial(found.__getitem__, 0), f"{name} failed at item 0"))) if length else ()

    def rows(wanted: Sequence[str]) -> NamedRows:
        def fetch(start: int, stop: int) -> dict[str, torch.Tensor]:
            blocks: dict[str, list[torch.Tensor]] = {key: [] for key in wanted}
            for i in range(start, min(stop, length)):
                parts = parts_of(safely(partial(found.__getitem__, i), f"{name} failed at item {i}"))
                if tuple(parts) != names:
                    raise InputError(f"{name}: item {i} has the parts {', '.join(parts)}, and item 0 has {', '.join(names)}.")
                for key in wanted:
                    blocks[key].append(_part(parts[key], f"{name}, item {i}: {key!r:.80}"))
            if uneven := [key for key, values in blocks.items() if len({value.shape for value in values}) > 1]:
                raise InputError(f"{name} gives {uneven[0]!r:.80} of different shapes: pad them, and give lengths as well.")
            return {key: checked(torch.stack(values), start, f"{name}: {key!r:.80}") for key, values in blocks.items()}

        return NamedRows(length, fetch)

    return Offer(names, rows) if names else None


def _part(value: Any, name: str) -> torch.Tensor:
    """One part of one item: a point, or one number."""
    if isinstance(value, bool | int | float | np.generic) or (isinstance(value, torch.Tensor | np.ndarray) and not value.ndim):
        return torch.as_tensor(value)
    return one_point(value, name)
