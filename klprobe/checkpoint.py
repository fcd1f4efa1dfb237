"""The checkpoint: weights, optimiser state and JSON settings in one safetensors file, written whole or not at all.

No pickle: reading a checkpoint runs no code of its own. The header's `klprobe.kind` says what the file is, its
`klprobe.settings` is a JSON object with the keys system, settings, dataset, split, num_points, input_shape, latent_dim,
seed, steps, device, versions, commit.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from klprobe import registry
from klprobe.types import InputError

KIND = "checkpoint"
NEEDED = ("system", "settings", "dataset", "split", "input_shape", "steps")
"""Settings without which a checkpoint cannot be used."""
NOT_COMPARED = ("steps", "versions", "commit")
"""Settings that may differ between the two halves of a resumed run."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained system: its algorithm (see `klprobe.training.Algorithm`), its networks in eval mode, the file's settings."""

    algorithm: Any
    networks: nn.ModuleDict
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What training changes, as one thing to save and restore.

    Attributes:
        networks: All networks.
        optimizers: One for each player.
        settings: Of the run, all but `steps`.
    """

    networks: nn.ModuleDict
    optimizers: Mapping[str, torch.optim.Optimizer]
    settings: Mapping[str, Any]

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
        write(path, tensors, {**self.settings, "steps": steps})

    def restore(self, path: Path) -> int:
        """Take over the state of a checkpoint; returns its number of steps.

        Raises:
            InputError: the file cannot be read, holds no optimisers, or was made with other settings (says which).
        """
        tensors, before = read(path)
        before = {"precision": "float32"} | before  # of versions that knew no other
        now = {key: value for key, value in self.settings.items() if key not in NOT_COMPARED}
        differing = _differences(before, now)
        if differing:
            raise InputError(f"{path} was trained with other settings: {'; '.join(differing)}. Resume with the same ones.")
        _set_weights(self.networks, tensors)
        for player, optimizer in self.optimizers.items():
            prefix = f"optimizer.{player}."
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name in (name for name in tensors if name.startswith(prefix)):
                index, key = name.removeprefix(prefix).split(".", 1)
                like = parameters[int(index)]  # a fused optimiser needs the strides of its parameter
                value = torch.empty_like(like).copy_(tensors[name]) if tensors[name].shape == like.shape else tensors[name]
                state.setdefault(int(index), {})[key] = value
            if before["steps"] and not state:
                raise InputError(f"{path} was saved without its optimisers, so it cannot be resumed.")
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(before["steps"])


def load_checkpoint(path: Path | str, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint: the algorithm by its name in the registry, its networks in eval mode.

    Raises:
        InputError: missing or damaged file, unknown system, or weights that do not fit the networks.
    """
    tensors, settings = read(Path(path))
    try:
        algorithm = registry.load("trainers", settings["system"])(**settings["settings"])
        with torch.random.fork_rng():
            networks = algorithm.networks(tuple(settings["input_shape"]))
        _set_weights(networks, tensors)
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} does not fit this version of klprobe ({type(error).__name__}: {error}).") from error
    return Checkpoint(algorithm, networks.to(device).eval(), settings)


def save_checkpoint(path: Path | str, trained: Checkpoint) -> None:
    """Write networks and settings without the optimisers: a third of the size, and no resuming from it.

    Raises:
        InputError: the file cannot be written.
    """
    write(Path(path), _weights(trained.networks), trained.settings)


def write(path: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], *, kind: str = KIND) -> None:
    """Write a checkpoint under another name, then rename it: a full disk or a crash leaves the old file whole.

    Another `kind` of file with tensors and settings is written alike.

    Raises:
        InputError: the file cannot be written.
    """
    draft = path.with_name(path.name + ".draft")
    metadata = {"klprobe.kind": kind, "klprobe.settings": json.dumps(settings, allow_nan=False)}
    try:
        # not save_file, which gives the file to its owner alone whatever the umask
        draft.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata))
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        kept = f"the checkpoint written before stays as it is: {path}" if path.exists() else "there is no earlier one"
        raise InputError(f"The checkpoint {path} cannot be written ({error}); {kept}.") from error


def _weights(networks: nn.ModuleDict) -> dict[str, torch.Tensor]:
    return {f"networks.{name}": tensor for name, tensor in networks.state_dict().items()}


def _set_weights(networks: nn.ModuleDict, tensors: Mapping[str, torch.Tensor]) -> None:
    prefix = "networks."
    networks.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})


def _differences(before: Any, now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            found += _differences(old, value, f"{prefix}{key}.")
        elif old != value:
            found.append(f"{prefix}{key} was {old!r}, is {value!r}")
    return found


def metadata(path: Path) -> dict[str, str]:
    """The header's metadata of a safetensors file; empty when it has none or is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError, ValueError):
        return {}


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and settings of a checkpoint.

    Raises:
        InputError: missing, damaged, or not written by klprobe.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged, cut short, or no safetensors file ({error}).") from error
    if header.get("klprobe.kind") != KIND:
        raise InputError(
            f"{path} is a safetensors file, but no checkpoint of klprobe: its header lacks klprobe.kind = {KIND!r}."
        )
    try:
        settings = json.loads(header["klprobe.settings"])
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: the header's klprobe.settings is missing or no JSON ({error}).") from error
    missing = [key for key in NEEDED if key not in settings] if isinstance(settings, dict) else list(NEEDED)
    if missing:
        raise InputError(f"{path}: the header's klprobe.settings lacks {', '.join(missing)}.")
    return tensors, settings
