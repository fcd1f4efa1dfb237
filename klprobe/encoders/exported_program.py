"""`torch.export.save`: a graph of torch operators with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from klprobe.encoders._archive import names_in
from klprobe.encoders._encode import Encoder, encode_data
from klprobe.encoders._safe_pt2 import sanitised
from klprobe.encoders._shared import Encoded, Request, sha256
from klprobe.types import InputError

__all__ = ["ExportedProgram"]


@dataclass(frozen=True)
class ExportedProgram:
    """A network saved by torch.export (.pt2): its graph is checked, then run; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether this is a zip with a model graph where torch.export puts it."""
        names = names_in(path) if path.is_file() else ()
        return "archive_format" in names and any(name.startswith("models/") for name in names)

    def load(self, path: Path, request: Request) -> Encoded:
        """Run the program on the data, on the CPU (its graph names devices), as many points at a time as it was exported for.

        Raises:
            InputError: damaged, holding code or pickles, or not fitting the data.
        """
        try:
            program = torch.export.load(sanitised(path))
            module = program.module()
        except InputError:
            raise
        except Exception as error:  # torch raises whatever its parsers raise
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path.name} cannot be read by this torch ({said[:200]}): export it again.") from error
        shapes = _input_shapes(program)
        if len(shapes) != 1:
            raise InputError(
                f"{path.name} takes {len(shapes)} inputs, but an encoder takes the data points alone: export it so."
            )
        batch, *point = shapes[0]
        encoder = Encoder(
            module,
            path.name,
            f"points of shape {tuple(point)}",
            batch if isinstance(batch, int) else None,
        )
        facts = {"format": "exported-program", "file": path.name, "sha256": {path.name: sha256(path)}}
        notes = () if encoder.batch_size is None else (f"exported for {batch} points at a time",)
        return encode_data(encoder, request, facts, notes)


def _input_shapes(program: torch.export.ExportedProgram) -> list[list[int | str]]:
    """Shapes of the program's inputs; a size that may vary is a word."""
    inputs = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    return [[size if isinstance(size, int) else "any" for size in node.meta["val"].shape] for node in nodes]
