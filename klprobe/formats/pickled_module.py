"""A whole torch module, as `torch.save(model, path)` writes it: a pickle, which may run any code when it is opened.

This format is used only when the user gives `--allow-pickle`, which says that they trust the file.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from klprobe.files.arguments import arguments_of, called, each
from klprobe.files.programs import in_type, wanted_by, working_type
from klprobe.files.weights import load_trusted
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._encode import Encoder, encode_data
from klprobe.types import InputError

__all__ = ["PickledModule"]


@dataclass(frozen=True)
class PickledModule:
    """A whole torch module by torch.save(model, path), only with --allow-pickle: opening it runs code from it; needs --data."""

    def matches(self, path: Path) -> bool:
        """Always False, because `--allow-pickle` chooses this format."""
        return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Unpickle the module, and run its `encode`, or `forward` where it has none, in eval mode, on the data.

        Raises:
            InputError: `--allow-pickle` is not given, Python does not find a class, or the file holds no module.
        """
        if not request.allow_pickle:
            raise InputError(
                f"{path.name} is a pickle, which may run any code when it is opened. If you trust the file, give "
                "--allow-pickle."
            )
        module = _unpickle(path, request.device)
        was_training = module.training
        kind, kind_note = working_type(module)
        module.to(request.device, kind).eval()
        encode = getattr(module, "encode", module)
        facts = {
            "format": "pickled-module",
            "file": path.name,
            "sha256": {path.name: sha256(path)},
            "class": f"{type(module).__module__}.{type(module).__qualname__}",
            "saved_in_training_mode": was_training,
        }
        notes = (kind_note, "saved in training mode, run in eval mode" if was_training else "")
        encoder = Encoder(
            lambda x: called(encode, each(x, lambda t: in_type(t, kind).to(request.device))),
            path.name,
            wanted_by(module),
            arguments=arguments_of(encode),
        )
        return encode_data(encoder, request, facts, notes)


def _unpickle(path: Path, device: str) -> nn.Module:
    if os.getcwd() not in sys.path:  # the model's class may be in the current folder, as with `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        with torch.random.fork_rng():
            held = load_trusted(path, device)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{path.name} needs code that Python does not find here ({error}): run klprobe where the model's own module can be "
            "imported, or save its weights and name the network by --encoder."
        ) from error
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path.name} cannot be opened ({said[:200]}): save it again, torch.save(model, path).") from error
    if not isinstance(held, nn.Module):
        raise InputError(
            f"{path.name} holds a {type(held).__name__}, which is not a torch module: weights alone need --encoder "
            "package.module:factory."
        )
    return held
