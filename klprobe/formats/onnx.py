"""ONNX, through onnxruntime (extra `[onnx]`): a graph of operators with its weights, and no Python.

A graph with a random operator draws samples; when it gives nothing else, the posterior is known by samples alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klprobe.files.programs import start
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._encode import SEED, Encoder, encode_data

__all__ = ["Onnx"]


@dataclass(frozen=True)
class Onnx:
    """A network exported to ONNX (.onnx): run by onnxruntime, pip install 'klprobe[onnx]'; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether the file is called .onnx; the format has no header that would show it."""
        return path.is_file() and path.suffix.lower() == ".onnx"

    def load(self, path: Path, request: Request) -> Encoded:
        """Run the graph on the data, on the CPU.

        Raises:
            CapabilityError: onnxruntime is not installed.
            InputError: the file is damaged, has weights outside its folder, goes beyond the limits, or does
                not fit the data.
        """
        program = start("onnx", path, request.limits, seed=SEED)
        facts = {"format": "onnx", "file": path.name, "sha256": {path.name: sha256(path)}}
        facts["onnxruntime"] = str(program.facts.get("onnxruntime"))[:40]
        size = program.batch_size
        notes = () if size is None else (f"exported for {size} points at a time",)
        encoder = Encoder(program.run, path.name, program.wants, size, request.limits.num_bytes, program.arguments)
        return encode_data(encoder, request, facts, notes)
