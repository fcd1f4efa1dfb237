"""Programs that a file holds: TorchScript, torch.export and ONNX, each opened by one function, in a confined process.

`open_torchscript`, `open_exported` and `open_onnx` run in that process. Other rooms call `start`, which starts the
process and returns a `Program` that answers from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from klprobe.files.archive import repacked
from klprobe.files.arguments import Arguments, Batch, called, each, from_facts, of_types
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
        run: Function from points, shape (m, ...), on the CPU, or from several tensors by argument, to tensors in lists and
            dictionaries, on the CPU.
        facts: Facts that the opening function found.
        wants: Sentence that says which input it needs; empty when that is not known.
        batch_size: The only number of points that it takes at a time; None when it takes any number.
        arguments: Names of its inputs.
    """

    run: Callable[[Batch], Any]
    facts: dict[str, Any]
    wants: str
    batch_size: int | None
    arguments: Arguments


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
    wants, size = str(child.facts.get("wants", ""))[:LONGEST], batch_size if type(batch_size) is int else None
    return Program(child, child.facts, wants, size, from_facts(child.facts.get("arguments")))


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
    runs = getattr(module, method) if hasattr(module, method) else module
    if (schema := getattr(runs, "schema", None) or getattr(getattr(module, "forward", None), "schema", None)) is not None:
        facts["arguments"] = _of_schema(schema).facts()
    kind, facts["kind_note"] = working_type(module)
    if not frozen:
        module.to(kind)
    kinds = [kind, torch.float16, torch.bfloat16, torch.float64] if frozen else [kind]

    def run(x: Batch) -> Any:
        while True:
            try:
                return called(runs, each(x, lambda t: in_type(t, kinds[0]).to(device)))
            except RuntimeError as error:  # the weights of a frozen network are constants, whose type nothing says
                fixed = not any(t.is_floating_point() for t in (x.values() if isinstance(x, dict) else [x]))
                if len(kinds) == 1 or fixed or ("dtype" not in str(error) and "type" not in str(error)):
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
    nodes = [node for node in program.graph.nodes if node.name in set(program.graph_signature.user_inputs)]
    values = {node.name: node.meta.get("val") for node in nodes if node.op == "placeholder"}
    kinds = {argument: value.dtype for argument, value in values.items() if isinstance(value, torch.Tensor)}
    if not kinds or len(kinds) != len(values):
        raise InputError(f"{name} takes {len(values)} inputs that are not tensors alone: export it with tensors as inputs.")
    shapes = {argument: [size if isinstance(size, int) else "any" for size in values[argument].shape] for argument in kinds}
    named = list(program.call_spec.in_spec.child(1).context or ()) if program.call_spec.in_spec is not None else []

    def run(x: Batch) -> Any:
        ready = of_types(x if isinstance(x, dict) else {next(iter(kinds)): x}, kinds)
        return module(*(ready[argument] for argument in kinds if argument not in named), **{key: ready[key] for key in named})

    return Opened(_told(shapes), run=run)


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
    if not entries:
        raise InputError(f"{name} takes no input: export it with the data as input.")
    known = {"double": torch.float64, "float16": torch.float16, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
    kinds = {entry.name: known.get(entry.type.removeprefix("tensor(").removesuffix(")"), torch.float32) for entry in entries}
    shapes = {entry.name: [size if isinstance(size, int) else "any" for size in entry.shape] for entry in entries}

    def run(x: Batch) -> dict[str, torch.Tensor]:
        ready = of_types(x if isinstance(x, dict) else {entries[0].name: x}, kinds)
        values: list[Any] = session.run(None, {argument: tensor.numpy() for argument, tensor in ready.items()})
        return {output: torch.as_tensor(value) for output, value in zip(outputs, values, strict=True)}

    return Opened({"onnxruntime": onnxruntime.__version__, **_told(shapes)}, run=run)


def _told(shapes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What a graph says of its inputs, by the shape of each: what it wants, how many at a time, and their names."""
    sizes = [shape[0] for shape in shapes.values() if shape and isinstance(shape[0], int)]
    points = [
        f"{argument if len(shapes) > 1 else 'points'} of shape ({', '.join(map(str, shape[1:]))})"
        for argument, shape in shapes.items()
    ]
    return {
        "wants": ", ".join(points),
        "batch_size": sizes[0] if sizes else None,
        "arguments": Arguments(tuple(shapes)).facts(),
    }


def _of_schema(schema: Any) -> Arguments:
    """The arguments of a method of TorchScript, without its network."""
    taken = schema.arguments[1:]
    needed, optional = (tuple(a.name for a in taken if a.has_default_value() is which) for which in (False, True))
    unset = tuple(a.name for a in taken if a.has_default_value() and a.default_value is None)
    return Arguments(needed, optional, unset=unset)


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
