"""Weights from an untrusted file, and their place in a network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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

NOT_WEIGHTS = ("optim", "sched", "scaler", "rng", "callbacks", "loops")
"""What training programs keep beside the weights, by parts of the names that they give it."""
WRAPPERS = ("_orig_mod", "module")
"""Names that torch.compile and DataParallel put into those of weights."""
AVERAGES = ("ema", "swa", "shadow", "average")
"""Parts of names of averages of weights, which lie beside the weights themselves."""
DEEPEST = 6
"""Containers in one another, at most."""
LISTED = 6


def read_weights(path: Path, limits: Limits, *, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, without running anything unless `allow_pickle`.

    Files that are pickles are opened by torch's restricted unpickler, which makes tensors and containers and calls nothing
    else, in a confined process.

    Args:
        path: `.safetensors`, or what torch.save wrote.
        limits: Memory and time that opening a pickle may take.
        allow_pickle: Whether the file may run the code in it, in this process: the user trusts it.
    Raises:
        InputError: damaged, a zip bomb, or a pickle that asks for more than tensors; the message names what it asks for.
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
    """What torch.save wrote, of tensors and containers alone: nothing else is called. Only a confined process opens files so.

    Args:
        path: The file.
        harmless: Classes and functions that it may name beside torch's own.
    Raises:
        pickle.UnpicklingError: it names something else. A damaged file raises anything at all.
    """
    if names_in(path):
        check_archive(path)
    with torch.serialization.safe_globals(list(harmless)):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_trusted(path: Path, device: str) -> Any:
    """What torch.save wrote, running whatever code it holds: only where the user gave --allow-pickle for this file."""
    if names_in(path):
        check_archive(path)
    return torch.load(path, map_location=device, weights_only=False)


def open_weights(path: str) -> Opened:
    """The tensors of a pickle, in a confined process."""
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
    except Exception as error:  # a damaged pickle fails in any way at all
        if "alloc" in str(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path.name} is damaged, or is not a file of weights ({said[:200]}): save or copy it again."
        ) from error
    return _tensors(held, path.name)


def _tensors(held: Any, label: str) -> dict[str, torch.Tensor]:
    found = dict(_inside(held, ""))
    if found:
        return found
    raise InputError(f"{label} holds no weights by name: save them with torch.save(model.state_dict(), 'weights.pt').")


def _inside(held: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by name, wherever they lie, as `model_state_dict.encoder.weight`; what belongs to training is left out."""
    if isinstance(held, torch.Tensor):
        yield name, held
    elif isinstance(held, nn.Module):  # of a file that the user trusts
        yield from ((f"{name}.{key}" if name else key, tensor) for key, tensor in held.state_dict().items())
    elif isinstance(held, Mapping) and name.count(".") <= DEEPEST:
        for key, inner in held.items():
            if name or not any(word in str(key).lower() for word in NOT_WEIGHTS):
                yield from _inside(inner, f"{name}.{key}" if name else str(key))


def fit(module: nn.Module, weights: Mapping[str, torch.Tensor], label: str, factory: str) -> tuple[str, list[str]]:
    """Load the weights below the prefix that serves the module best.

    Returns:
        The prefix (`encoder.` when the file holds a whole model and the module is its encoder), and the names left over.
    Raises:
        InputError: tensors missing or of another shape, by name.
    """
    needed = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    weights = _unwrapped(weights, needed)
    prefixes = {""} | {name[: i + 1] for name in weights for i, letter in enumerate(name) if letter == "."}

    def serves(prefix: str) -> tuple[int, bool, int]:
        served = sum(prefix + n in weights and weights[prefix + n].shape == t.shape for n, t in needed.items())
        return served, not any(word in prefix.lower() for word in AVERAGES), -len(prefix)

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


def _unwrapped(weights: Mapping[str, torch.Tensor], needed: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The weights by the names that they have without wrappers, where the network itself has none."""
    inside = [wrapper for wrapper in WRAPPERS if not any(wrapper in name.split(".") for name in needed)]
    bare = {".".join(part for part in name.split(".") if part not in inside): tensor for name, tensor in weights.items()}
    return bare if len(bare) == len(weights) else weights


def some_of(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
