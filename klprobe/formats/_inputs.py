"""The data that an encoder is run over: where they come from, and every step from the file to the network's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from klprobe import registry
from klprobe.files import npy, tables
from klprobe.files.images import WHITE, channels_first, check_same_shape, find_images, read_levels
from klprobe.files.remembered import MODULE
from klprobe.files.rows_on_disk import rows_of
from klprobe.formats import Request
from klprobe.printable import short
from klprobe.runtime.named_rows import in_npz
from klprobe.runtime.user_arrays import check_finite
from klprobe.runtime.user_data import named_points
from klprobe.training.levels import Levels, in_words, levels_of, range_check
from klprobe.types import Check, InputError

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level, by ITU-R BT.601, as in pillow's mode L."""
SOURCES = (
    "a data set's name (klprobe list), a .npy, .npz, .csv or .parquet of shape (N, ...), a folder of images, or "
    "package.module:dataset"
)
SPREAD_BYTE = 257
"""Level of 16 bits that one of 8 stands for: 255 becomes 65535."""


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
        levels: Whether whole numbers are levels of images, of 16 bits where they are not bytes.
        white: Number that becomes 1 by the data set's own settings; None where it has none.
        seen: Range of the values that the encoder was given so far, before `--range`, under the key `all`.
    """

    name: str
    length: int
    fetch: Callable[[int, int], torch.Tensor]
    request: Request
    split: str = "unknown"
    notes: tuple[str, ...] = field(default=())
    labels: torch.Tensor | None = None
    levels: bool = False
    white: float | None = None
    seen: dict[str, Levels] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.length

    def batch(self, start: int, stop: int) -> torch.Tensor:
        """Points `start` to `stop`, preprocessed for the encoder: float32, shape (m, ...)."""
        return self.ready(self.fetch(start, min(stop, self.length)), start)

    def ready(self, x: torch.Tensor, start: int) -> torch.Tensor:
        """Points as they are stored, of which the first is point `start`, preprocessed for the encoder."""
        x = check_finite(x, start, self.name)
        white = self._white(x)
        if found := levels_of(x, white):
            self.seen["all"] = found.joined(self.seen.get("all"))
        return preprocess(x, self.request, self.name, white)

    def _white(self, x: torch.Tensor) -> float:
        """The number that becomes 1."""
        if given := self.request.scale or self.white:
            return given
        return WHITE.get(x.dtype, 1) if self.levels or x.dtype == torch.uint8 else 1

    @property
    def range_note(self) -> str:
        """The range of the values that the encoder was given, in words."""
        return in_words(self.seen["all"]) if "all" in self.seen else "of an unknown range"

    @property
    def checks(self) -> tuple[Check, ...]:
        """What must hold of the values that the encoder was given."""
        seen = self.seen.get("all")
        return () if seen is None else (range_check(seen, tuple(self.fetch(0, 1).shape[1:]), self.name),)

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
            "preprocessing": describe(self.request, sample, self._white(sample)),
            "input_shape": list(self.shape),
        }


def preprocess(x: torch.Tensor, request: Request, name: str, white: float = 1) -> torch.Tensor:
    """Scale levels to [0, 1], then turn to grey or colours, resize, map to the range and flatten, each only when asked for.

    Args:
        x: Points as stored, shape (m, ...); images are (m, C, H, W) or (m, H, W).
        white: The number that becomes 1.
    Returns:
        float32, shape (m, ...).
    Raises:
        InputError: these data do not allow a step; the message says why.
    """
    plain = not (request.gray or request.rgb or request.resize or request.value_range)
    if white == 1 and plain and not (x.is_floating_point() or x.dtype in (torch.uint8, torch.bool)):
        return x.long().flatten(1) if request.flatten else x.long()  # tokens, or whatever the encoder makes of whole numbers
    values = x.float() if white == 1 else x.float() / white if x.dtype == torch.uint8 else (x.double() / white).float()
    if request.gray or request.rgb or request.resize:
        values = _as_images(values, name)
    if request.gray and values.shape[1] == 3:
        values = (values * values.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif request.gray and values.shape[1] != 1:
        raise InputError(f"--gray needs images with 1 or 3 channels, but {name} gives {values.shape[1]}.")
    if request.rgb and values.shape[1] == 1:
        values = values.expand(-1, 3, -1, -1)
    elif request.rgb and values.shape[1] != 3:
        raise InputError(f"--rgb needs images with 1 or 3 channels, but {name} gives {values.shape[1]}.")
    if request.resize and tuple(values.shape[2:]) != request.resize:
        values = functional.interpolate(values, request.resize, mode="bilinear", antialias=True)
    if request.value_range is not None:
        low, high = request.value_range
        if values.numel() and (values.min() < -1e-4 or values.max() > 1 + 1e-4):
            raise InputError(
                f"--range {low:g},{high:g} maps bytes, or numbers in [0, 1], but {name} holds {values.min():g} to "
                f"{values.max():g}: do not give --range, to take them as they are, or give --scale the number that becomes 1, "
                "such as 255."
            )
        values = low + (high - low) * values
    return values.flatten(1) if request.flatten else values


def describe(request: Request, sample: torch.Tensor, white: float) -> list[str]:
    """Describe the steps of `preprocess` in words, in their order."""
    kind = "bytes" if sample.dtype == torch.uint8 else "values"
    steps = ["values as they are" if white == 1 and kind == "values" else f"{kind} over {white:,.6g}, so that it becomes 1"]
    if white == 255 and kind == "bytes":
        steps = ["bytes to [0, 1]"]
    if request.gray:
        steps.append("gray")
    if request.rgb:
        steps.append("three equal channels of grey ones")
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
    if not name:
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
        x, said = _array_file(path)
        return _from_tensor(path.name, x, request, said)
    first, colon, settings = name.partition(":")
    if colon and Path(first).exists():
        raise InputError(
            f"--data {first} takes no settings here, and {short(settings)} are some: give --gray, --rgb, --resize, --scale or "
            "--flatten beside it."
        )
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

    return Inputs(data.name, len(data), fetch, request, request.split, data.notes, data.labels, white=data.white)


def _array_file(path: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The points of a file, and what was left aside of it."""
    kind = path.suffix.lower()
    if kind in tables.SUFFIXES:
        table = tables.read_table(path, path.name)
        return torch.from_numpy(table.values), table.notes
    if kind not in (".npy", ".npz"):
        raise InputError(f"--data {path} is neither an array (.npy, .npz), a table (.csv, .parquet) nor a folder of images.")
    if kind == ".npy" and (rows := rows_of(path, path.name)) is not None:
        return rows, ()
    array, said = (npy.read_file(path, path.name), ()) if kind == ".npy" else (npy.read_sole(path), _left_aside(path))
    x = torch.from_numpy(npy.as_data(array, path.name))
    if not x.numel():
        raise InputError(f"--data {path} holds nothing: its shape is {tuple(x.shape)}.")
    return x, said


def _left_aside(path: Path) -> tuple[str, ...]:
    """What is to be said of the arrays of an .npz beside the data."""
    names = in_npz(path).names
    if len(names) < 2:
        return ()
    read = next(name for name in npy.DATA_NAMES if name in names)
    others = ", ".join(f"{name!r:.80}" for name in names if name != read)
    return (f"{path.name}: {read!r} is the data, and {others} left aside; --inputs gives an encoder several",)


def _from_tensor(name: str, x: torch.Tensor, request: Request, said: tuple[str, ...]) -> Inputs:
    """Wrap data in memory; images whose channels come last, as in most arrays, are turned to (C, H, W)."""
    shape = channels_first(x[:0]).shape[1:]
    notes = (f"{name}: channels last, turned to (C, H, W) = {tuple(shape)}",) if shape != x.shape[1:] else ()
    return Inputs(name, len(x), lambda start, stop: channels_first(x[start:stop]), request, notes=(*said, *notes))


def _folder(folder: Path, request: Request) -> Inputs:
    """Open a folder of images, which are decoded block by block, then turned to grey or colours and resized.

    Where any image of a block has 16 bits, all have: bytes are spread over the levels of 16 bits.
    """
    files, _ = found = find_images(folder)
    kinds: set[torch.dtype] = set()

    def fetch(start: int, stop: int) -> torch.Tensor:
        some = files[start:stop]
        size = request.resize
        images = [read_levels(file, str(file), gray=request.gray, rgb=request.rgb, size=size) for file in some]
        check_same_shape(images, [str(file.relative_to(folder)) for file in some])
        kinds.update(image.dtype for image in images)
        if len(kinds) > 1 and request.scale is not None:
            raise InputError(f"{folder.name} has images of 8 and of 16 bits, which have no common --scale: leave it away.")
        if len({image.dtype for image in images}) > 1:
            images = [image if image.dtype == torch.int32 else image.int() * SPREAD_BYTE for image in images]
        return torch.stack(images)

    return Inputs(folder.name, len(files), fetch, request, notes=found.note(folder.name), levels=True)


def _from_python(name: str, request: Request) -> Inputs:
    """Import `package.module:dataset`: whatever Python object has points, or a function or class that gives one."""
    points = named_points(name, "--data")

    def fetch(start: int, stop: int) -> torch.Tensor:
        return channels_first(points.fetch(start, stop)[0])

    return Inputs(name, points.length, fetch, request, notes=points.notes)


def _as_images(values: torch.Tensor, name: str) -> torch.Tensor:
    if values.dim() == 3:
        return values.unsqueeze(1)
    if values.dim() != 4:
        raise InputError(
            f"--resize, --gray and --rgb need images, (C, H, W), but {name} gives points of shape {tuple(values.shape[1:])}."
        )
    return values
