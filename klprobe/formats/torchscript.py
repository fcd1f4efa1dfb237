"""TorchScript: `torch.jit.script` or `torch.jit.trace`, then `save`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klprobe.files.archive import names_in
from klprobe.files.programs import start
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._encode import SEED, Encoder, encode_data

__all__ = ["TorchScript"]


@dataclass(frozen=True)
class TorchScript:
    """A network saved by torch.jit (.pt): runs without its Python code and without unpickling; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether this is a zip with TorchScript's `constants.pkl` and code; a pickled module or state dict has no code."""
        names = names_in(path) if path.is_file() and path.suffix.lower() != ".npz" else ()
        return "constants.pkl" in names and any(name.startswith("code/") for name in names)

    def load(self, path: Path, request: Request) -> Encoded:
        """Run `encode`, or `forward` where the network has no `encode`, in eval mode, on the data, in a confined process.

        Raises:
            InputError: the file is damaged, or its program touches files, goes beyond the limits, or does not fit the data.
        """
        program = start("torchscript", path, request.limits, device=request.device, method="encode", seed=SEED)
        trained = "saved in training mode, run in eval mode" if program.facts.get("saved_in_training_mode") else ""
        notes = (str(program.facts.get("kind_note", ""))[:80], trained)
        facts = {
            "format": "torchscript",
            "file": path.name,
            "sha256": {path.name: sha256(path)},
            "saved_in_training_mode": bool(program.facts.get("saved_in_training_mode")),
        }
        encoder = Encoder(program.run, path.name, program.wants, None, request.limits.num_bytes, program.arguments)
        return encode_data(encoder, request, facts, notes)
