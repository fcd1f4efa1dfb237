"""Posteriors as plain arrays, so that any framework can hand its encoder over.

`.npz`, `.safetensors`, or a folder of memory-mapped `.npy` files, holding
- `mean` (N, D) and exactly one of `logvar`, `var`, `std` (N, D): diagonal Gaussians;
- `samples` (N, D) alone: one draw a point of an encoder that can only be sampled;
- `mean` (N, D) alone: a deterministic encoder.
`.npz` may also say which points these are: `split` (and `trained_on`), one of the strings train, test, all; in
`.safetensors` the same are the header's `klprobe.split` and `klprobe.trained_on`. Other arrays are left alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from klprobe.distributions import DiagonalGaussian, SampleOnly
from klprobe.encoders import _npy
from klprobe.encoders._shared import Encoded, Request, sha256
from klprobe.types import InputError

__all__ = ["Arrays"]

KIND = "posterior"
"""Value of `klprobe.kind` in a safetensors header that claims this format."""
SPREADS = ("logvar", "var", "std")
KNOWN = ("mean", *SPREADS, "samples")
LABELS = ("split", "trained_on")
LABEL_BYTES = 1024
VALUES_AT_ONCE = 1 << 22
"""Numbers validated at a time, so that a memory-mapped array of any size passes through little memory."""
LARGEST_LOGVAR = 700.0
"""exp(+-700) is still a normal float64."""
CONTENT = "either mean and exactly one of logvar, var, std, or samples alone, or mean alone, each of shape (N, D)"

Read = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Arrays:
    """Any encoder's output as mean and logvar, var or std, or samples: .npz, .safetensors, or a folder of .npy."""

    def matches(self, path: Path) -> bool:
        """Whether this is a folder with a known `.npy`, a zip called `.npz`, or a safetensors with known names."""
        if path.is_dir():
            return any((path / f"{name}.npy").is_file() for name in KNOWN)
        try:
            if path.suffix.lower() == ".npz":
                with path.open("rb") as stream:
                    return stream.read(2) == b"PK"
            if path.suffix.lower() == ".safetensors":
                with safe_open(path, "pt") as file:
                    kind = (file.metadata() or {}).get("klprobe.kind")
                    return kind == KIND or (kind is None and bool(set(file.keys()) & set(KNOWN)))
        except (OSError, SafetensorError):
            pass
        return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Read and check the arrays; what is memory-mapped stays so."""
        if request.data is not None:
            raise InputError(
                f"{path.name} holds posteriors, not an encoder, so it cannot encode {request.data}: leave --data away, "
                "or encode that data set yourself and save what comes out."
            )
        read = _read_folder if path.is_dir() else _read_npz if path.suffix.lower() == ".npz" else _read_safetensors
        tensors, labels = read(path)
        split, trained_on = (_label(path, labels, name) for name in LABELS)
        if request.split not in ("all", split):
            raise InputError(
                f"{path.name} holds its points as they are ({split} split), so --split {request.split} cannot choose among "
                f"them: save those points' posteriors to a file of their own, with split='{request.split}' beside mean."
            )
        files = [path / f"{name}.npy" for name in tensors] if path.is_dir() else [path]
        provenance = {
            "format": "arrays",
            "file": path.name,
            "sha256": {file.name: sha256(file) for file in files},
            "tensors": {name: f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for name, t in tensors.items()},
        }
        return Encoded(_posterior(path, tensors), split=split, trained_on=trained_on, provenance=provenance)


def _posterior(path: Path, tensors: dict[str, torch.Tensor]) -> DiagonalGaussian | SampleOnly:
    for name, tensor in tensors.items():
        _check_shape(path, name, tensor)
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        listed = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise InputError(f"{path.name}: shapes disagree: {listed}. All must be the same (N, D).")
    for name, tensor in tensors.items():
        _check_values(path, name, tensor)
    spreads = {name: t for name, t in tensors.items() if name in SPREADS}
    if spreads:
        return DiagonalGaussian(tensors["mean"], **spreads)
    return SampleOnly(*tensors.values(), deterministic="mean" in tensors)


def _choose(path: Path, found: Iterable[str], read: Read) -> dict[str, torch.Tensor]:
    """Read the tensors that make a posterior; InputError when the names make none, or more than one."""
    found = list(found)
    known = [name for name in KNOWN if name in found]
    spreads = [name for name in known if name in SPREADS]
    if len(spreads) > 1:
        raise InputError(f"{path.name} holds {' and '.join(spreads)} at once: keep exactly one of logvar, var, std.")
    if known not in (["mean", *spreads], ["samples"]):
        listed = ", ".join(repr(name) for name in found[:8]) + (", ..." if len(found) > 8 else "")
        raise InputError(f"{path.name} holds {listed or 'nothing'}; klprobe needs {CONTENT}. Rename, add or remove tensors.")
    return {name: read(name) for name in known}


def _read_npz(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

            def read(name: str) -> torch.Tensor:
                return _from_numpy(path, name, _npy.read_member(archive, members[name], f"{path.name}: tensor {name!r}"))

            small = [name for name in LABELS if name in members and members[name].file_size <= LABEL_BYTES]
            labels = {name: str(_npy.read_member(archive, members[name], f"{path.name}: {name!r}")) for name in small}
            return _choose(path, members, read), labels
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is no complete .npz file ({error}): it is damaged, save it again.") from error


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = _choose(path, file.keys(), file.get_tensor)
    except SafetensorError as error:
        raise InputError(f"{path.name} is damaged or truncated ({error}): save or copy it again.") from error
    labels = {name: header[f"klprobe.{name}"] for name in LABELS if f"klprobe.{name}" in header}
    return {name: _as_real(path, name, tensor) for name, tensor in tensors.items()}, labels


def _read_folder(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    def read(name: str) -> torch.Tensor:
        return _from_numpy(path, name, _npy.map_file(path / f"{name}.npy", f"{path.name}/{name}.npy"))

    return _choose(path, sorted(file.stem for file in path.glob("*.npy")), read), {}


def _from_numpy(path: Path, name: str, array: np.ndarray) -> torch.Tensor:
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"{path.name}: tensor {name!r} has dtype {array.dtype}, but a posterior is real numbers: save it as float32."
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)


def _as_real(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex() or tensor.dtype == torch.bool:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{path.name}: tensor {name!r} has dtype {kind}, but a posterior is real numbers: save it as float32.")
    return tensor if tensor.is_floating_point() else tensor.double()


def _check_shape(path: Path, name: str, tensor: torch.Tensor) -> None:
    shape = tuple(tensor.shape)
    problem = ""
    if len(shape) < 2:
        problem = f"for one latent, {name}[:, None] has it" if len(shape) == 1 else "save one row per data point"
    elif len(shape) > 2:
        problem = f"flatten each point's latents, {name}.reshape(len({name}), -1)"
    elif shape[1] == 0:
        problem = "D = 0 leaves no latent to estimate"
    elif shape[0] < 2:
        problem = f"N = {shape[0]}, but an aggregate posterior needs at least 2 data points"
    if problem:
        raise InputError(f"{path.name}: tensor {name!r} has shape {shape}, not (N, D): {problem}.")


def _check_values(path: Path, name: str, tensor: torch.Tensor) -> None:
    where = f"{path.name}: tensor {name!r}"
    if found := _find(tensor, lambda block: ~block.isfinite()):
        raise InputError(
            f"{where} has {found}, NaN or infinite: look for what diverged in the encoder, or leave those points out."
        )
    if name == "logvar" and (found := _find(tensor, lambda block: block.abs() > LARGEST_LOGVAR)):
        raise InputError(
            f"{where} has {found}, beyond +-{LARGEST_LOGVAR:g}, where a float64 variance ends: clamp it in the encoder, "
            "or hand over mean alone for a deterministic encoder."
        )
    if name in ("var", "std"):
        if found := _find(tensor, lambda block: block < 0):
            raise InputError(f"{where} has {found}, negative: if it is a log-variance, call it 'logvar'.")
        if found := _find(tensor, lambda block: block == 0):
            raise InputError(
                f"{where} has {found}, zero, so q(z|x) has no density there: save logvar (float16 underflows), "
                "or mean alone for a deterministic encoder."
            )


def _find(tensor: torch.Tensor, is_bad: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """How many values are bad and where the first is, in words; empty when none is."""
    rows, count, first = max(1, VALUES_AT_ONCE // tensor.shape[1]), 0, ""
    for start in range(0, len(tensor), rows):
        bad = is_bad(tensor[start : start + rows].double())
        here = int(bad.sum())
        if here and not count:
            row, column = divmod(int(bad.flatten().byte().argmax()), tensor.shape[1])
            first = f"[{start + row}, {column}]"
        count += here
    return f"{count:,} value{'s' if count > 1 else ''} (the first at {first})" if count else ""


def _label(path: Path, labels: dict[str, str], name: str) -> str:
    value = labels.get(name, "unknown")
    if value not in ("train", "test", "all", "unknown"):
        raise InputError(f"{path.name}: {name} is {value[:40]!r}; it can be train, test or all.")
    return value
