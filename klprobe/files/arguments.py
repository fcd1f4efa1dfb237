"""The arguments of an encoder: which it takes, which of the user's arrays goes to which, and a batch that holds several.

A batch is one tensor, the points, or tensors by the name of the argument that they are for; a number is a place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from klprobe.printable import nearest, visible
from klprobe.types import InputError

Batch = torch.Tensor | dict[str, torch.Tensor]
"""Points (m, ...), or tensors of m rows each by argument."""
MOST = 16
"""Arguments of a file's program that are looked at, at most."""


@dataclass(frozen=True)
class Arguments:
    """What an encoder takes.

    Attributes:
        needed: Names of the arguments that it cannot do without, in order.
        optional: Names of the others.
        more: Whether it takes others as well, as functions with `*args` do.
        unset: Those of the optional ones that are None where they are not given, and not a setting.
    """

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    more: bool = False
    unset: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in order."""
        return self.needed + self.optional

    def facts(self) -> list[Any]:
        """The same as JSON values, for a message of the confined process."""
        return [list(self.needed), list(self.optional), list(self.unset)]


ALONE = Arguments(("x",))
"""Arguments of an encoder that takes the data, and nothing else."""


def from_facts(found: Any) -> Arguments:
    """The arguments that a confined process told, which may say anything; none where it is not understood."""
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(part, list) for part in found):
        return Arguments()
    needed, optional, unset = (tuple(str(name)[:80] for name in part[:MOST]) for part in found)
    return Arguments(needed, optional, unset=unset)


def arguments_of(function: Callable[..., Any]) -> Arguments:
    """What a function, a method or a network takes; one that cannot be looked into takes anything."""
    looked_at = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = list(inspect.signature(looked_at).parameters.values())
    except (TypeError, ValueError):
        return Arguments(more=True)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [
        (str(i) if p.kind is p.POSITIONAL_ONLY else p.name, p.default is p.empty)
        for i, p in enumerate(parameters)
        if p.kind not in several
    ]
    needed, optional = (tuple(name for name, must in named if must is which) for which in (True, False))
    unset = tuple(p.name for p in parameters if p.default is None)
    return Arguments(needed, optional, any(p.kind in several for p in parameters), unset)


def called(function: Callable[..., Any], batch: Batch) -> Any:
    """What the function returns for the batch: numbers are places, and names are names of arguments."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    placed = [batch[name] for name in sorted((name for name in batch if name.isdecimal()), key=int)]
    return function(*placed, **{name: x for name, x in batch.items() if not name.isdecimal()})


def each(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """The batch with each of its tensors changed."""
    return change(batch) if isinstance(batch, torch.Tensor) else {name: change(x) for name, x in batch.items()}


def rows_of(batch: Batch) -> int:
    """Number of rows, m."""
    return len(first_of(batch))


def first_of(batch: Batch) -> torch.Tensor:
    """The first of its tensors, which is the data."""
    return batch if isinstance(batch, torch.Tensor) else next(iter(batch.values()))


def shapes_of(batch: Batch) -> str:
    """Shape of a point, or of each of its arrays, in words."""
    if isinstance(batch, torch.Tensor):
        return str(tuple(batch.shape[1:]))
    return ", ".join(f"{name} {tuple(x.shape[1:])}" for name, x in batch.items())


def matched(inputs: str, arguments: Arguments, held: Sequence[str], label: str, data: str) -> dict[str, str]:
    """Which array goes to which argument, by what the user says.

    Args:
        inputs: `x=images,y=labels`, argument = array; or arrays alone, which go to the arguments in their order.
        arguments: What the encoder takes.
        held: Names of the arrays that there are.
        label: Name of the encoder, for messages.
        data: Name of the data, for messages.
    Raises:
        InputError: a name that is not there, an argument twice or not at all.
    """
    found: dict[str, str] = {}
    for i, word in enumerate(inputs.split(",")):
        argument, equals, array = (part.strip() for part in word.partition("="))
        if not equals:
            array = argument
            if "=" in ",".join(inputs.split(",")[:i]):
                raise InputError(f"--inputs {inputs}: name the argument of {_said(array)} too, as those before it.")
            argument = next(iter(_places(arguments, i + 1)[i:]), "")
        if not argument or not array:
            raise InputError(f"--inputs {inputs}: {_takes(label, arguments)}; {_form(arguments, held)}.")
        if argument in found:
            raise InputError(f"--inputs {inputs} gives {_said(argument)} twice: give each argument one array.")
        if argument not in arguments.names and not arguments.more:
            near = _near(argument, arguments.names)
            raise InputError(f"--inputs {inputs}: {_takes(label, arguments)}, and no {_said(argument)}{near}.")
        if array not in held:
            listed = ", ".join(map(_said, held[:8])) or "one array without a name"
            raise InputError(f"--inputs {inputs}: {data} has no {_said(array)}{_near(array, held)}; it holds {listed}.")
        found[argument] = array
    if missing := [name for name in arguments.needed if name not in found]:
        raise InputError(
            f"{label} needs {' and '.join(map(_said, missing))} too, which --inputs {inputs} does not give: "
            f"{_form(arguments, held)}."
        )
    return found


def check_alone(arguments: Arguments, held: Sequence[str], label: str) -> None:
    """Raise InputError, which says what to type, where an encoder that gets the data alone needs more than one input."""
    if len(arguments.needed) > 1:
        how = "" if len(held) > 1 else ", and --data an .npz of several arrays of one length"
        raise InputError(f"{_takes(label, arguments)}, and gets the data alone: {_form(arguments, held)}{how}.")


def _places(arguments: Arguments, count: int) -> list[str]:
    """Names of the first arguments; numbers, where the encoder takes any."""
    names = list(arguments.names[:count])
    return names + [str(i) for i in range(len(names), count)] * arguments.more


def _takes(label: str, arguments: Arguments) -> str:
    names = [_said(name) for name in arguments.needed] + [f"{_said(name)} (optional)" for name in arguments.optional]
    return f"{label} takes {', '.join(names) or 'the data alone'}"


def _form(arguments: Arguments, held: Sequence[str]) -> str:
    """The flag to type: each argument that is needed, with the array of its name, or the next that is left."""
    left = [name for name in held if name not in arguments.needed]
    pairs = []
    for name in arguments.needed or ("x",):
        array = name if name in held else left.pop(0) if left else "ARRAY"
        pairs.append(f"{_said(name)}={_said(array)}")
    return f"say which array each gets, as --inputs {','.join(pairs)}"


def _near(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    return f" (did you mean {_said(near)}?)" if near else ""


def _said(name: str) -> str:
    """A name as it is typed, cut, and safe to print."""
    return visible(name[:80])


def of_types(batch: Mapping[str, torch.Tensor], kinds: Mapping[str, torch.dtype]) -> dict[str, torch.Tensor]:
    """Each tensor in the type that its argument takes; numbers with a fraction never become whole ones.

    Raises:
        ValueError: an argument takes whole numbers, and gets others.
    """
    found = {}
    for name, x in batch.items():
        kind = kinds.get(name, x.dtype)
        if x.is_floating_point() and not kind.is_floating_point:
            raise ValueError(f"{name} takes {kind}, and the data are {x.dtype}".replace("torch.", ""))
        found[name] = x.to(kind)
    return found
