"""A model folder of scvi-tools (extra `[scvi]`): `model.save(folder)`, which writes a pickle, and cells as .h5ad.

The pickle is read by torch's restricted unpickler, which makes tensors, numpy arrays and containers and calls nothing else.
What scvi-tools opens is a copy that was written anew from those, so nothing of the file itself is ever unpickled. The history
of the training is a dictionary of pandas' tables: an object that keeps nothing stands in for each, and the copy has none.
"""

from __future__ import annotations

import _codecs
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from klprobe.files.child import Child
from klprobe.files.confined import Opened
from klprobe.files.hdf5 import read_h5ad
from klprobe.files.weights import Closed, load_restricted
from klprobe.formats import Encoded, Request, refuse_flags, sha256
from klprobe.formats._tensors import posterior_of
from klprobe.types import CapabilityError, InputError

__all__ = ["Scvi"]

MODEL, CELLS = "model.pt", "adata.h5ad"
KNOWN = ("SCVI", "LinearSCVI", "AUTOZI", "PEAKVI")
"""Models whose latents have a diagonal Gaussian posterior and the prior N(0, I)."""
OTHERS = {
    "SCANVI": "whose prior of z depends on the cell's label, p(z|label)",
    "CondSCVI": "whose prior may be a mixture of its own",
}
BY_HAND = "mean, var = model.get_latent_representation(return_dist=True), then numpy.savez('posterior.npz', mean=mean, var=var)"
BEFORE_SOFTMAX = (
    'latent_distribution="ln": z is the softmax of what is taken here, the Gaussians that training held against N(0, I); after '
    "the softmax the KL is at most that of them"
)
NEEDED = ("model_state_dict", "var_names", "attr_dict")
LOOKED_AT = 1 << 24
GROWTH = 16
"""Largest ratio of arrays to file size: an entry of an array of objects takes 8 bytes, and 1 byte in a pickle."""
DTYPES = ("O", "U1", "S1", "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


def _empty_dict(*_: Any) -> dict[Any, Any]:
    """Replacement of defaultdict, which torch's restricted unpickler does not fill."""
    return {}


def _empty_bytes() -> bytes:
    """Replacement of bytes, which would allocate any size that the file names."""
    return b""


HARMLESS: list[Any] = [
    *(np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0], np.ndarray, np.dtype, _codecs.encode, dict),
    *(type(np.dtype(kind)) for kind in DTYPES),
    (_empty_dict, "collections.defaultdict"),
    (_empty_bytes, "builtins.bytes"),
]
"""Names that make numpy's arrays and numbers, beside tensors; none of them runs its arguments as code."""


@dataclass(frozen=True)
class Scvi:
    """A folder that a scvi-tools model saved, with adata.h5ad or --data cells.h5ad; pip install 'klprobe[scvi]'."""

    def matches(self, path: Path) -> bool:
        """Whether this is a folder whose model.pt, with any prefix, names what scvi-tools keeps in one."""
        return path.is_dir() and _model_file(path) is not None

    def load(self, path: Path, request: Request) -> Encoded:
        """Give scvi-tools a clean copy of the model, and ask it for mean and variance of the latents of every cell.

        Raises:
            CapabilityError: scvi-tools is not installed, or the model has another prior.
            InputError: the pickle asks for more than arrays, or the cells are missing or do not fit.
        """
        refuse_flags(
            request,
            ("encoder", "outputs", "inputs", "resize", "value_range", "gray", "flatten"),
            f"{path.name} says how it encodes",
        )
        if request.split != "all":
            raise InputError(
                f"--split {request.split} chooses among klprobe's data sets: give those cells as --data cells.h5ad."
            )
        held = _model_file(path)
        if held is None:
            raise InputError(
                f"{path.name} is not a model folder of scvi-tools, or holds several models: give a folder with one."
            )
        cells = Path(request.data) if request.data else path / (held.name.removesuffix(MODEL) + CELLS)
        if not cells.is_file():
            raise InputError(
                f"{path.name} finds no cells in {cells}: give --data cells.h5ad, or save the model with save_anndata=True."
                if request.data
                else f"{path.name} needs cells to encode: give --data cells.h5ad, or save the model with save_anndata=True."
            )
        settings = {"model": str(held.absolute()), "cells": str(cells.absolute()), "device": request.device}
        with (
            tempfile.TemporaryDirectory() as copy,
            Child(
                encode_cells,
                {**settings, "copy": copy},
                label=path.name,
                limits=request.limits,
                device=request.device,
                writable=Path(copy),
            ) as child,
        ):
            mean, name = child.tensors["mean"], str(child.facts.get("model"))[:40]
            before_softmax, genes = child.facts.get("latent_distribution") == "ln", str(child.facts.get("genes", ""))[:200]
        return Encoded(
            posterior_of(path.name, child.tensors),
            provenance={
                "format": "scvi",
                "file": path.name,
                "sha256": {held.name: sha256(held), cells.name: sha256(cells)},
                "model": name,
                "data": cells.name,
                "num_points": len(mean),
            },
            notes=(
                f"{name} of scvi-tools on {len(mean):,} cells of {cells.name}; the latents z alone, without the library size",
                *([BEFORE_SOFTMAX] if before_softmax else []),
                *([genes] if genes else []),
            ),
        )


def encode_cells(model: str, cells: str, device: str, copy: str) -> Opened:
    """Compute mean and variance of every cell by scvi-tools itself, in a confined process.

    Args:
        model: The model's file.
        cells: The file of cells.
        device: Where the network runs.
        copy: Folder for the copy of the model that scvi-tools opens.
    """
    label = Path(model).parent.name
    held = _restricted(Path(model))
    name = _kind(label, held)
    try:
        import scvi
    except ImportError as error:
        raise CapabilityError(f"{label} needs scvi-tools: pip install 'klprobe[scvi]'.") from error
    scvi.settings.verbosity = logging.ERROR
    torch.save(held, Path(copy) / MODEL)
    found, genes = _in_order(read_h5ad(Path(cells)), [str(gene) for gene in held["var_names"]], label, Path(cells).name)
    try:
        opened = getattr(scvi.model, name).load(copy, found, accelerator="gpu" if device == "cuda" else "cpu")
        mean, var = opened.get_latent_representation(return_dist=True)
    except MemoryError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{label} cannot encode {Path(cells).name} ({type(error).__name__}: {said[:300]}).") from error
    distribution = getattr(opened.module, "latent_distribution", None)
    facts = {"model": name, "latent_distribution": str(distribution), "genes": genes}
    return Opened(facts, {"mean": torch.as_tensor(mean), "var": torch.as_tensor(var)})


def _in_order(cells: Any, genes: list[str], label: str, file: str) -> tuple[Any, str]:
    """Put the cells' genes in the model's order, of which scvi-tools only warns, with a note where that moved them.

    Raises:
        InputError: genes that are missing, or there twice.
    """
    there = [str(gene) for gene in cells.var_names]
    if there == genes:
        return cells, ""
    place = {gene: i for i, gene in enumerate(there)}
    missing = [gene for gene in genes if gene not in place]
    if missing or len(place) < len(there):
        why = (
            f"lacks {len(missing):,} of the model's {len(genes):,} genes, the first of them {missing[0][:40]!r}"
            if missing
            else ("has genes of one name several times")
        )
        raise InputError(f"{label} cannot encode {file}, which {why}: give cells with the genes that the model was trained on.")
    note = f"{file}: the model's {len(genes):,} of its {len(there):,} genes, by name, put in the model's order"
    return cells[:, [place[gene] for gene in genes]].copy(), note


def _model_file(folder: Path) -> Path | None:
    """Find the folder's only model.pt, with any prefix, that names what scvi-tools keeps in one."""
    found = [file for file in folder.glob(f"*{MODEL}") if file.is_file() and _mentions(file, NEEDED)]
    return found[0] if len(found) == 1 else None


def _mentions(path: Path, words: tuple[str, ...]) -> bool:
    """Whether the first megabytes, where torch stores the pickle uncompressed, hold these words; nothing is unpickled."""
    with path.open("rb") as stream:
        head = stream.read(LOOKED_AT)
    return all(word.encode() in head for word in words)


def _restricted(path: Path) -> dict[str, Any]:
    """Read the file by the restricted unpickler, which makes tensors, arrays and containers alone."""
    try:
        held = load_restricted(path, HARMLESS, lambda name: name.startswith("pandas.") or name == "builtins.slice")
        if isinstance(held, dict) and isinstance(held.get("attr_dict"), dict):
            held["attr_dict"].pop("history_", None)
        size = _num_bytes(held)
        if _holds_closed(held):
            raise UnpicklingError("tables of pandas outside the history")
    except UnpicklingError as error:
        raise InputError(
            f"{path.parent.name}/{path.name} asks Python for more than arrays, which klprobe does not run. If it is yours: "
            f"{BY_HAND}."
        ) from error
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path.parent.name}/{path.name} is damaged ({said[:200]}): save or copy it again.") from error
    kinds = {"model_state_dict": dict, "attr_dict": dict, "var_names": np.ndarray}
    if not isinstance(held, dict) or any(not isinstance(held.get(name), kind) for name, kind in kinds.items()):
        raise InputError(f"{path.parent.name} is not a model folder of scvi-tools: {path.name} lacks {', '.join(NEEDED)}.")
    if size > GROWTH * path.stat().st_size:
        raise InputError(f"{path.parent.name}/{path.name} claims arrays of {size:,} bytes, far beyond its own: it is damaged.")
    _check_sizes(path.parent.name, held)
    return held


def _num_bytes(value: Any) -> int:
    """Number of bytes of all numpy arrays and tensors in the value."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return int(value.nbytes)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_num_bytes, inside))


def _holds_closed(value: Any) -> bool:
    """Whether a stand-in is left in the value, which is to be copied."""
    if isinstance(value, dict):
        return any(map(_holds_closed, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset) or (isinstance(value, np.ndarray) and value.dtype == object):
        return any(map(_holds_closed, np.ravel(value) if isinstance(value, np.ndarray) else value))
    return isinstance(value, Closed)


def _check_sizes(label: str, held: dict[str, Any]) -> None:
    """Raise InputError where the settings claim a network larger than the weights, before it takes any memory."""
    shapes = [value.shape for value in held["model_state_dict"].values() if isinstance(value, torch.Tensor)]
    largest = max((size for shape in shapes for size in shape), default=0)
    given = held["attr_dict"].get("init_params_", {})
    claimed = [n for values in (given.get("non_kwargs", {}), given) for n in values.values() if type(n) is int]
    if max(claimed, default=0) > max(largest, 100):
        raise InputError(
            f"{label} claims a size of {max(claimed):,}, but its weights have no side above {largest:,}: it is damaged."
        )


def _kind(label: str, held: dict[str, Any]) -> str:
    """Name of the model's class; CapabilityError or InputError where klprobe does not support it."""
    registry = held["attr_dict"].get("registry_")
    registry = registry if isinstance(registry, dict) else {}
    name, setup = registry.get("model_name"), registry.get("setup_method_name", "setup_anndata")
    if name not in KNOWN:
        raise CapabilityError(
            f"{label} is a {str(name)[:40]}{', ' * (name in OTHERS)}{OTHERS.get(str(name), '')}; of scvi-tools klprobe knows "
            f"{', '.join(KNOWN)}, whose prior is N(0, I). In Python: {BY_HAND}."
        )
    if setup != "setup_anndata":  # the name of a method that scvi-tools calls with arguments from the file
        raise InputError(
            f"{label} was set up by {str(setup)[:40]!r}, but klprobe follows setup_anndata alone. In Python: {BY_HAND}."
        )
    return str(name)
