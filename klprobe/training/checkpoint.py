"""The checkpoint: weights, optimiser state and JSON settings in one safetensors file, written whole or not at all.

No pickle: reading a checkpoint runs no code of its own. The header's `klprobe.kind` says what the file is, its
`klprobe.settings` is a JSON object with the keys system, settings, dataset, split, num_points, input_shape, latent_dim,
seed, steps, device, versions, commit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from klprobe import registry
from klprobe.files import json_files
from klprobe.files.construction import LARGEST_SIZE, differences, sizes_of
from klprobe.files.tensor_file import KIND, opened, write
from klprobe.files.typed_settings import check_settings
from klprobe.types import InputError

NEEDED = ("system", "settings", "dataset", "split", "input_shape", "steps")
"""Settings that every checkpoint needs."""
LONGEST_NAME = 4096
"""Largest number of letters of a name; that of a data set may hold a path."""
LARGEST_POINT = 10**8
"""Largest number of values in a data point."""
PENDING = "log."
"""Beginning of the names of tensors that belong to no row of metrics.csv yet."""
NOT_COMPARED = ("steps", "versions", "commit")
"""Settings that may differ between the two halves of a resumed run."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained system: its algorithm (see `klprobe.training.loop.Algorithm`), networks in eval mode, the file's settings."""

    algorithm: Any
    networks: nn.ModuleDict
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """Everything that training changes, to save and restore together.

    Attributes:
        networks: All networks.
        optimizers: One for each player.
        settings: Settings of the run, all but `steps`.
        pending: Values logged since the last row of metrics.csv, by column, each of shape ().
    """

    networks: nn.ModuleDict
    optimizers: Mapping[str, torch.optim.Optimizer]
    settings: Mapping[str, Any]
    pending: dict[str, list[torch.Tensor]]

    def save(self, path: Path, steps: int) -> None:
        """Write the checkpoint after `steps` steps, unless its weights are not finite.

        Raises:
            InputError: a weight is not finite, or the file cannot be written; the earlier file stays.
        """
        tensors = _weights(self.networks)
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise InputError(
                f"After step {steps} {broken[0]} is no longer finite: lower the learning rate. "
                f"The last finite checkpoint is kept: {path}."
            )
        for player, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{player}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        columns = enumerate(self.pending.items())  # their order is that of metrics.csv, and safetensors keeps none
        tensors |= {f"{PENDING}{i:03}.{column}": torch.stack(values) for i, (column, values) in columns}
        write(path, tensors, {**self.settings, "steps": steps})

    def restore(self, path: Path) -> int:
        """Take over the state of a checkpoint; returns its number of steps.

        Raises:
            InputError: the file cannot be read, holds no optimisers, or was made with other settings (says which).
        """
        tensors, before = read(path)
        before = {"precision": "float32"} | before  # older versions knew no other
        if isinstance(before["settings"], dict):
            before["settings"] = _defaults(before["system"]) | before["settings"]
        now = {key: value for key, value in self.settings.items() if key not in NOT_COMPARED}
        differing = _differences(before, now)
        if differing:
            raise InputError(f"{path} was trained with other settings: {'; '.join(differing)}. Resume with the same ones.")
        _set_weights(self.networks, tensors, path)
        for player, optimizer in self.optimizers.items():
            state = _optimizer_state(optimizer, tensors, f"optimizer.{player}.", path)
            if before["steps"] and not state:
                raise InputError(
                    f"{path} was saved without its optimisers, so it cannot be resumed: train from the start in another folder."
                )
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.pending.clear()
        device = next(self.networks.parameters()).device
        self.pending.update({name: list(values.to(device).unbind()) for name, values in _pending(tensors, path).items()})
        return int(before["steps"])


def load_checkpoint(path: Path | str, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint: the algorithm by its name in the registry, its networks in eval mode.

    The networks are built as shapes alone first, so that settings can claim nothing that the file does not hold.

    Raises:
        InputError: missing or damaged file, unknown system, or weights that do not fit the networks.
    """
    path = Path(path)
    tensors, settings = read(path)
    label = f"{path.name}: the header's klprobe.settings"
    kind = registry.load("trainers", settings["system"])
    try:
        algorithm = kind(**check_settings(kind, settings["settings"], label))
        weights = _weights_in(tensors)
        planned = sizes_of(lambda: algorithm.networks(tuple(settings["input_shape"])), len(weights), label)
        if wrong := differences(planned, weights):
            raise InputError(f"{path.name} does not fit its own settings: {wrong[0][:80]} is missing, or of another shape.")
        with torch.random.fork_rng():
            networks = algorithm.networks(tuple(settings["input_shape"]))
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} does not fit this version of klprobe ({type(error).__name__}: {str(error)[:180]})."
        ) from error
    _set_weights(networks, tensors, path)
    return Checkpoint(algorithm, networks.to(device).eval(), settings)


def save_checkpoint(path: Path | str, trained: Checkpoint) -> None:
    """Write networks and settings without the optimisers: a third of the size, and no resuming from it.

    Raises:
        InputError: the file cannot be written.
    """
    write(Path(path), _weights(trained.networks), trained.settings)


def _defaults(system: str) -> dict[str, Any]:
    """The defaults of a system's settings, which stand for those that checkpoints of older versions do not name."""
    if system not in registry.names("trainers"):
        return {}
    fields = dataclasses.fields(registry.load("trainers", system))
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _weights(networks: nn.ModuleDict) -> dict[str, torch.Tensor]:
    return {f"networks.{name}": tensor for name, tensor in networks.state_dict().items()}


def _weights_in(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "networks."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _set_weights(networks: nn.ModuleDict, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Give the networks their weights.

    Raises:
        InputError: weights that do not fit, or are not finite, which no checkpoint's are.
    """
    weights = _weights_in(tensors)
    if wrong := differences(networks, weights):
        raise InputError(f"{path} does not fit the networks: {wrong[0][:80]} is missing, or of another shape.")
    if broken := [name for name, tensor in weights.items() if not tensor.double().isfinite().all()]:
        raise InputError(f"{path} is damaged: {broken[0]} is not finite.")
    networks.load_state_dict(weights)


def _optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], prefix: str, path: Path
) -> dict[int, dict[str, torch.Tensor]]:
    """Read the state of an optimiser, by the number of the parameter; empty when the file holds none.

    Raises:
        InputError: the state does not belong to this optimiser and these parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not kept:
        return {}
    first_and_others = _keeps(optimizer)
    shapes = {
        f"{index}.{key}": parameter.shape if whole else torch.Size()
        for index, parameter in enumerate(parameters)
        if any(name.startswith(f"{index}.") for name in kept)  # a parameter that no loss has moved has no state
        for key, whole in first_and_others[min(index, 1)].items()
    }
    given = {name: tensor.shape for name, tensor in kept.items()}
    if wrong := sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name)):
        raise InputError(f"{path} does not fit the optimiser: {prefix}{wrong[0][:80]} is missing, or of another shape.")
    if broken := [n for n, tensor in kept.items() if not tensor.dim() and not (tensor.isfinite() and tensor.double() >= 0)]:
        raise InputError(f"{path} is damaged: {prefix}{broken[0]} is {kept[broken[0]]}, which is not a number of steps.")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in kept.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]  # a fused optimiser needs the strides of its parameter
        value = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(index), {})[key] = value
    return state


def _pending(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """What a file holds of the next row of metrics.csv, by column, each of shape (values,).

    Raises:
        InputError: it is not what `TrainingState.save` writes.
    """
    found: dict[str, torch.Tensor] = {}
    for name in sorted(name for name in tensors if name.startswith(PENDING)):
        number, _, column = name.removeprefix(PENDING).partition(".")
        if tensors[name].dim() != 1 or not tensors[name].is_floating_point() or not (number.isdecimal() and column):
            raise InputError(f"{path} is damaged: {name[:80]} is no list of logged numbers.")
        found[column] = tensors[name]
    return found


def _keeps(optimizer: torch.optim.Optimizer) -> list[dict[str, bool]]:
    """State that an optimiser of this kind keeps for its first parameter, and for each other, found by one step.

    The result says, by name, whether a value has the parameter's shape.
    """
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.zeros(2)
    kind: Any = type(optimizer)
    other = kind(parameters, **optimizer.defaults)
    other.step()
    return [{key: torch.as_tensor(value).dim() == 1 for key, value in other.state[p].items()} for p in parameters]


def _differences(before: Any, now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            found += _differences(old, value, f"{prefix}{key}.")
        elif old != value:
            found.append(f"{prefix}{key} was {repr(old)[:60]}, is {repr(value)[:60]}")
    return found


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and settings of a checkpoint.

    Raises:
        InputError: missing, damaged, or not written by klprobe.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    with opened(path) as file:
        header, tensors = file.header, file.tensors()
    if header.get("klprobe.kind") != KIND:
        raise InputError(
            f"{path} is a safetensors file, but not a checkpoint of klprobe: its header lacks klprobe.kind = {KIND!r}."
        )
    label = f"{path}: the header's klprobe.settings"
    if "klprobe.settings" not in header:
        raise InputError(f"{label} is missing.")
    settings = json_files.parse(header["klprobe.settings"], label)
    missing = [key for key in NEEDED if key not in settings] if isinstance(settings, dict) else list(NEEDED)
    if missing:
        raise InputError(f"{label} lacks {', '.join(missing)}.")
    _check(settings, label)
    return tensors, settings


def _check(settings: Mapping[str, Any], label: str) -> None:
    """Raise InputError unless all common settings have the right type; the system's own are checked when it is made."""
    for key in ("system", "dataset", "split"):
        if not isinstance(settings[key], str) or not 0 < len(settings[key]) <= LONGEST_NAME or not settings[key].isprintable():
            raise InputError(f"{label}: {key} is {repr(settings[key])[:40]}, which is not a name: the file is damaged.")
    shape, steps = settings["input_shape"], settings["steps"]
    sizes = isinstance(shape, list) and 0 < len(shape) <= 4 and all(type(n) is int and 0 < n <= LARGEST_SIZE for n in shape)
    if not sizes or math.prod(shape) > LARGEST_POINT:
        raise InputError(f"{label}: input_shape is {repr(shape)[:40]}, which is not a shape: the file is damaged.")
    if type(steps) is not int or not 0 <= steps < 2**53:
        raise InputError(f"{label}: steps is {repr(steps)[:40]}, which is not a number of steps: the file is damaged.")
