"""Several inputs of an encoder: the data and, beside them, labels, lengths or conditions, each from an array of its own.

The first that `--inputs` names is the data, and is prepared as the flags say. The others are taken as they are: whole
numbers stay whole, others are float32, and images of bytes become numbers from 0 to 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from klprobe import registry
from klprobe.files.arguments import Arguments, Batch, check_alone, matched
from klprobe.files.images import channels_first
from klprobe.files.remembered import MODULE
from klprobe.formats import Request
from klprobe.formats._inputs import Inputs, inputs_of, open_inputs
from klprobe.runtime import named_rows
from klprobe.runtime.named_rows import NamedRows, Offer
from klprobe.runtime.user_code import import_named
from klprobe.runtime.user_data import made
from klprobe.types import InputError

OURS = ("x", "labels")
"""What the arrays of klprobe's own data sets are called."""


@dataclass(frozen=True)
class Several:
    """Points of several inputs.

    Attributes:
        first: The data, as they are prepared.
        rows: All arrays.
        arrays: Name of the array by argument; the data come first.
    """

    first: Inputs
    rows: NamedRows
    arrays: dict[str, str]

    def __len__(self) -> int:
        return self.rows.length

    def batch(self, start: int, stop: int) -> Batch:
        """The points from `start` up to `stop`, by argument."""
        found = self.rows.fetch(start, min(stop, self.rows.length))
        data, *others = self.arrays.items()
        return {
            data[0]: self.first.ready(channels_first(found[data[1]]), start),
            **{argument: beside(found[array]) for argument, array in others},
        }


def beside(x: torch.Tensor) -> torch.Tensor:
    """Labels, lengths or conditions, shape (m, ...), as the encoder gets them."""
    if x.is_floating_point():
        return x.float()
    if x.dtype == torch.uint8 and x.dim() > 2:
        return channels_first(x).float() / 255
    return x if x.dtype == torch.bool else x.long()


def open_points(request: Request, label: str, arguments: Arguments) -> tuple[Inputs, Inputs | Several]:
    """Open the data that the user names, and whatever else the encoder takes.

    Returns:
        The data, for the report; and all inputs, for the encoder.
    Raises:
        InputError: data that cannot be used, or an input that the encoder needs and that is not given.
    """
    name = Path(request.data).name if request.data else ""
    if not request.inputs:
        if len(arguments.needed) > 1:
            offer = _offer(request)
            check_alone(arguments, offer.names if offer else (), label)
        inputs = open_inputs(request, label)
        inputs = dataclasses.replace(inputs, notes=(*inputs.notes, *_unset(arguments, label, arguments.names[:1])))
        return inputs, inputs
    if not request.data:
        raise InputError(f"--inputs {request.inputs} names arrays of --data, which is not given: give an .npz with them.")
    offer = _offer(request)
    if offer is None:
        open_inputs(dataclasses.replace(request, inputs=None), label)  # says what is wrong with the data, if they are none
        raise InputError(
            f"--inputs {request.inputs} names arrays, and --data {request.data} has no several: give an .npz, or "
            "package.module:data that is a dictionary of arrays, a Dataset or a DataLoader with several parts."
        )
    arrays = matched(request.inputs, arguments, offer.names, label, name)
    inputs, rows = _opened(request, offer, tuple(dict.fromkeys(arrays.values())))
    told = ", ".join(f"{argument} = {array}" for argument, array in arrays.items())
    left = ", ".join([array for array in offer.names if array not in arrays.values()][:8])
    note = f"inputs of the encoder: {told}" + f"; left aside: {left}" * bool(left)
    inputs = dataclasses.replace(inputs, notes=(*inputs.notes, note, *_unset(arguments, label, arrays)))
    if inputs.fetch(0, 1).dim() < 2:
        raise InputError(
            f"--inputs {request.inputs}: {next(iter(arrays.values()))} has one number a point: name the data, of shape "
            "(N, ...), first, with the arguments' names."
        )
    alone = list(arrays) == list(arguments.names[:1])
    return inputs, inputs if alone else Several(inputs, rows, arrays)


def _unset(arguments: Arguments, label: str, given: Iterable[str]) -> tuple[str, ...]:
    """A note on the inputs that the encoder can do without, and that are not given."""
    left = [name for name in arguments.unset if name not in given]
    return (f"{', '.join(left)} is not given to {label}, which has None in its place: --inputs gives it",) if left else ()


def _offer(request: Request) -> Offer | None:
    """The arrays that the data have; None where they are one."""
    name = request.data or ""
    path = Path(name)
    if _is_ours(name):
        return Offer(OURS, lambda _: NamedRows(0, lambda _start, _stop: {}))
    if path.suffix.lower() == ".npz" and path.is_file():
        return named_rows.in_npz(path)
    if not path.exists() and MODULE.fullmatch(name):
        return named_rows.in_object(made(import_named(name, "--data"), f"--data {name}"), f"--data {name}")
    return None


def _opened(request: Request, offer: Offer, wanted: tuple[str, ...]) -> tuple[Inputs, NamedRows]:
    """The data, which are the first of the wanted arrays, and the rows of all of them."""
    name = str(request.data)
    if _is_ours(name):
        ours = inputs_of(registry.create("datasets", name), request)
        labels = ours.labels
        if labels is None and "labels" in wanted:
            raise InputError(f"{ours.name} has no labels, and --inputs {request.inputs} asks for them.")
        y = torch.empty(0) if labels is None else labels
        return ours, NamedRows(len(ours), lambda i, j: {"x": ours.fetch(i, j), "labels": y[i:j]})
    if request.split != "all":
        raise InputError(
            f"--split {request.split} chooses among klprobe's data sets only: give the points of that split as --data."
        )
    rows = offer.rows(wanted)
    called = Path(name).name if Path(name).exists() else name
    return Inputs(called, rows.length, lambda i, j: channels_first(rows.fetch(i, j)[wanted[0]]), request), rows


def _is_ours(name: str) -> bool:
    return bool(name) and name.partition(":")[0].replace("_", "-") in registry.names("datasets")
