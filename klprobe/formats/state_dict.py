"""Weights without a program: a state dict or Lightning checkpoint, and the Python function that makes their network.

The weights are read by torch's restricted unpickler (`weights_only=True`), which makes tensors and containers and calls nothing
else, unless `--allow-pickle` says otherwise. The factory is the user's own code, and is imported because `--encoder` names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from klprobe.files.arguments import arguments_of, called, each
from klprobe.files.programs import in_type, wanted_by, working_type
from klprobe.files.weights import copies_of, fit, read_weights, some_of
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._encode import Encoder, encode_data
from klprobe.runtime.user_code import import_named
from klprobe.types import InputError

__all__ = ["StateDict"]

PRIOR = re.compile(r"prior|pseudo_?inputs?|vamp", re.I)
"""Names that programs give to the tensors of a prior."""


@dataclass(frozen=True)
class StateDict:
    """Weights (.pt, .pth, .ckpt of Lightning, .safetensors) with --encoder package.module:factory; needs --data."""

    def matches(self, path: Path) -> bool:
        """Always False, because weights alone do not say how to run them, and `--encoder` chooses this format."""
        return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Build the network, load the weights, and run its `encode`, or `forward` where it has none, in eval mode.

        Raises:
            InputError: the file holds more than tensors, the factory fails, or the weights do not fit its network.
        """
        if request.encoder is None:
            raise InputError(
                f"{path.name} holds weights alone: say which network they belong to, with --encoder package.module:factory."
            )
        weights = read_weights(path, request.limits, allow_pickle=request.allow_pickle)
        with torch.random.fork_rng():
            module = _build(request.encoder)
        prefix, leftover = fit(module, weights, path.name, request.encoder)
        kind, kind_note = working_type(module)
        module.to(request.device, kind).eval()
        encode = getattr(module, "encode", module)
        notes = [kind_note] if kind_note else []
        notes += [f"weights {prefix}* given to {request.encoder}"] if prefix else []
        if others := copies_of(prefix, leftover, list(module.state_dict())):
            notes.append(f"{some_of([f'{other}*' for other in others])} would fit as well: to take those, save them alone")
        if own := [name for name in leftover if PRIOR.search(name)]:
            notes.append(
                f"{some_of(own)} may be the model's own prior, which is not used: give it as --prior, as vampprior:FILE for "
                "pseudo-inputs, or package.module:prior"
            )
        if leftover:
            notes.append(f"{len(leftover)} tensors of {path.name} were not used: {some_of(leftover)}")
        provenance = {
            "format": "state-dict",
            "file": path.name,
            "sha256": {path.name: sha256(path)},
            "encoder": request.encoder,
            "prefix": prefix,
            "unused": leftover,
        }
        encoder = Encoder(
            lambda x: called(encode, each(x, lambda t: in_type(t, kind).to(request.device))),
            path.name,
            wanted_by(module),
            arguments=arguments_of(encode),
        )
        return encode_data(encoder, request, provenance, tuple(notes))


def _build(spec: str) -> nn.Module:
    factory = import_named(spec, "--encoder")
    try:
        module = factory if isinstance(factory, nn.Module) else factory()
    except Exception as error:
        raise InputError(
            f"--encoder {spec} cannot be called without arguments ({type(error).__name__}: {error}): give a function that "
            "returns the network with its sizes filled in."
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"--encoder {spec} returns a {type(module).__name__}: let it return the torch.nn.Module.")
    return module
