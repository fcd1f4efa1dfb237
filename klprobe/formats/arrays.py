"""Posteriors as plain arrays, so that the outputs of an encoder of any framework can be read.

`.npz`, `.safetensors`, or a folder of memory-mapped `.npy` files, holding
- `mean` (N, D) and exactly one of `logvar`, `var`, `std`: diagonal Gaussians; the spread may be shared, (D,) or (N, 1);
- `samples` (N, D) alone: one draw a point of an encoder that can only be sampled;
- `mean` (N, D) alone: a deterministic encoder;
- `mean` (N, D) and `scale_tril` or `covariance` (N, D, D): full Gaussians;
- `mean_0`, `logvar_0`, `mean_1`, ...: the levels of a hierarchy, whose posteriors factorise given x;
- `probs` or `logits` (N, K) alone: a categorical code;
- beside any of the others `probs` or `logits` (N, K), several as `probs_0`, `probs_1`: categorical latents; their prior is
  uniform, or `prior_probs` (K,);
- beside any of these the model's own prior, `prior_mean` (D,) and `prior_logvar`, `prior_var` or `prior_std`; of K
  components (K, D), with `prior_weights` (K,).
- `codes` (N, ...), whole numbers, and `codebook_size` K, in `.npz`: entries of a codebook, held against uniform use of all K.

Other names of the same meaning are known too, such as `mu` and `log_sigma`. An array beside the mean that may be its spread and
whose name does not say so is asked about; others are left alone.

`.npz` may also say which points these are: `split` (and `trained_on`), one of the strings train, test, all; in
`.safetensors` the same are the header's `klprobe.split` and `klprobe.trained_on`. `groups` (N,), numbers or
text, says which rows are not independent of each other, and `weights` (N,), positive, how much each counts.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.clusters import in_words, with_rows
from klprobe.distributions.posteriors import SampleOnly, as_posterior
from klprobe.files import npy, tables, tensor_file
from klprobe.files.columns import as_groups, as_weights, check_column
from klprobe.files.numbered_columns import columns_of
from klprobe.files.rows_on_disk import rows_of
from klprobe.files.zips import opened
from klprobe.formats import FLAGS, Encoded, Request, refuse_flags, sha256
from klprobe.formats._by_name import by_name
from klprobe.formats._codes import with_codebook
from klprobe.formats._latents import FULL, check_names, known, latents_of
from klprobe.formats._names import CATEGORICAL, SPREAD_ROLES, meaning
from klprobe.formats._priors import find_prior, prior_from
from klprobe.formats._reading import as_asked, plain, plain_role
from klprobe.formats._returned import roles_by_level
from klprobe.formats._tensors import SPREADS, check_scatter
from klprobe.types import InputError

__all__ = ["Arrays"]

KIND = "posterior"
"""Value of `klprobe.kind` in a safetensors header that claims this format."""
LABELS = ("split", "trained_on")
CODES, SIZE = "codes", "codebook_size"
LABEL_BYTES = 1024
NUMBERS = "fiu"
"""Kinds of numpy's types that can be latents: floating and whole numbers."""

OF_ROWS = ("groups", "weights")
"""Arrays with one value for each row."""
Rows = dict[str, NDArray[Any]]
"""Those of `OF_ROWS` that a file holds."""

Read = Callable[[str], torch.Tensor]
Looked = TypeVar("Looked")


@dataclass(frozen=True)
class Arrays:
    """Any encoder's output as mean and logvar, var or std (or levels, or samples): .npz, .safetensors, a folder of .npy, .csv.

    A `.npy` alone, and a table without columns of these names, is samples of q(z|x), a row a data point.
    """

    def matches(self, path: Path) -> bool:
        """Whether this is a folder with a known `.npy`, a zip `.npz`, a safetensors with known names, a table, or one array."""
        if path.is_dir():
            return any(_is_posterior(file.stem) for file in path.glob("*.npy"))
        if path.suffix.lower() in tables.SUFFIXES:
            return path.is_file()
        try:
            if path.suffix.lower() == ".npy":
                return len(npy.file_layout(path, path.name).shape) <= 2
            if path.suffix.lower() == ".npz":
                with path.open("rb") as stream:
                    return stream.read(2) == b"PK"
            if path.suffix.lower() == ".safetensors":
                with tensor_file.opened(path) as file:
                    return file.kind == KIND or (file.kind is None and any(map(_is_posterior, file.names)))
        except (OSError, InputError):
            pass
        return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Read and check the arrays; a `.npy` that is large beside the memory stays on disk."""
        if request.data is not None:
            raise InputError(
                f"{path.name} holds posteriors, not an encoder, so it cannot encode {request.data}: --data is for "
                "checkpoints with an encoder; or encode the data yourself and save what comes out."
            )
        flags = tuple(name for name in FLAGS if name != "outputs")
        refuse_flags(request, flags, f"{path.name} holds posteriors as they are, and no encoder to run")
        with _opened(path) as file:
            choice = _choose(path.name, file, request.outputs)
            tensors = {role: file.read(name) for role, name in choice.names.items()}
            own = {role: file.read(name) for role, name in choice.prior.items()}
            labels, rows = file.labels(), file.rows()
        split, trained_on = (_label(path, labels, name) for name in LABELS)
        if request.split not in ("all", split):
            raise InputError(
                f"{path.name} holds its points as they are ({split} split), so --split {request.split} cannot choose among "
                f"them: save those points' posteriors to a file of their own, with split='{request.split}' beside mean."
            )
        files = [path / f"{name}.npy" for name in choice.names.values()] if path.is_dir() else [path]
        provenance = {
            "format": "arrays",
            "file": path.name,
            "sha256": {file.name: sha256(file) for file in files},
            "tensors": {
                choice.names[role]: f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for role, t in tensors.items()
            },
        }
        if set(tensors) == {CODES, SIZE}:
            read_as = Encoded(SampleOnly(tensors[CODES].flatten(1)), split=split, trained_on=trained_on, provenance=provenance)
            return with_codebook(read_as, tensors[CODES], int(tensors[SIZE]))
        if {"mean", "samples"} <= set(tensors):  # by --outputs: as those of an encoder
            check_scatter(tensors, path.name)
            del tensors["samples" if set(SPREAD_ROLES) & set(tensors) else "mean"]
        latents = latents_of(path.name, {plain_role(role): plain(role, t) for role, t in tensors.items()})
        prior = prior_from(path.name, own, latents.posterior.event_shape[0]) if own else latents.prior
        posterior, row_notes = _with_rows(path.name, latents.posterior, rows if request.of_rows else {})
        return Encoded(
            posterior,
            latents.prior if prior is None else prior,
            split=split,
            trained_on=trained_on,
            provenance=provenance,
            notes=(*_alone(path, tensors), *choice.notes, *latents.notes, *row_notes),
            parts=latents.parts,
            prior_name=f"{', '.join(choice.prior.values())} of {path.name}" if own else "",
            no_prior=choice.no_prior,
        )


@dataclass(frozen=True)
class _File:
    """Arrays by name, none of them read before it is asked for.

    Attributes:
        shapes: Shape of every array of numbers, by name.
        read: From a name to the array.
        labels: Gives the texts beside them, `split` and `trained_on`.
        rows: Gives the arrays with one value for each row, `groups` and `weights`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Read
    labels: Callable[[], dict[str, str]] = dict
    rows: Callable[[], Rows] = dict


@dataclass(frozen=True)
class _Choice:
    """Role to name, of the posterior and of the model's own prior."""

    names: dict[str, str]
    prior: dict[str, str]
    no_prior: str = ""
    notes: tuple[str, ...] = ()


def _choose(label: str, file: _File, asked: str | None) -> _Choice:
    """The arrays that make a posterior; InputError when the names make none, or more than one."""
    if asked is not None:
        said = as_asked(file.shapes, {}, asked, label)
        if any(half is not None for _, half in said.roles.values()):
            raise InputError(f"--outputs {asked}: {label} holds arrays, of which none is split: save mean and spread as two.")
        names = {role: name for role, (name, _) in said.roles.items()}
        return _Choice(names, {role: name for role, (name, _) in said.prior.items()})
    canonical = known(file.shapes)
    if CODES in file.shapes and not canonical and SIZE in file.shapes:
        return _Choice({CODES: CODES, SIZE: SIZE}, {})
    numbered = any(name[-1].isdecimal() and not name.startswith(CATEGORICAL) for name in canonical)
    classes = {name: name for name in canonical if name.startswith(CATEGORICAL)}
    rest = {name: shape for name, shape in file.shapes.items() if name not in classes and name not in OF_ROWS}
    rows = max((shape[0] for name, shape in rest.items() if len(shape) > 1), default=0)
    prior, no_prior = find_prior(rest, file.read, rows)
    if numbered or len([name for name in canonical if name in (*FULL, *SPREADS)]) > 1:
        check_names(label, canonical)
        return _Choice({name: name for name in canonical}, prior, no_prior)
    by_level = roles_by_level(
        {name: torch.empty(shape, device="meta") for name, shape in rest.items() if _is_of_points(name)}, label
    )
    found = {role: (name, None) for role, name in by_level.items()} or by_name(rest, file.read, (), label, is_file=True)
    if not found:
        check_names(label, [*classes, *(name for name in file.shapes if name not in classes)])
    names = {role: name for role, (name, _) in (found or {}).items()}
    if any(half is not None for _, half in (found or {}).values()):
        raise InputError(
            f"{label}: {names['mean']} holds mean and spread side by side: save them as two arrays, mean and logvar."
        )
    check_names(label, [*(plain_role(role) for role in names), *classes])
    other = [f"{name} as {role}" for role, name in names.items() if role != name]
    return _Choice(names | classes, prior, no_prior, (f"arrays read by name: {', '.join(other)}",) if other else ())


def _is_posterior(name: str) -> bool:
    """Whether the name of an array says that it is of a posterior; parameters of networks have dots in theirs."""
    said = meaning(name)
    return bool(known([name])) or ("." not in name and said.owner in ("", "posterior") and said.role in ("mean", "samples"))


def _is_of_points(name: str) -> bool:
    return meaning(name).owner in ("", "posterior") and not meaning(name).positional


def _with_rows(label: str, posterior: Distribution, rows: Rows) -> tuple[Distribution, tuple[str, ...]]:
    """The posterior with the groups and weights of its rows, and what they are in words."""
    if not rows:
        return posterior, ()
    q: Any = as_posterior(posterior)
    columns = {name: check_column(values, f"{label}: {name!r}", q.num_points) for name, values in rows.items()}
    groups = as_groups(columns["groups"], f"{label}: 'groups'") if "groups" in rows else None
    weights = as_weights(columns["weights"], f"{label}: 'weights'") if "weights" in rows else None
    return with_rows(q, groups=groups, weights=weights), (f"{label}: {in_words(groups, weights)}",)


def _alone(path: Path, tensors: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """How an array without a name was understood."""
    if path.suffix.lower() not in (".npy", *tables.SUFFIXES) or set(tensors) != {"samples"}:
        return ()
    return (
        f"{path.name} is taken for samples of q(z|x), one row a data point, of which no density is known; where its rows are "
        "means, give their spread beside them.",
    )


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """The arrays of a folder, a `.npz`, a `.safetensors`, a table, or the one of a `.npy`."""
    kind = path.suffix.lower()
    if path.is_dir():
        files = {file.stem: file for file in sorted(path.glob("*.npy"))}
        layouts = _those_of_use(files, lambda name: npy.file_layout(files[name], f"{path.name}/{name}.npy"))
        yield _File(
            _shapes(layouts),
            lambda name: _from_file(path, name, files[name], f"{path.name}/{name}.npy"),
            rows=lambda: _rows_in(path),
        )
    elif kind == ".npz":
        with opened(path, path.name) as archive:
            yield _npz(path, archive)
    elif kind == ".npy":
        if path.stem != "samples" and known([path.stem]):
            raise InputError(
                f"{path.name} is a single array called {path.stem}: give the folder with it and its like in it, or, where it "
                "is samples of q(z|x), call it samples.npy."
            )
        shape = npy.file_layout(path, path.name).shape
        yield _File({"samples": shape}, lambda name: _from_file(path, name, path, path.name))
    elif kind in tables.SUFFIXES:
        table = tables.read_table(path, path.name)
        of_rows = {name: table.values[:, table.names.index(name)] for name in OF_ROWS if name in table.names}
        found = columns_of(table.without(of_rows), lambda names: [name for name in names if _says_role(name)], path.name)
        if len({values.shape for name, values in found.items() if not name.startswith(CATEGORICAL)}) > 1:
            listed = ", ".join(f"{name} {values.shape}" for name, values in found.items())
            raise InputError(f"{path.name}: shapes disagree: {listed}. There must be one column of each for every latent.")
        shapes = {name: values.shape for name, values in found.items()}
        yield _File(shapes, lambda name: torch.from_numpy(found[name]), rows=lambda: of_rows)
    else:
        with tensor_file.opened(path, path.name) as file:
            header = {name: file.header[f"klprobe.{name}"] for name in LABELS if f"klprobe.{name}" in file.header}
            yield _File(
                {name: file.shape(name) for name in file.names},
                lambda name: _as_real(path, name, file.read(name)),
                lambda: header,
                lambda: {name: file.read(name).double().numpy() for name in OF_ROWS if name in file.names},
            )


def _npz(path: Path, archive: zipfile.ZipFile) -> _File:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    layouts = _those_of_use(members, lambda name: npy.layout_of(archive, members[name], f"{path.name}: tensor {name!r}"))

    def read(name: str) -> torch.Tensor:
        return _from_numpy(path, name, npy.read_member(archive, members[name], f"{path.name}: tensor {name!r}"))

    def labels() -> dict[str, str]:
        small = [name for name in LABELS if name in members and members[name].file_size <= LABEL_BYTES]
        return {name: str(npy.read_member(archive, members[name], f"{path.name}: {name!r}")) for name in small}

    def rows() -> Rows:
        there = [name for name in OF_ROWS if name in members]
        return {name: npy.read_member(archive, members[name], f"{path.name}: {name!r}") for name in there}

    if CODES in members and not known(members):
        codes = _codes(path, members, read)
        return _File({name: tuple(tensor.shape) for name, tensor in codes.items()}, codes.__getitem__, labels, rows)
    return _File(_shapes(layouts), read, labels, rows)


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


def _rows_in(path: Path) -> Rows:
    there = [name for name in OF_ROWS if (path / f"{name}.npy").exists()]
    return {name: npy.read_file(path / f"{name}.npy", f"{path.name}/{name}.npy") for name in there}


def _those_of_use(names: Iterable[str], look: Callable[[str], Looked]) -> dict[str, Looked]:
    """What is found of each array; one that cannot be read is left alone where its name says nothing of a posterior."""
    found: dict[str, Looked] = {}
    for name in names:
        try:
            found[name] = look(name)
        except InputError:
            if _says_role(name):
                raise
    return found


def _says_role(name: str) -> bool:
    return bool(known([name])) or (meaning(name).role is not None and meaning(name).owner != "other")


def _shapes(found: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of arrays of numbers, and of any whose name says a role, which are refused when they are read."""
    return {name: tuple(one.shape) for name, one in found.items() if one.dtype.kind in NUMBERS or _says_role(name)}


def _from_file(path: Path, name: str, file: Path, label: str) -> torch.Tensor:
    """The array of a `.npy`; rows of one that is large beside the memory are read when they are needed."""
    rows = rows_of(file, label, kinds="f")
    return _from_numpy(path, name, npy.read_file(file, label)) if rows is None else rows


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
