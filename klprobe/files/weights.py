"""Read weights from an untrusted file, and load them into a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
NOT_WEIGHTS = re.compile(r"optim|lr_sched|callbacks|loops|hyper_parameters|hparams|scaler|rng", re.I)
"""Keys of a checkpoint whose tensors belong to the training, as Adam's moments do."""
COPY = re.compile(r"ema|averag|shadow|polyak|swa|target|teacher|momentum", re.I)
"""Words in the names of a second set of weights, which follows the first."""
DEEPEST = 4
LISTED = 6


class Closed:
    """Replacement of any object that a file asks Python for: it takes every argument and state, keeps none and does nothing."""

    def __new__(cls, *_: Any) -> Closed:
        """Make one, whatever it is called with."""
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        """Keep no state."""

    def __setitem__(self, *_: Any) -> None:
        """Keep no items."""


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


def load_restricted(path: Path, harmless: Sequence[Any] = (), left_closed: Callable[[str], bool] | None = None) -> Any:
    """Read a file of torch.save that holds tensors and containers alone; only a confined process calls this.

    Args:
        path: Path of the file.
        harmless: Classes and functions that it may name beside torch's own.
        left_closed: Which other names become a `Closed` wherever the file uses them; None is none of them.
    Raises:
        pickle.UnpicklingError: the file names something else. A damaged file raises many kinds of errors.
    """
    if names_in(path):
        check_archive(path)
    known = list(harmless)
    if left_closed is not None:  # the names are read from the pickle, and nothing by these names is ever looked up
        known += [(Closed, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if left_closed(name)]
    with torch.serialization.safe_globals(known):
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
        if weights := _beside_what_stays_closed(path):
            return weights
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


def _beside_what_stays_closed(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint whose hyper-parameters are objects, which stay closed; empty where it has none."""
    try:
        held = load_restricted(path, left_closed=lambda _: True)
        named = [held[name] for name in NESTED if isinstance(held, Mapping) and isinstance(held.get(name), Mapping)]
        if not named or any(isinstance(value, Closed) for value in named[0].values()):
            return {}
        return _tensors(held, path.name)
    except MemoryError:
        raise
    except Exception:  # the reason is that of the first attempt
        return {}


def _tensors(held: Any, label: str) -> dict[str, torch.Tensor]:
    """Name the tensors of a checkpoint: of its main dictionary as they are, of others after the way there and a slash."""
    found = _dictionaries(held, "", DEEPEST)
    ranked = sorted((NESTED.index(first), path) for path in found if (first := path.partition(".")[0]) in NESTED)
    main = ranked[0][1] if ranked else next(iter(found)) if len(found) == 1 else ""
    tensors = {
        f"{path}/{name}" if path else name: tensor
        for path, inside in found.items()
        if path != main and any(tensor.dim() for tensor in inside.values())
        for name, tensor in inside.items()
    }
    tensors |= found.get(main, {})
    if not tensors:
        raise InputError(f"{label} holds no weights by name: save them with torch.save(model.state_dict(), 'weights.pt').")
    return tensors


def _dictionaries(held: Any, path: str, depth: int) -> dict[str, dict[str, torch.Tensor]]:
    """Find the dictionaries in a checkpoint that hold tensors, by the way to them, as `ema` or `model.state_dict`."""
    if not isinstance(held, Mapping) or depth == 0:
        return {}
    inside = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
    found = {path: inside} if inside else {}
    for name, value in held.items():
        if not NOT_WEIGHTS.search(str(name)):
            found |= _dictionaries(value, f"{path}.{name}" if path else str(name), depth - 1)
    return found


def fit(module: nn.Module, weights: Mapping[str, torch.Tensor], label: str, factory: str) -> tuple[str, list[str]]:
    """Load the weights below the prefix that serves the module best.

    Where several sets of weights fit, those are taken that are no copy of others by their names (`ema`, `target`).

    Returns:
        The prefix (`encoder.` when the file holds a whole model and the module is its encoder), and the unused names.
    Raises:
        InputError: tensors are missing or have another shape, or several sets of weights fit; the message names them.
    """
    weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}  # torch.compile adds it
    needed = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    prefixes = {""} | {name[: i + 1] for name in weights for i, letter in enumerate(name) if letter in "./"}

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
    prefix = _the_one(prefix, [other for other in prefixes if serves(other)[0] == len(needed)], needed, weights, label, factory)
    module.load_state_dict({name: weights[prefix + name] for name in needed}, assign=True)
    return prefix, [name for name in weights if name not in {prefix + n for n in needed}]


def _the_one(
    best: str, fitting: list[str], needed: Mapping[str, Any], weights: Mapping[str, torch.Tensor], label: str, factory: str
) -> str:
    """Choose among prefixes whose weights all fit: none at all, else the only one of the main weights that is no copy."""
    differ = [best] + [
        other
        for other in sorted(fitting)
        if other != best and any(not torch.equal(weights[other + n], weights[best + n]) for n in needed)
    ]
    if len(differ) == 1 or "" in differ:
        return best if len(differ) == 1 else ""
    mains = [prefix for prefix in differ if "/" not in prefix] or differ
    originals = [prefix for prefix in mains if not COPY.search(prefix)]
    if len(originals) == 1:
        return originals[0]
    raise InputError(
        f"{label} holds {len(differ)} sets of weights that fit {factory}: {some_of([f'{prefix}*' for prefix in differ])}. Save "
        "the one that is meant alone, torch.save(module.state_dict(), 'weights.pt')."
    )


def copies_of(prefix: str, leftover: Sequence[str], needed: Sequence[str]) -> list[str]:
    """List other prefixes among the unused names that hold every tensor that the network needs, as an `ema.` does."""
    unused = set(leftover)
    ends = {name[: -len(needed[0])] for name in leftover if needed and name.endswith(needed[0])}
    return sorted(end for end in ends if end != prefix and all(end + name in unused for name in needed))


def some_of(names: list[str]) -> str:
    """List the first few of many names, and say how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
