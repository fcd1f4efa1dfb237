"""ONNX, through onnxruntime (extra `[onnx]`): a graph of operators with its weights, and no Python.

A random operator inside means an exported sampler; when it gives samples alone, the encoder is sample-only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from klprobe.encoders._encode import Encoder, encode_data
from klprobe.encoders._shared import Encoded, Request, sha256
from klprobe.types import CapabilityError, InputError

__all__ = ["Onnx"]

SEED = 1
"""Of onnxruntime's random operators, which take it when the model is opened."""


@dataclass(frozen=True)
class Onnx:
    """A network exported to ONNX (.onnx): run by onnxruntime, pip install 'klprobe[onnx]'; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether the file is called .onnx; the format has no mark of its own."""
        return path.is_file() and path.suffix.lower() == ".onnx"

    def load(self, path: Path, request: Request) -> Encoded:
        """Run the graph on the data, on the CPU.

        Raises:
            CapabilityError: onnxruntime is not installed.
            InputError: a damaged file, several inputs, or data that do not fit.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise CapabilityError(f"{path.name} needs onnxruntime: pip install 'klprobe[onnx]'.") from error
        session = _open(onnxruntime, path)
        (entry, *more), outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
        if more:
            names = ", ".join(node.name for node in (entry, *more))
            raise InputError(f"{path.name} takes the inputs {names}, but an encoder takes the data points alone: export it so.")
        batch, *point = entry.shape or [None]
        sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in point)
        dtype = {"tensor(double)": torch.float64, "tensor(float16)": torch.float16}.get(entry.type, torch.float32)

        def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
            values: list[Any] = session.run(None, {entry.name: x.to(dtype).numpy()})
            return {name: torch.as_tensor(value) for name, value in zip(outputs, values, strict=True)}

        encoder = Encoder(run, path.name, f"points of shape ({sizes})", batch if isinstance(batch, int) else None)
        facts = {
            "format": "onnx",
            "file": path.name,
            "sha256": {path.name: sha256(path)},
            "onnxruntime": onnxruntime.__version__,
        }
        notes = () if encoder.batch_size is None else (f"exported for {batch} points at a time",)
        return encode_data(encoder, request, facts, notes)


def _open(onnxruntime: Any, path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    onnxruntime.set_seed(SEED)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path.name} is damaged, or no ONNX model that onnxruntime reads ({said[:200]}): export it again."
        ) from error
