"""Programs that a file holds: TorchScript, torch.export and ONNX, each opened by one function, in a confined process.

`open_torchscript`, `open_exported` and `open_onnx` run in that process. Other rooms call `start`, which starts the
process and returns a `Program` that answers from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from klprobe.files.archive import repacked
from klprobe.files.child import Child, Limits
from klprobe.files.confined import Opened
from klprobe.files.exported_check import sanitised
from klprobe.files.onnx_check import check_external_data
from klprobe.files.script_check import check_classes, check_source
from klprobe.types import CapabilityError, InputError

Kind = Literal["torchscript", "exported", "onnx"]
LONGEST = 200
"""Largest number of letters with which a confined process may describe the input of its program."""
ONNX_SEED = 1
"""Seed of onnxruntime's random operators, which take it when the model is opened."""


@dataclass(frozen=True)
class Program:
    """A program in its confined process, as a function of points.

    Attributes:
        run: Function from points, shape (m, ...), on the CPU, to tensors in lists and dictionaries, on the CPU.
        facts: Facts that the opening function found.
        wants: Sentence that says which input it needs; empty when that is not known.
        batch_size: The only number of points that it takes at a time; None when it takes any number.
    """

    run: Callable[[torch.Tensor], Any]
    facts: dict[str, Any]
    wants: str
    batch_size: int | None


def start(kind: Kind, path: Path, limits: Limits, *, device: str = "cpu", method: str = "forward", seed: int = 0) -> Program:
    """Open the program of a file in a confined process, which ends when the `Program` is no longer needed.

    Args:
        kind: Format of the file.
        path: Path of the file.
        limits: Memory and time that it may use.
        device: Device that it runs on, which only TorchScript can choose.
        method: Method of a TorchScript file that is called where the file has it, instead of `forward`.
        seed: Seed of its random numbers.
    Raises:
        InputError: the file is damaged, its program does more than compute, or it goes beyond the limits.
        CapabilityError: onnxruntime is not installed.
    """
    openers: dict[str, Callable[..., Opened]] = {
        "torchscript": open_torchscript,
        "exported": open_exported,
        "onnx": open_onnx,
    }
    settings = {"path": str(path.absolute())}
    if kind == "torchscript":
        settings |= {"device": device, "method": method}
    child = Child(openers[kind], settings, label=path.name, limits=limits, device=device, seed=seed)
    batch_size = child.facts.get("batch_size")
    return Program(
        child, child.facts, str(child.facts.get("wants", ""))[:LONGEST], batch_size if type(batch_size) is int else None
    )


def open_torchscript(path: str, device: str, method: str) -> Opened:
    """Open the network of a TorchScript file, in eval mode.

    torch's own interpreter reads the file; it knows tensors and numbers and no Python, and the pickles inside never reach
    Python's unpickler. Its source may name listed operators only (`klprobe.files.script_check`).
    """
    name = Path(path).name

    def check(entry: str, content: bytes) -> bytes | None:
        if entry.lower().endswith(".debug_pkl"):
            return None
        if entry.lower().startswith("code/"):
            check_source(name, entry, content)
        elif entry.lower().endswith(".pkl"):
            check_classes(name, entry, content)
        return content

    try:
        module = torch.jit.load(repacked(Path(path), check), map_location=device)
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        if "alloc" in str(error) or "memory" in str(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} is damaged, or needs operators this torch lacks ({said[:200]}): save it again.") from error
    frozen = not hasattr(module, "training")  # by torch.jit.freeze, which only takes networks in eval mode
    facts = {"saved_in_training_mode": not frozen and bool(module.training), "wants": wanted_by(module)}
    if not frozen:
        module.eval()
    called = getattr(module, method) if hasattr(module, method) else module
    kind, facts["kind_note"] = working_type(module)
    if not frozen:
        module.to(kind)
    kinds = [kind, torch.float16, torch.bfloat16, torch.float64] if frozen else [kind]

    def run(x: torch.Tensor) -> Any:
        while True:
            try:
                return called(in_type(x, kinds[0]).to(device))
            except RuntimeError as error:  # the weights of a frozen network are constants, whose type nothing says
                if len(kinds) == 1 or not x.is_floating_point() or ("dtype" not in str(error) and "type" not in str(error)):
                    raise
                kinds.pop(0)

    return Opened(facts, run=run)


def open_exported(path: str) -> Opened:
    """Open the program of a torch.export file, on the CPU, since its graph names devices; the graph is checked first."""
    name = Path(path).name
    try:
        program = torch.export.load(sanitised(Path(path)))
        module = program.module()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch raises many kinds of errors
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} cannot be read by this torch ({said[:200]}): export it again.") from error
    inputs = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes = [[size if isinstance(size, int) else "any" for size in node.meta["val"].shape] for node in nodes]
    if len(shapes) != 1:
        raise InputError(f"{name} takes {len(shapes)} inputs, but an encoder takes the data points alone: export it so.")
    batch, *point = shapes[0] or ["any"]
    kind = nodes[0].meta["val"].dtype

    def run(x: torch.Tensor) -> Any:
        return module(x.to(kind) if kind.is_floating_point or not x.is_floating_point() else x)

    return Opened(
        {"wants": f"points of shape {tuple(point)}", "batch_size": batch if isinstance(batch, int) else None}, run=run
    )


def open_onnx(path: str) -> Opened:
    """Open the graph of an ONNX file by onnxruntime on the CPU; weights beside it are read from its own folder only."""
    name = Path(path).name
    try:
        import onnxruntime
    except ImportError as error:
        raise CapabilityError(f"{name} needs onnxruntime: pip install 'klprobe[onnx]'.") from error
    check_external_data(Path(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    onnxruntime.set_seed(ONNX_SEED)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name} is damaged, or is not an ONNX model that onnxruntime reads ({said[:200]}): export it again."
        ) from error
    entries, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    if len(entries) != 1:
        names = ", ".join(node.name for node in entries) or "nothing"
        raise InputError(f"{name} takes as inputs {names}, but an encoder takes the data points alone: export it so.")
    batch, *point = entries[0].shape or [None]
    sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in point)
    kinds = {"double": torch.float64, "float16": torch.float16, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
    dtype = kinds.get(entries[0].type.removeprefix("tensor(").removesuffix(")"), torch.float32)

    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        if x.is_floating_point() and not dtype.is_floating_point:
            raise ValueError(f"it takes {entries[0].type}, and the data are {x.dtype}".replace("torch.", ""))
        values: list[Any] = session.run(None, {entries[0].name: x.to(dtype).numpy()})
        return {output: torch.as_tensor(value) for output, value in zip(outputs, values, strict=True)}

    facts = {
        "onnxruntime": onnxruntime.__version__,
        "wants": f"points of shape ({sizes})",
        "batch_size": batch if isinstance(batch, int) else None,
    }
    return Opened(facts, run=run)


def working_type(module: nn.Module) -> tuple[torch.dtype, str]:
    """The type of numbers that a network is run in, float64 where it has weights of it, else float32; and a note on others."""
    kinds = {weight.dtype for weight in module.parameters() if weight.is_floating_point()}
    halves = sorted(str(kind).removeprefix("torch.") for kind in kinds if kind.itemsize < 4)
    kind = torch.float64 if torch.float64 in kinds else torch.float32
    name = str(kind).removeprefix("torch.")
    return kind, f"weights of {' and '.join(halves)} run in {name}" if halves else ""


def in_type(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Points in that type of numbers; whole numbers as they are."""
    return x.to(kind) if x.is_floating_point() else x


def wanted_by(module: nn.Module) -> str:
    """Say which input a network's first layer needs; empty when its first weight does not show it."""
    for name, weight in module.named_parameters():
        if name.endswith("weight") and weight.dim() == 2:
            return (
                f"vectors of length {weight.shape[1]} ({name.removesuffix('.weight')} is its first layer; --flatten makes them)"
            )
        if name.endswith("weight") and weight.dim() == 4:
            return f"images with {weight.shape[1]} channel(s) (its first layer is {name.removesuffix('.weight')})"
        if weight.dim() > 1:
            break
    return ""
