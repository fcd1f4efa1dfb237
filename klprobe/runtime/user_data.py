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
from klprobe.files.images import GREY_MODES
from klprobe.files.npy import as_data
from klprobe.printable import short
from klprobe.runtime.user_code import import_named
from klprobe.types import InputError

DATA_KEYS = ("x", "image", "images", "img", "pixel_values", "data", "input", "inputs", "features")
LABEL_KEYS = ("label", "labels", "y", "target", "targets", "fine_label", "class")
"""What the two are called in items that are dictionaries."""
SHAPES = (
    "a tensor, an array or a DataFrame of shape (N, ...), a Dataset with __len__ and __getitem__ that gives x or (x, label), "
    "or a DataLoader"
)
BLOCK = 1000
SEED = 0
"""Of torch's global generator while a DataLoader deals out its batches, which is restored afterwards."""


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
    return _safely(found, f"{name} failed when it was called")


def points_of(found: Any, name: str) -> Points:
    """The points of an object: rows of arrays and tables, items of a Dataset, all batches of a DataLoader.

    Raises:
        InputError: it has no points, or points that do not fit together.
    """
    known = _tensor(found, name)
    if known is not None:
        return _rows(known, name)
    if hasattr(found, "tocsr") and hasattr(found, "toarray"):
        return _sparse(found, name)
    if isinstance(found, Mapping):
        return _named(found, name)
    if isinstance(found, tuple) and len(found) == 2 and (pair := _pair(found, name)):
        return pair
    if _is_loader(found):
        return _batches(found, name)
    if hasattr(found, "__getitem__") and hasattr(found, "__len__") and not isinstance(found, str | bytes | type):
        return _items(found, name)
    if hasattr(found, "__iter__") and not isinstance(found, str | bytes | type | set | frozenset):
        return _items(_listed(found, name), name)
    raise _no_data(found, name)


def _no_data(found: Any, name: str) -> InputError:
    return InputError(f"{name} is a {type(found).__name__}, which cannot be turned into data: give {SHAPES}.")


def _needed(function: Any) -> list[str]:
    """Arguments that a call cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    some = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in some]


def _safely(do: Callable[[], Any], what: str) -> Any:
    """What the user's code returns; its error as one line."""
    try:
        return do()
    except (InputError, MemoryError):
        raise
    except Exception as error:
        said = (str(error).strip() or "no message").splitlines()[0][:200]
        raise InputError(f"{what} ({type(error).__name__}: {said}): repair it, or save the points as .npy.") from error


def _tensor(found: Any, name: str) -> torch.Tensor | None:
    """An object that is one array, as a tensor in this machine's byte order; None where it is something else."""
    if isinstance(found, torch.Tensor):
        if found.is_meta or found.is_complex():
            kind = "complex" if found.is_complex() else "without values"
            raise InputError(f"{name} is {kind}, and no data: give real numbers.")
        return (found.dequantize() if found.is_quantized else found).detach().cpu()
    if _is_picture(found):
        raise InputError(f"{name} is one image, and no data set: give a list of images, or a folder.")
    if hasattr(found, "to_pandas") and hasattr(found, "column_names"):  # a table of pyarrow, or a data set of Hugging Face
        return None
    if hasattr(found, "columns") and hasattr(found, "to_numpy"):
        return torch.from_numpy(_of_frame(found, name))
    if isinstance(found, np.ma.MaskedArray) and np.ma.is_masked(found):
        raise InputError(f"{name} has masked numbers: fill or remove those points.")
    if isinstance(found, np.ndarray) or (hasattr(found, "__array__") and hasattr(found, "shape") and hasattr(found, "dtype")):
        array = np.asarray(_safely(lambda: np.asarray(found), f"{name} cannot be made an array"))
        return torch.from_numpy(as_data(_real(array, name), name, least=0))
    return None


def _real(array: np.ndarray, name: str) -> np.ndarray:
    """An array of objects as one of numbers, where its objects are numbers, or arrays of one shape."""
    if array.dtype.kind != "O":
        return array
    parts = [np.asarray(part) for part in array.reshape(-1)]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 or any(part.dtype.kind not in "fiub" for part in parts):
        held = f"objects of shapes {sorted(shapes)[:3]}" if len(shapes) > 1 else f"objects, {short(array.reshape(-1)[0])}"
        raise InputError(f"{name} is an array of {held}, and no array of numbers: make all points numbers of one shape.")
    return np.stack(parts).reshape(array.shape + parts[0].shape) if parts else np.empty(array.shape)


def _of_frame(frame: Any, name: str) -> np.ndarray:
    """The rows of a DataFrame; columns of text are named, and not dropped."""
    columns = list(frame.columns)
    arrays = []
    for i, column in enumerate(columns):
        one = frame.iloc[:, i] if hasattr(frame, "iloc") else frame[column]
        array = np.asarray(one.to_numpy())
        if array.dtype.kind not in "fiub":
            try:
                if array.dtype.kind not in "O" or _has_text(array):
                    raise TypeError("no numbers")
                array = array.astype(np.float64)
            except (TypeError, ValueError):
                held = short(array[0]) if len(array) else "nothing"
                raise InputError(
                    f"{name}: column {short(column)} holds {array.dtype}, {held}, and no numbers: give a DataFrame of numbers."
                ) from None
            if not np.isfinite(array).all():
                raise InputError(f"{name}: column {short(column)} has missing numbers: fill or remove those rows.")
        arrays.append(array)
    if not arrays:
        raise InputError(f"{name} is a DataFrame without columns: give one of shape (N, D).")
    return np.ascontiguousarray(np.stack([as_data(array, name, least=0) for array in arrays], 1))


def _has_text(array: np.ndarray) -> bool:
    return any(isinstance(value, str | bytes) for value in array)


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
            return _finite(part, start, name), None

        return Points(len(x), dense)
    return Points(len(x), lambda start, stop: (_finite(x[start:stop], start, name), None))


def _sparse(found: Any, name: str) -> Points:
    """A sparse matrix of scipy's, made dense a block at a time."""
    rows = found.tocsr()
    if len(rows.shape) != 2 or not all(rows.shape):
        raise InputError(f"{name} is a sparse matrix of shape {rows.shape}, but data have shape (N, D).")

    def fetch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        return _finite(torch.from_numpy(as_data(rows[start:stop].toarray(), name)), start, name), None

    return Points(rows.shape[0], fetch)


def _finite(x: torch.Tensor, start: int, name: str) -> torch.Tensor:
    if x.is_floating_point() and not (good := x.flatten(1).isfinite().all(1)).all():
        first = start + int((~good).int().argmax())
        raise InputError(f"{name} has NaN or infinite numbers, first at point {first}: repair or remove it.")
    return x


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


def _pair(found: tuple[Any, Any], name: str) -> Points | None:
    """Two arrays: points and one label for each of them; two arrays of points are refused, for which is meant is not known."""
    try:
        x, y = (_tensor(part, name) if not isinstance(part, list) else torch.as_tensor(np.asarray(part)) for part in found)
    except (TypeError, ValueError):
        return None
    if x is None or y is None or x.dim() < 2:
        return None
    if y.dim() == 1 and len(y) == len(x):
        return _with_labels(_rows(x, name), y)
    raise InputError(
        f"{name} is two arrays, of shapes {tuple(x.shape)} and {tuple(y.shape)}, and which is the data is not clear: "
        "give one of them."
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
            tensor = _tensor(x, name)
            if tensor is None:
                raise InputError(f"{name}: batch {i} is a {type(x).__name__}, and no tensor: give {SHAPES}.")
            blocks.append((_finite(tensor, sum(len(b) for b, _ in blocks), name), _whole(label)))
            held += tensor.nbytes
            _enough(held, most, name)
            if i == 0 and note:
                notes_of_items.append(f"{name}: {note}.")

    notes_of_items: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        _safely(read, f"{name} failed while it dealt out its batches")
    if not blocks:
        raise InputError(f"{name} deals out no batches: give {SHAPES}.")
    if len({x.shape[1:] for x, _ in blocks}) > 1:
        raise InputError(f"{name} gives points of different shapes: {sorted({tuple(x.shape[1:]) for x, _ in blocks})[:3]}.")
    points = _rows(torch.cat([x for x, _ in blocks]), name)
    labels = [y for _, y in blocks]
    whole = [y for y in labels if y is not None and y.dim() == 1]
    found = _with_labels(points, torch.cat(whole)) if len(whole) == len(labels) else points
    return replace(found, notes=(*notes, *notes_of_items))


def _enough(held: float, most: float, name: str) -> None:
    if held > most:
        raise InputError(f"{name} gives more than {most / GB:.3g} GB, half of this machine's memory: give fewer points.")


def _listed(found: Iterable[Any], name: str) -> list[Any]:
    """The items of what can only be gone through once, such as a generator."""
    items: list[Any] = []
    iterator, held, most = iter(found), 0, machine_bytes() / 2
    while block := _safely(lambda: list(itertools.islice(iterator, BLOCK)), f"{name} failed at an item after {len(items)}"):
        items += block
        held += BLOCK * getattr(_parts(block[0], name)[0], "nbytes", 64)
        _enough(held, most, name)
    return items


def _items(found: Any, name: str) -> Points:
    """The items of a map-style Dataset, or of a list."""
    length = _safely(lambda: len(found), f"{name} has no length")
    if not length:
        raise InputError(f"{name} is empty: give at least one data point.")
    _, _, note = _parts(_safely(partial(found.__getitem__, 0), f"{name} failed at item 0"), name)

    def fetch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        some: list[torch.Tensor] = []
        labels: list[torch.Tensor | None] = []
        for i in range(start, min(stop, length)):
            x, label, _ = _parts(_safely(partial(found.__getitem__, i), f"{name} failed at item {i}"), name)
            some.append(_point(x, f"{name}, item {i}"))
            labels.append(_whole(label))
        if len({(point.shape, point.dtype) for point in some}) > 1:
            shapes = sorted({tuple(point.shape) for point in some})
            said = f"shapes: {shapes[:3]}" if len(shapes) > 1 else "types: " + ", ".join(sorted({str(p.dtype) for p in some}))
            raise InputError(f"{name} gives points of different {said}: make them one.")
        whole = [label for label in labels if label is not None and label.dim() == 0]
        return _finite(torch.stack(some), start, name), torch.stack(whole) if len(whole) == len(some) else None

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
    y = _whole(item[1])
    plain = len(item) == 2 and (isinstance(item[1], str) or item[1] is None or (y is not None and y.dim() < 2))
    note = "" if plain else f"the first of the {len(item)} parts of each item is the data, and the others are left aside"
    return item[0], item[1], note


def _is_numbers(item: Sequence[Any]) -> bool:
    """Whether a list or tuple is itself a point: numbers, or rows of numbers, and no pair of a point and a label."""
    if all(isinstance(value, int | float | np.number) for value in item):
        return bool(item)
    return isinstance(item, list) and all(isinstance(row, list) and _is_numbers(row) for row in item)


def _whole(label: Any) -> torch.Tensor | None:
    """A label, or a batch of them, as whole numbers; None where it is none."""
    if label is None or isinstance(label, str | bytes | Mapping):
        return None
    try:
        array = np.asarray(label.detach().cpu() if isinstance(label, torch.Tensor) else label)
    except (TypeError, ValueError):
        return None
    return torch.from_numpy(array.astype(np.int64)) if array.dtype.kind in "iub" else None


def _is_picture(found: Any) -> bool:
    return hasattr(found, "convert") and hasattr(found, "mode") and hasattr(found, "size")


def _of_picture(x: Any, name: str) -> torch.Tensor:
    """An image of pillow, shape (C, H, W): its bytes, or its levels where it has more than 8 bits."""
    as_it_is = x.mode.startswith("I") or x.mode == "F"
    array = np.asarray(x if as_it_is else x.convert("L" if x.mode in GREY_MODES else "RGB"))
    levels = torch.from_numpy(as_data(array, name, least=0).copy())
    return levels.unsqueeze(0) if levels.dim() == 2 else levels.movedim(-1, 0)


def _point(x: Any, name: str) -> torch.Tensor:
    """One point as a tensor."""
    if _is_picture(x):
        return _of_picture(x, name)
    tensor = _tensor(x, name)
    if tensor is None and hasattr(x, "toarray"):
        tensor = torch.from_numpy(as_data(np.asarray(x.toarray()), name, least=0)).squeeze(0)
    if tensor is None:
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise InputError(f"{name} is a list of several lengths: make all points one shape.") from error
        if array.dtype.kind not in "fiub" or not array.ndim:
            raise InputError(f"{name} is a {type(x).__name__}, {short(x)}, and no numbers: give {SHAPES}.")
        tensor = torch.from_numpy(as_data(array, name, least=0))
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    if not tensor.dim():
        raise InputError(f"{name} is one number; a point has shape (D,) or more: write [x].")
    return tensor
