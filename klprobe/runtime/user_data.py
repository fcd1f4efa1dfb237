"""What the user's own Python gives as data, made points: arrays, tables, sparse matrices, Datasets, DataLoaders, functions.

Everything is taken apart by rows, a row a point, and what is left aside is said. Her code runs because she named it; an error
in it is one line that says where.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from klprobe.files.child import GB, machine_bytes
from klprobe.files.npy import as_data
from klprobe.printable import short
from klprobe.runtime.user_arrays import SHAPES, as_tensor, check_finite, no_data, one_point, safely, whole_numbers
from klprobe.runtime.user_code import import_named
from klprobe.types import InputError

DATA_KEYS = ("x", "image", "images", "img", "pixel_values", "data", "input", "inputs", "features")
LABEL_KEYS = ("label", "labels", "y", "target", "targets", "fine_label", "class")
"""What the two are called in items that are dictionaries."""
BLOCK = 1000
SEED = 0
"""State of torch's global generator while a DataLoader deals out its batches, which is restored afterwards."""


@dataclass(frozen=True)
class Points:
    """N points of the user's.

    Attributes:
        length: N.
        fetch: (start, stop) to the points between, shape (m, ...), and their labels, int64, shape (m,), or None.
        notes: What was left aside, in sentences.
    """

    length: int
    fetch: Callable[[int, int], tuple[torch.Tensor, torch.Tensor | None]]
    notes: tuple[str, ...] = ()


def named_points(spec: str, flag: str) -> Points:
    """The points of `package.module:name`, which is imported, and called where it is a function or a class.

    Raises:
        InputError: no such name, code that fails, or nothing that has points; one line that says what to give.
    """
    name = f"{flag} {spec}".strip()
    return points_of(made(import_named(spec, flag or "data set"), name), name)


def made(found: Any, name: str) -> Any:
    """What the user named: a function or a class is called without arguments, and everything else stays as it is.

    Raises:
        InputError: it needs arguments, or it fails.
    """
    is_class = isinstance(found, type)
    if not is_class and (not callable(found) or hasattr(found, "__getitem__") or isinstance(found, torch.Tensor)):
        return found
    if needed := _needed(found):
        raise InputError(
            f"{name} needs arguments ({', '.join(needed)}), and klprobe calls it without: name a function that takes none and "
            "gives the data."
        )
    return safely(found, f"{name} failed when it was called")


def points_of(found: Any, name: str) -> Points:
    """The points of an object: rows of arrays and tables, items of a Dataset, all batches of a DataLoader.

    Raises:
        InputError: it has no points, or points that do not fit together.
    """
    known = as_tensor(found, name)
    if known is not None:
        return _rows(known, name)
    if hasattr(found, "tocsr") and hasattr(found, "toarray"):
        return _sparse(found, name)
    if isinstance(found, Mapping):
        return _named(found, name)
    if isinstance(found, tuple) and len(found) > 1 and (arrays := _arrays(found, name)):
        return arrays
    if _is_loader(found):
        return _batches(found, name)
    if hasattr(found, "__getitem__") and hasattr(found, "__len__") and not isinstance(found, str | bytes | type):
        return _items(found, name)
    if hasattr(found, "__iter__") and not isinstance(found, str | bytes | type | set | frozenset):
        return _items(_listed(found, name), name)
    raise no_data(found, name)


def _needed(function: Any) -> list[str]:
    """Arguments that a call cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    some = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in some]


def _rows(x: torch.Tensor, name: str) -> Points:
    """The rows of a dense or sparse tensor."""
    if x.dim() < 2 or not len(x) or not x.numel():
        remedy = f"write x[:, None] if these are {len(x)} points of one number" if x.dim() == 1 and len(x) else f"give {SHAPES}"
        kind = str(x.dtype).removeprefix("torch.")
        raise InputError(f"{name} is {kind} of shape {tuple(x.shape)}, but data have shape (N, ...): {remedy}.")
    if x.layout != torch.strided:
        x = x.to_sparse_csr() if x.dim() == 2 else x.coalesce() if x.layout == torch.sparse_coo else x

        def dense(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
            which = torch.arange(start, min(stop, len(x)))
            part = x.to_sparse_coo().index_select(0, which).to_dense()
            return check_finite(part, start, name), None

        return Points(len(x), dense)
    return Points(len(x), lambda start, stop: (check_finite(x[start:stop], start, name), None))


def _sparse(found: Any, name: str) -> Points:
    """A sparse matrix of scipy's, made dense a block at a time."""
    rows = found.tocsr()
    if len(rows.shape) != 2 or not all(rows.shape):
        raise InputError(f"{name} is a sparse matrix of shape {rows.shape}, but data have shape (N, D).")

    def fetch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        return check_finite(torch.from_numpy(as_data(rows[start:stop].toarray(), name)), start, name), None

    return Points(rows.shape[0], fetch)


def _key(keys: Iterable[Any], name: str) -> Any:
    """Which entry of a dictionary is the data: the only one beside labels, or the only one of a known name."""
    beside = [key for key in keys if str(key).lower() not in LABEL_KEYS]
    named = [key for key in beside if str(key).lower() in DATA_KEYS]
    chosen = named if named else beside
    if len(chosen) != 1:
        held = ", ".join(short(key) for key in list(keys)[:8]) or "nothing"
        raise InputError(f"{name} gives dictionaries of {held}, and which of them is the data is not clear: give x alone.")
    return chosen[0]


def _label_key(keys: Iterable[Any]) -> Any:
    return next((key for key in keys if str(key).lower() in LABEL_KEYS), None)


def _named(found: Mapping[Any, Any], name: str) -> Points:
    """A dictionary of arrays: one of them is the data, the others are said."""
    key = _key(found, name)
    points = points_of(found[key], f"{name}[{key!r}]")
    label = _label_key(found)
    points = points if label is None else _with_labels(points, found[label])
    others = ", ".join(repr(other) for other in found if other != key)
    return replace(points, notes=(f"{name}: {key!r} is the data{f'; {others} left aside' if others else ''}.", *points.notes))


def _arrays(found: tuple[Any, ...], name: str) -> Points | None:
    """A tuple of arrays: points and their labels; several arrays of points are refused, for which is meant is not known."""
    second = found[1]
    if len(found) == 2 and isinstance(second, list) and all(isinstance(label, int) for label in second):
        found = (found[0], np.asarray(second, np.int64))
    arrays = [np.asarray(part) for part in found if hasattr(part, "__array__") and hasattr(part, "shape")]
    if len(arrays) != len(found) or arrays[0].ndim < 2:
        return None
    if len(arrays) == 2 and arrays[1].shape == arrays[0].shape[:1]:
        return _with_labels(points_of(found[0], name), arrays[1])
    shapes = " and ".join(str(array.shape) for array in arrays[:4])
    raise InputError(
        f"{name} is {len(arrays)} arrays, of shapes {shapes}, and which is the data is not clear: give one of them, or a "
        "list of points."
    )


def _with_labels(points: Points, labels: Any) -> Points:
    """Points with labels beside them, where these are whole numbers, one a point."""
    y = torch.as_tensor(np.asarray(labels)) if np.asarray(labels).dtype.kind in "iub" else None
    if y is None or y.shape != (points.length,):
        return points
    return replace(points, fetch=lambda start, stop: (points.fetch(start, stop)[0], y[start:stop].long()))


def _is_loader(found: Any) -> bool:
    return isinstance(found, torch.utils.data.DataLoader) or (
        hasattr(found, "dataset") and hasattr(found, "__iter__") and not hasattr(found, "__getitem__")
    )


def _batches(loader: Any, name: str) -> Points:
    """All batches of a DataLoader in one, as it deals them out."""
    blocks: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    notes: tuple[str, ...] = (f"{name}: a DataLoader; its batches are taken in the order in which it deals them out.",)
    held, most = 0, machine_bytes() / 2

    def read() -> None:
        nonlocal held
        for i, batch in enumerate(loader):
            x, label, note = _parts(batch, f"{name}, batch {i}")
            tensor = as_tensor(x, name)
            if tensor is None:
                raise InputError(f"{name}: batch {i} is a {type(x).__name__}, and no tensor: give {SHAPES}.")
            blocks.append((check_finite(tensor, sum(len(b) for b, _ in blocks), name), whole_numbers(label)))
            held += tensor.nbytes
            _enough(held, most, name)
            if i == 0 and note:
                notes_of_items.append(f"{name}: {note}.")

    notes_of_items: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        safely(read, f"{name} failed while it dealt out its batches")
    if not blocks:
        raise InputError(f"{name} deals out no batches: give {SHAPES}.")
    if len({x.shape[1:] for x, _ in blocks}) > 1:
        raise InputError(f"{name} gives points of different shapes: {sorted({tuple(x.shape[1:]) for x, _ in blocks})[:3]}.")
    points = _rows(torch.cat([x for x, _ in blocks]), name)
    labels = [y for _, y in blocks]
    whole = [y for y in labels if y is not None and y.dim() == 1]
    found = _with_labels(points, torch.cat(whole)) if len(whole) == len(labels) else points
    return replace(found, notes=(*notes, *notes_of_items, *_dropped(loader, found.length, name)))


def _dropped(loader: Any, count: int, name: str) -> tuple[str, ...]:
    """How many points of its data set a DataLoader leaves out, where that can be told."""
    data: Any = getattr(loader, "dataset", ())
    whole = len(data) if hasattr(data, "__len__") else count
    return (f"{name} deals out {count:,} of the {whole:,} points of its data set.",) if count < whole else ()


def _enough(held: float, most: float, name: str) -> None:
    if held > most:
        raise InputError(f"{name} gives more than {most / GB:.3g} GB, half of this machine's memory: give fewer points.")


def _listed(found: Iterable[Any], name: str) -> list[Any]:
    """The items of what can only be gone through once, such as a generator."""
    items: list[Any] = []
    iterator, held, most = iter(found), 0, machine_bytes() / 2
    while block := safely(lambda: list(itertools.islice(iterator, BLOCK)), f"{name} failed at an item after {len(items)}"):
        items += block
        held += BLOCK * getattr(_parts(block[0], name)[0], "nbytes", 64)
        _enough(held, most, name)
    return items


def _items(found: Any, name: str) -> Points:
    """The items of a map-style Dataset, or of a list."""
    length = safely(lambda: len(found), f"{name} has no length")
    if not length:
        raise InputError(f"{name} is empty: give at least one data point.")
    _, _, note = _parts(safely(partial(found.__getitem__, 0), f"{name} failed at item 0"), name)

    def fetch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        some: list[torch.Tensor] = []
        labels: list[torch.Tensor | None] = []
        for i in range(start, min(stop, length)):
            x, label, _ = _parts(safely(partial(found.__getitem__, i), f"{name} failed at item {i}"), name)
            some.append(one_point(x, f"{name}, item {i}"))
            labels.append(whole_numbers(label))
        if len({(point.shape, point.dtype) for point in some}) > 1:
            shapes = sorted({tuple(point.shape) for point in some})
            said = f"shapes: {shapes[:3]}" if len(shapes) > 1 else "types: " + ", ".join(sorted({str(p.dtype) for p in some}))
            raise InputError(f"{name} gives points of different {said}: make them one.")
        whole = [label for label in labels if label is not None and label.dim() == 0]
        return check_finite(torch.stack(some), start, name), torch.stack(whole) if len(whole) == len(some) else None

    return Points(length, fetch, (f"{name}: {note}.",) if note else ())


def _parts(item: Any, name: str) -> tuple[Any, Any, str]:
    """An item's data, its label or None, and what is to be said of the rest."""
    if isinstance(item, Mapping):
        key, label = _key(item, name), _label_key(item)
        others = ", ".join(repr(other) for other in item if other not in (key, label))
        note = f"{key!r} of each item is the data" + f"; {others} left aside" * bool(others)
        return item[key], None if label is None else item[label], note
    if not isinstance(item, tuple | list) or _is_numbers(item):
        return item, None, ""
    if not item:
        raise InputError(f"{name} gives items that are empty: give {SHAPES}.")
    if len(item) == 1:
        return item[0], None, ""
    y = whole_numbers(item[1])
    plain = len(item) == 2 and (isinstance(item[1], str) or item[1] is None or (y is not None and y.dim() < 2))
    note = "" if plain else f"the first of the {len(item)} parts of each item is the data, and the others are left aside"
    return item[0], item[1], note


def _is_numbers(item: Sequence[Any]) -> bool:
    """Whether a list or tuple is itself a point: numbers, or rows of numbers, and no pair of a point and a label."""
    if all(isinstance(value, int | float | np.number) for value in item):
        return bool(item)
    return isinstance(item, list) and all(isinstance(row, list) and _is_numbers(row) for row in item)
