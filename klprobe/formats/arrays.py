"""Posteriors as plain arrays, so that the outputs of an encoder of any framework can be read.

`.npz`, `.safetensors`, or a folder of memory-mapped `.npy` files, holding
- `mean` (N, D) and exactly one of `logvar`, `var`, `std` (N, D): diagonal Gaussians;
- `samples` (N, D) alone: one draw a point of an encoder that can only be sampled;
- `mean` (N, D) alone: a deterministic encoder;
- `mean` (N, D) and `scale_tril` or `covariance` (N, D, D): full Gaussians;
- `mean_0`, `logvar_0`, `mean_1`, ...: the levels of a hierarchy, whose posteriors factorise given x;
- `probs` or `logits` (N, K) alone: a categorical code;
- beside any of the others `probs` or `logits` (N, K), several as `probs_0`, `probs_1`: categorical latents; their prior is
  uniform, or `prior_probs` (K,);
- `codes` (N, ...), whole numbers, and `codebook_size` K, in `.npz`: entries of a codebook, held against uniform use of all K.
`.npz` may also say which points these are: `split` (and `trained_on`), one of the strings train, test, all; in
`.safetensors` the same are the header's `klprobe.split` and `klprobe.trained_on`. `groups` (N,), numbers or
text, says which rows are not independent of each other, and `weights` (N,), positive, how much each counts. Other arrays are
ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.clusters import in_words, with_rows
from klprobe.distributions.posteriors import SampleOnly, as_posterior
from klprobe.files import npy, tables, tensor_file
from klprobe.files.columns import as_groups, as_weights, check_column
from klprobe.files.numbered_columns import columns_of
from klprobe.files.zips import opened
from klprobe.formats import FLAGS, Encoded, Request, refuse_flags, sha256
from klprobe.formats._codes import with_codebook
from klprobe.formats._latents import check_names, known, latents_of
from klprobe.types import InputError

__all__ = ["Arrays"]

KIND = "posterior"
"""Value of `klprobe.kind` in a safetensors header that claims this format."""
LABELS = ("split", "trained_on")
CODES, SIZE = "codes", "codebook_size"
LABEL_BYTES = 1024

OF_ROWS = ("groups", "weights")
"""Arrays with one value for each row."""

Read = Callable[[str], torch.Tensor]
Rows = dict[str, NDArray[Any]]
"""Those of `OF_ROWS` that a file holds."""
Found = tuple[dict[str, torch.Tensor], dict[str, str], Rows]
"""Tensors of the posterior, labels of the split, values of rows."""


@dataclass(frozen=True)
class Arrays:
    """Any encoder's output as mean and logvar, var or std (or levels, or samples): .npz, .safetensors, a folder of .npy, .csv.

    A `.npy` alone, and a table without columns of these names, is samples of q(z|x), a row a data point.
    """

    def matches(self, path: Path) -> bool:
        """Whether this is a folder with a known `.npy`, a zip `.npz`, a safetensors with known names, a table, or one array."""
        if path.is_dir():
            return bool(known(file.stem for file in path.glob("*.npy")))
        if path.suffix.lower() in tables.SUFFIXES:
            return path.is_file()
        try:
            if path.suffix.lower() == ".npy":
                return npy.map_file(path, path.name).ndim <= 2
            if path.suffix.lower() == ".npz":
                with path.open("rb") as stream:
                    return stream.read(2) == b"PK"
            if path.suffix.lower() == ".safetensors":
                with tensor_file.opened(path) as file:
                    return file.kind == KIND or (file.kind is None and bool(known(file.names)))
        except (OSError, InputError):
            pass
        return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Read and check the arrays; memory-mapped arrays stay memory-mapped."""
        if request.data is not None:
            raise InputError(
                f"{path.name} holds posteriors, not an encoder, so it cannot encode {request.data}: --data is for "
                "checkpoints with an encoder; or encode the data yourself and save what comes out."
            )
        refuse_flags(request, tuple(FLAGS), f"{path.name} holds posteriors as they are, and no encoder to run")
        kinds = {".npz": _read_npz, ".npy": _read_npy, **dict.fromkeys(tables.SUFFIXES, _read_table)}
        read = _read_folder if path.is_dir() else kinds.get(path.suffix.lower(), _read_safetensors)
        tensors, labels, rows = read(path)
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
        if set(tensors) == {CODES, SIZE}:
            read_as = Encoded(SampleOnly(tensors[CODES].flatten(1)), split=split, trained_on=trained_on, provenance=provenance)
            return with_codebook(read_as, tensors[CODES], int(tensors[SIZE]))
        latents = latents_of(path.name, tensors)
        posterior, row_notes = _with_rows(path.name, latents.posterior, rows)
        return Encoded(
            posterior,
            latents.prior,
            split=split,
            trained_on=trained_on,
            provenance=provenance,
            notes=(*_alone(path, tensors), *latents.notes, *row_notes),
            parts=latents.parts,
        )


def _choose(path: Path, found: Iterable[str], read: Read) -> dict[str, torch.Tensor]:
    """Read the tensors that make a posterior; InputError when their names make no posterior, or more than one."""
    found = list(found)
    check_names(path.name, found)
    return {name: read(name) for name in known(found)}


def _with_rows(label: str, posterior: Distribution, rows: Rows) -> tuple[Distribution, tuple[str, ...]]:
    """The posterior with the groups and weights of its rows, and what they are in words."""
    if not rows:
        return posterior, ()
    q: Any = as_posterior(posterior)
    columns = {name: check_column(values, f"{label}: {name!r}", q.num_points) for name, values in rows.items()}
    groups = as_groups(columns["groups"], f"{label}: 'groups'") if "groups" in rows else None
    weights = as_weights(columns["weights"], f"{label}: 'weights'") if "weights" in rows else None
    return with_rows(q, groups=groups, weights=weights), (f"{label}: {in_words(groups, weights)}",)


def _read_npy(path: Path) -> Found:
    """One array alone, which has no name to say what it is, is samples; a file called mean or logvar is no samples."""
    if path.stem != "samples" and known([path.stem]):
        raise InputError(
            f"{path.name} is a single array called {path.stem}: give the folder with it and its like in it, or, where it is "
            "samples of q(z|x), call it samples.npy."
        )
    return _choose(path, ["samples"], lambda name: _from_numpy(path, name, npy.map_file(path, path.name))), {}, {}


def _read_table(path: Path) -> Found:
    """Columns such as mean_0, mean_1, logvar_0, ... make tensors; columns of one kind alone are samples."""
    found = columns_of(tables.read_table(path, path.name), known, path.name)
    return _choose(path, found, lambda name: torch.from_numpy(found[name])), {}, {}


def _alone(path: Path, tensors: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """How an array without a name was understood."""
    if path.suffix.lower() not in (".npy", *tables.SUFFIXES) or set(tensors) != {"samples"}:
        return ()
    return (
        f"{path.name} is taken for samples of q(z|x), one row a data point, of which no density is known; where its rows are "
        "means, give their spread beside them.",
    )


def _read_npz(path: Path) -> Found:
    with opened(path, path.name) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def read(name: str) -> torch.Tensor:
            return _from_numpy(path, name, npy.read_member(archive, members[name], f"{path.name}: tensor {name!r}"))

        small = [name for name in LABELS if name in members and members[name].file_size <= LABEL_BYTES]
        labels = {name: str(npy.read_member(archive, members[name], f"{path.name}: {name!r}")) for name in small}
        rows = {name: npy.read_member(archive, members[name], f"{path.name}: {name!r}") for name in OF_ROWS if name in members}
        if CODES in members and not known(members):
            return _codes(path, members, read), labels, rows
        return _choose(path, members, read), labels, rows


def _codes(path: Path, members: Iterable[str], read: Read) -> dict[str, torch.Tensor]:
    """Read entries of a codebook and its size, which no code says: entries that are never used may be its last."""
    found = {name: read(name) for name in (CODES, SIZE) if name in members}
    codes, size = found[CODES], found.get(SIZE)
    if size is None or size.numel() != 1 or not float(size).is_integer():
        raise InputError(
            f"{path.name} holds codes, entries of a codebook, and needs its size, used entries or not: save "
            f"numpy.savez('{path.name}', codes=codes, codebook_size=512)."
        )
    if not codes.dim() or not bool((codes == codes.round()).all()):
        raise InputError(
            f"{path.name}: codes are numbers of a codebook's entries, whole numbers of shape (N, ...); got shape "
            f"{tuple(codes.shape)}. If they are vectors, save them as samples, or as mean for a deterministic encoder."
        )
    return {CODES: codes.reshape(len(codes), -1), SIZE: size.reshape(())}


def _read_safetensors(path: Path) -> Found:
    with tensor_file.opened(path, path.name) as file:
        header, tensors = file.header, _choose(path, file.names, file.read)
        rows = {name: file.read(name).double().numpy() for name in OF_ROWS if name in file.names}
    labels = {name: header[f"klprobe.{name}"] for name in LABELS if f"klprobe.{name}" in header}
    return {name: _as_real(path, name, tensor) for name, tensor in tensors.items()}, labels, rows


def _read_folder(path: Path) -> Found:
    def read(name: str) -> torch.Tensor:
        return _from_numpy(path, name, npy.map_file(path / f"{name}.npy", f"{path.name}/{name}.npy"))

    return _choose(path, sorted(file.stem for file in path.glob("*.npy")), read), {}, _rows_in(path)


def _rows_in(path: Path) -> Rows:
    there = [name for name in OF_ROWS if (path / f"{name}.npy").exists()]
    return {name: np.asarray(npy.map_file(path / f"{name}.npy", f"{path.name}/{name}.npy")) for name in there}


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


def _label(path: Path, labels: dict[str, str], name: str) -> str:
    value = labels.get(name, "unknown")
    if value not in ("train", "test", "all", "unknown"):
        raise InputError(f"{path.name}: {name} is {value[:40]!r}; it can be train, test or all.")
    return value
