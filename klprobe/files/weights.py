"""Read weights from an untrusted file, and load them into a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from klprobe.files.archive import check_archive, names_in
from klprobe.files.child import Child, Limits
from klprobe.files.confined import Opened
from klprobe.files.plain import check_plain
from klprobe.files.tensor_file import opened
from klprobe.types import InputError

NESTED = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
"""Keys under which programs store the weights in a checkpoint that holds more; Lightning's is the first."""
LISTED = 6


def read_weights(path: Path, limits: Limits, *, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint by name, without running any code unless `allow_pickle` is set.

    Files that are pickles are opened by torch's restricted unpickler, which makes tensors and containers and calls nothing
    else, in a confined process.

    Args:
        path: Path of a `.safetensors` file, or of a file that torch.save wrote.
        limits: Memory and time that opening a pickle may take.
        allow_pickle: Whether the file may run the code in it, in this process, because the user trusts it.
    Raises:
        InputError: the file is damaged, a zip bomb, or a pickle that asks for more than tensors, which the message names.
    """
    check_plain(path, path.name)
    if path.suffix.lower() == ".safetensors":
        with opened(path, path.name) as file:
            return file.tensors()
    if allow_pickle:
        return _unpickled(path, trusted=True)
    with Child(open_weights, {"path": str(path.absolute())}, label=path.name, limits=limits) as child:
        return child.tensors


def load_restricted(path: Path, harmless: Sequence[Any] = ()) -> Any:
    """Read a file of torch.save that holds tensors and containers alone; only a confined process calls this.

    Args:
        path: Path of the file.
        harmless: Classes and functions that it may name beside torch's own.
    Raises:
        pickle.UnpicklingError: the file names something else. A damaged file raises many kinds of errors.
    """
    if names_in(path):
        check_archive(path)
    with torch.serialization.safe_globals(list(harmless)):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_trusted(path: Path, device: str) -> Any:
    """Read a file of torch.save and run any code in it, only where the user gave --allow-pickle for this file."""
    if names_in(path):
        check_archive(path)
    return torch.load(path, map_location=device, weights_only=False)


def open_weights(path: str) -> Opened:
    """Open the tensors of a pickle, in a confined process."""
    return Opened(tensors=_unpickled(Path(path), trusted=False))


def _unpickled(path: Path, *, trusted: bool) -> dict[str, torch.Tensor]:
    try:
        held = load_trusted(path, "cpu") if trusted else load_restricted(path)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks Python for {asked[1][:80]}" if asked else "is more than tensors"
        raise InputError(
            f"{path.name} {what}, which klprobe does not run. If the file is yours, save its weights alone: "
            "torch.save(model.state_dict(), 'weights.pt'), for a Lightning checkpoint "
            "torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pt'); or let it run with --allow-pickle."
        ) from error
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises many kinds of errors
        if "alloc" in str(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path.name} is damaged, or is not a file of weights ({said[:200]}): save or copy it again."
        ) from error
    return _tensors(held, path.name)


def _tensors(held: Any, label: str) -> dict[str, torch.Tensor]:
    if isinstance(held, Mapping):
        found = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
        if found:
            return found
        for name in NESTED:
            if isinstance(held.get(name), Mapping):
                return _tensors(held[name], label)
    raise InputError(f"{label} holds no weights by name: save them with torch.save(model.state_dict(), 'weights.pt').")


def fit(module: nn.Module, weights: Mapping[str, torch.Tensor], label: str, factory: str) -> tuple[str, list[str]]:
    """Load the weights below the prefix that serves the module best.

    Returns:
        The prefix (`encoder.` when the file holds a whole model and the module is its encoder), and the unused names.
    Raises:
        InputError: tensors are missing or have another shape; the message names them.
    """
    needed = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    prefixes = {""} | {name[: i + 1] for name in weights for i, letter in enumerate(name) if letter == "."}

    def serves(prefix: str) -> tuple[int, int]:
        return sum(prefix + n in weights and weights[prefix + n].shape == t.shape for n, t in needed.items()), -len(prefix)

    prefix = max(sorted(prefixes), key=serves)
    missing = [name for name in needed if prefix + name not in weights]
    wrong = [name for name, tensor in needed.items() if name not in missing and weights[prefix + name].shape != tensor.shape]
    if missing or wrong or not needed:
        shapes = [f"{n} {tuple(weights[prefix + n].shape)}, not {tuple(needed[n].shape)}" for n in wrong]
        parts = [f"it lacks {some_of(missing)}"] * bool(missing) + [f"of another shape are {some_of(shapes)}"] * bool(wrong)
        why = "; ".join(parts) or "that network has no weights"
        raise InputError(
            f"{label} does not fit {factory}: {why}. The file holds {some_of(list(weights))}; change the factory, or its sizes."
        )
    module.load_state_dict({name: weights[prefix + name] for name in needed}, assign=True)
    return prefix, [name for name in weights if name not in {prefix + n for n in needed}]


def some_of(names: list[str]) -> str:
    """List the first few of many names, and say how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
