"""The data that an encoder is run over: where they come from, and every step from the file to the network's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from klprobe import registry
from klprobe.files import npy
from klprobe.files.images import channels_first, check_same_shape, find_images, read_image
from klprobe.files.remembered import MODULE
from klprobe.formats import Request
from klprobe.runtime.user_code import import_named
from klprobe.types import InputError

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level, by ITU-R BT.601, as in pillow's mode L."""
SOURCES = "a data set's name (klprobe list), a .npy or .npz of shape (N, ...), a folder of images, or package.module:dataset"


@dataclass(frozen=True)
class Inputs:
    """N data points, which are fetched and preprocessed block by block.

    Attributes:
        name: Name that the user gave.
        length: Number of data points, N.
        fetch: Function of (start, stop) that returns the points between as they are stored: uint8, or another numeric type.
        request: The request, which says which preprocessing steps to take.
        split: Split of a klprobe data set; `unknown` for other data.
        notes: Sentences that tell the user how the data were changed.
        labels: Labels of a klprobe data set, int64, shape (N,); None for other data.
    """

    name: str
    length: int
    fetch: Callable[[int, int], torch.Tensor]
    request: Request
    split: str = "unknown"
    notes: tuple[str, ...] = field(default=())
    labels: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.length

    def batch(self, start: int, stop: int) -> torch.Tensor:
        """Points `start` to `stop`, preprocessed for the encoder: float32, shape (m, ...)."""
        return preprocess(self.fetch(start, min(stop, self.length)), self.request, self.name)

    def floats(self, which: slice) -> torch.Tensor:
        """The same as `batch`, for a slice without a step."""
        return self.batch(which.start or 0, self.length if which.stop is None else which.stop)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one data point as the encoder gets it."""
        return tuple(self.batch(0, 1).shape[1:])

    def facts(self) -> dict[str, Any]:
        """Facts for the report, in strict JSON: the data and every preprocessing step."""
        sample = self.fetch(0, 1)
        return {
            "data": self.name,
            "num_points": self.length,
            "stored": f"{str(sample.dtype).removeprefix('torch.')} {tuple(sample.shape[1:])}",
            "preprocessing": describe(self.request, sample),
            "input_shape": list(self.shape),
        }


def preprocess(x: torch.Tensor, request: Request, name: str) -> torch.Tensor:
    """Scale bytes to [0, 1], then turn to grey, resize, map to the range and flatten, each only when asked for.

    Args:
        x: Points as stored, shape (m, ...); images are (m, C, H, W) or (m, H, W).
    Returns:
        float32, shape (m, ...).
    Raises:
        InputError: these data do not allow a step; the message says why.
    """
    values = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if request.gray or request.resize:
        values = _as_images(values, name)
    if request.gray and values.shape[1] == 3:
        values = (values * values.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif request.gray and values.shape[1] != 1:
        raise InputError(f"--gray needs images with 1 or 3 channels, but {name} gives {values.shape[1]}.")
    if request.resize and tuple(values.shape[2:]) != request.resize:
        values = functional.interpolate(values, request.resize, mode="bilinear", antialias=True)
    if request.value_range is not None:
        low, high = request.value_range
        if values.numel() and (values.min() < -1e-4 or values.max() > 1 + 1e-4):
            raise InputError(
                f"--range {low:g},{high:g} maps bytes, or numbers in [0, 1], but {name} holds {values.min():g} to "
                f"{values.max():g}: do not give --range, to take them as they are, or scale them to [0, 1] first."
            )
        values = low + (high - low) * values
    return values.flatten(1) if request.flatten else values


def describe(request: Request, sample: torch.Tensor) -> list[str]:
    """Describe the steps of `preprocess` in words, in their order."""
    steps = ["bytes to [0, 1]"] if sample.dtype == torch.uint8 else ["values as they are"]
    if request.gray:
        steps.append("gray")
    if request.resize:
        steps.append(f"resized to {request.resize[0]} x {request.resize[1]}, bilinear")
    if request.value_range is not None:
        steps.append("[0, 1] to [{:g}, {:g}]".format(*request.value_range))
    if request.flatten:
        steps.append("flattened")
    return steps


def open_inputs(request: Request, label: str) -> Inputs:
    """Open the data that the user names with `--data`, whose code may be imported; never pass a name that a file gave.

    Raises:
        InputError: no name, nothing of that name, or data that cannot be used.
    """
    name = request.data
    if name is None:
        raise InputError(f"{label} is an encoder, and needs data to encode: give --data with {SOURCES}.")
    path = Path(name)
    registered = name.partition(":")[0].replace("_", "-")
    elsewhere = path.exists() or MODULE.fullmatch(name) or path.suffix or len(path.parts) > 1
    if registered in registry.names("datasets") or not elsewhere:
        return inputs_of(registry.create("datasets", name), request)
    if request.split != "all":
        raise InputError(
            f"--split {request.split} chooses among klprobe's data sets only: give the points of that split as --data."
        )
    if path.is_dir():
        return _folder(path, request)
    if path.exists():
        return _from_tensor(path.name, _array_file(path), request)
    if MODULE.fullmatch(name):
        return _from_python(name, request)
    raise InputError(f"--data {name} does not exist: give {SOURCES}.")


def inputs_of(chosen: Any, request: Request) -> Inputs:
    """Read the requested split of one of klprobe's data sets.

    Raises:
        InputError: data that are missing or damaged.
    """
    data = chosen.load(request.split, request.data_root, request.progress)

    def fetch(start: int, stop: int) -> torch.Tensor:
        return data.points(slice(start, stop))

    return Inputs(data.name, len(data), fetch, request, request.split, data.notes, data.labels)


def _array_file(path: Path) -> torch.Tensor:
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"--data {path} is neither .npy nor .npz nor a folder of images: give {SOURCES}.")
    array = npy.map_file(path, path.name) if path.suffix.lower() == ".npy" else npy.read_sole(path)
    return torch.from_numpy(npy.as_data(array, path.name))


def _from_tensor(name: str, x: torch.Tensor, request: Request) -> Inputs:
    """Wrap data in memory; images whose channels come last, as in most arrays, are turned to (C, H, W)."""
    turned = channels_first(x)
    notes = (f"{name}: channels last, turned to (C, H, W) = {tuple(turned.shape[1:])}",) if turned is not x else ()
    return Inputs(name, len(turned), lambda start, stop: turned[start:stop], request, notes=notes)


def _folder(folder: Path, request: Request) -> Inputs:
    """Open a folder of images, which are decoded block by block, then turned to grey and resized, as sizes may differ."""
    files = find_images(folder)

    def fetch(start: int, stop: int) -> torch.Tensor:
        some = files[start:stop]
        images = [read_image(file, str(file), gray=request.gray, size=request.resize) for file in some]
        check_same_shape(images, [file.name for file in some])
        return torch.stack(images)

    return Inputs(folder.name, len(files), fetch, request)


def _from_python(name: str, request: Request) -> Inputs:
    """Import `package.module:dataset`: a tensor, an array, a map-style torch Dataset, or a function that returns one."""
    found = import_named(name, "--data")
    if callable(found) and not hasattr(found, "__getitem__"):
        found = found()
    if isinstance(found, np.ndarray):
        found = torch.from_numpy(found)
    if isinstance(found, torch.Tensor):
        if found.dim() < 2 or found.is_complex():
            raise InputError(f"--data {name} is {found.dtype} of shape {tuple(found.shape)}, but data have shape (N, ...).")
        return _from_tensor(name, found, request)
    if not (hasattr(found, "__getitem__") and hasattr(found, "__len__")):
        raise InputError(
            f"--data {name} is a {type(found).__name__}: give a tensor or an array of shape (N, ...), or a Dataset with "
            "__len__ and __getitem__ that gives x or (x, label)."
        )

    def fetch(start: int, stop: int) -> torch.Tensor:
        items = (found[i] for i in range(start, stop))
        points = [torch.as_tensor(item[0] if isinstance(item, tuple | list) else item) for item in items]
        if len({point.shape for point in points}) > 1:
            raise InputError(f"--data {name} gives points of different shapes: {sorted({tuple(p.shape) for p in points})[:3]}.")
        return torch.stack(points)

    return Inputs(name, len(found), fetch, request)


def _as_images(values: torch.Tensor, name: str) -> torch.Tensor:
    if values.dim() == 3:
        return values.unsqueeze(1)
    if values.dim() != 4:
        raise InputError(
            f"--resize and --gray need images, (C, H, W), but {name} gives points of shape {tuple(values.shape[1:])}."
        )
    return values
