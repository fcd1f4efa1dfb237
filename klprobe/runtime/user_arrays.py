"""One object of the user's own Python as a tensor: arrays of any kind, DataFrames, images of pillow, single points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from klprobe.files.images import GREY_MODES
from klprobe.files.npy import as_data
from klprobe.printable import short
from klprobe.types import InputError

SHAPES = (
    "a tensor, an array or a DataFrame of shape (N, ...), a Dataset with __len__ and __getitem__ that gives x or (x, label), "
    "or a DataLoader"
)


def no_data(found: Any, name: str) -> InputError:
    """Make the error that says that an object is no data, and what is."""
    return InputError(f"{name} is a {type(found).__name__}, which cannot be turned into data: give {SHAPES}.")


def safely(do: Callable[[], Any], what: str) -> Any:
    """What the user's code returns; its error as one line."""
    try:
        return do()
    except (InputError, MemoryError):
        raise
    except Exception as error:
        said = (str(error).strip() or "no message").splitlines()[0][:200]
        raise InputError(f"{what} ({type(error).__name__}: {said}): repair it, or save the points as .npy.") from error


def as_tensor(found: Any, name: str) -> torch.Tensor | None:
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
        array = np.asarray(safely(lambda: np.asarray(found), f"{name} cannot be made an array"))
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


def _is_picture(found: Any) -> bool:
    return hasattr(found, "convert") and hasattr(found, "mode") and hasattr(found, "size")


def _of_picture(x: Any, name: str) -> torch.Tensor:
    """An image of pillow, shape (C, H, W): its bytes, or its levels where it has more than 8 bits."""
    as_it_is = x.mode.startswith("I") or x.mode == "F"
    array = np.asarray(x if as_it_is else x.convert("L" if x.mode in GREY_MODES else "RGB"))
    levels = torch.from_numpy(as_data(array, name, least=0).copy())
    return levels.unsqueeze(0) if levels.dim() == 2 else levels.movedim(-1, 0)


def one_point(x: Any, name: str) -> torch.Tensor:
    """One point as a tensor."""
    if _is_picture(x):
        return _of_picture(x, name)
    if isinstance(x, torch.utils.data.Dataset):
        raise InputError(f"{name} is itself a data set: give that one alone.")
    tensor = as_tensor(x, name)
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


def check_finite(x: torch.Tensor, start: int, name: str) -> torch.Tensor:
    """Return the points, of which the first is point `start`; raise InputError for the first that is not finite."""
    if x.is_floating_point() and not (good := x.flatten(1).isfinite().all(1)).all():
        first = start + int((~good).int().argmax())
        raise InputError(f"{name} has NaN or infinite numbers, first at point {first}: repair or remove it.")
    return x


def whole_numbers(label: Any) -> torch.Tensor | None:
    """A label, or a batch of them, as whole numbers; None where it is none."""
    if label is None or isinstance(label, str | bytes | Mapping):
        return None
    try:
        array = np.asarray(label.detach().cpu() if isinstance(label, torch.Tensor) else label)
    except (TypeError, ValueError):
        return None
    return torch.from_numpy(array.astype(np.int64)) if array.dtype.kind in "iub" else None
