"""TorchScript: `torch.jit.script` or `torch.jit.trace`, then `save`.

A TorchScript file is read by torch's own interpreter, which knows tensors and numbers and no Python: the pickles inside never
reach Python's unpickler. Two of its operators touch files; a program that mentions them is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from klprobe.encoders._archive import names_in, repacked
from klprobe.encoders._encode import Encoder, encode_data, wanted_by
from klprobe.encoders._shared import Encoded, Request, sha256
from klprobe.types import InputError

__all__ = ["TorchScript"]

TOUCHES_FILES = re.compile(rb"\b(from_file|save)\b")
"""aten::from_file maps any file, writable, and aten::save writes one."""


@dataclass(frozen=True)
class TorchScript:
    """A network saved by torch.jit (.pt): runs without its Python code and without unpickling; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether this is a zip with TorchScript's `constants.pkl` and code; a pickled module or state dict has no code."""
        names = names_in(path) if path.is_file() and path.suffix.lower() != ".npz" else ()
        return "constants.pkl" in names and any(name.startswith("code/") for name in names)

    def load(self, path: Path, request: Request) -> Encoded:
        """Run `encode` where the network exports it, else `forward`, in eval mode, on the data.

        Raises:
            InputError: damaged, a bomb, a program that touches files, or one that does not fit the data.
        """

        def check(name: str, content: bytes) -> bytes:
            if name.lower().startswith("code/") and TOUCHES_FILES.search(content):
                raise InputError(f"{path.name}: its program ({name}) reads or writes files, so klprobe does not run it.")
            return content

        checked = repacked(path, check)
        try:
            module = torch.jit.load(checked, map_location=request.device)
        except (RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            raise InputError(f"{path.name} is damaged, or needs operators this torch lacks ({said}): save it again.") from error
        was_training = module.training
        module.eval()
        encode = module.encode if hasattr(module, "encode") else module
        notes = ("saved in training mode, run in eval mode",) if was_training else ()
        return encode_data(
            Encoder(lambda x: encode(x.to(request.device)), path.name, wanted_by(module)),
            request,
            {
                "format": "torchscript",
                "file": path.name,
                "sha256": {path.name: sha256(path)},
                "saved_in_training_mode": was_training,
            },
            notes,
        )
