"""`torch.export.save`: a graph of torch operators with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klprobe.files.archive import names_in
from klprobe.files.programs import start
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._encode import SEED, Encoder, encode_data

__all__ = ["ExportedProgram"]


@dataclass(frozen=True)
class ExportedProgram:
    """A network saved by torch.export (.pt2): its graph is checked, then run; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether this is a zip with a model graph where torch.export puts it."""
        names = names_in(path) if path.is_file() else ()
        return "archive_format" in names and any(name.startswith("models/") for name in names)

    def load(self, path: Path, request: Request) -> Encoded:
        """Run the program on the data, on the CPU (its graph names devices), with the batch size that it was exported for.

        Raises:
            InputError: the file is damaged, holds code or pickles, goes beyond the limits, or does not fit the data.
        """
        program = start("exported", path, request.limits, seed=SEED)
        facts = {"format": "exported-program", "file": path.name, "sha256": {path.name: sha256(path)}}
        size = program.batch_size
        notes = () if size is None else (f"exported for {size} points at a time",)
        encoder = Encoder(program.run, path.name, program.wants, size, request.limits.num_bytes, program.arguments)
        return encode_data(encoder, request, facts, notes)
