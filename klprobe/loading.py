"""From a path to a posterior: the first checkpoint format that knows the file reads it; from a name or path to a data set."""

from __future__ import annotations

import difflib
import zipfile
from pathlib import Path

from klprobe import registry
from klprobe.datasets._shared import Dataset
from klprobe.encoders._archive import names_in
from klprobe.encoders._shared import Encoded, Request
from klprobe.types import InputError

PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib")
FROM_ARRAYS = "numpy.savez('posterior.npz', mean=mean, logvar=logvar), each of shape (N, D)"


def dataset(name: str) -> Dataset:
    """The data set of a name, as `mnist`, or of one's own folder of images, .npy or .npz; settings follow: `photos:resize=64`.

    Raises:
        InputError: nothing by that name, or a setting that it does not have.
    """
    first, colon, settings = name.partition(":")
    if first.replace("_", "-") not in registry.names("datasets"):
        if colon and Path(name).exists():
            raise InputError(f"{name} has a colon, which separates a data set's settings: rename it, or link to it.")
        if Path(first).exists():
            kind = "array-file" if Path(first).suffix.lower() in (".npy", ".npz") else "image-folder"
            return registry.create("datasets", f"{kind}:path={first}{colon}{settings}")
    return registry.create("datasets", name)


def load(path: str | Path, request: Request | None = None) -> Encoded:
    """The posterior that a file or folder holds, or that its encoder gives on a data set.

    Args:
        path: A file or folder in one of the formats that `klprobe list` names.
        request: Data, split and device, for a checkpoint that holds an encoder; its factory, for one that holds weights.

    Raises:
        InputError: no such file, or one that cannot be used; the message names file, tensor and remedy.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(_missing(path))
        if request is not None and request.encoder is not None:
            chosen: Encoded = registry.load("encoders", "state-dict")().load(path, request)
            return chosen
        for name in registry.names("encoders"):
            checkpoint = registry.load("encoders", name)()
            if checkpoint.matches(path):
                return checkpoint.load(path, request or Request())
        if request is not None and request.allow_pickle and path.is_file() and _is_pickle(path):
            trusted: Encoded = registry.load("encoders", "pickled-module")().load(path, request)
            return trusted
        raise InputError(_unknown(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _missing(path: Path) -> str:
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
    return f"{path} does not exist" + (
        f"; did you mean {path.parent / near[0]}?" if near else ": give the path of a checkpoint."
    )


def _unknown(path: Path) -> str:
    """Why no format took the file, and what to do."""
    if path.is_dir():
        return f"{path} is a folder without mean.npy or samples.npy. Save your encoder's output there, or give a file."
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes): save or copy it again."
    suffix = path.suffix.lower()
    if _is_cut(path):
        return f"{path} begins as a zip file and does not end as one, so it is truncated or damaged: save or copy it again."
    if suffix in PICKLED or _is_pickle(path):
        return (
            f"{path} is a pickle. If it holds weights alone, they are read as tensors, with --encoder package.module:factory "
            "for the network they belong to. A whole pickled module may run any code when it is opened: export it instead, "
            f"torch.jit.script(encoder).save('encoder.pt'), or save what the encoder returns, {FROM_ARRAYS}; if you trust it, "
            "--allow-pickle."
        )
    if suffix == ".npy":
        return f"{path} is a single array: put it as mean.npy beside logvar.npy into a folder, and give the folder."
    if suffix == ".npz":
        return f"{path} is no .npz file (a zip of arrays): it is damaged, or something else by that name. Write {FROM_ARRAYS}."
    if suffix == ".safetensors":
        return _unknown_safetensors(path)
    return (
        f"{path} is no checkpoint that klprobe knows: it reads .npz, .safetensors, .pt, .pt2, .onnx, .ckpt and the folders "
        f"that klprobe list names. Any encoder can write {FROM_ARRAYS}."
    )


def _unknown_safetensors(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names, kind = list(file.keys()), (file.metadata() or {}).get("klprobe.kind")
    except (SafetensorError, ValueError, RuntimeError) as error:
        return f"{path} is damaged or truncated ({str(error)[:200]}): save or copy it again."
    if kind == "flow":
        return f"{path} is a flow that --maf.save kept, a prior and no posterior: give it as --prior flow:{path}."
    if kind is not None:
        return f"{path} says klprobe.kind = {kind[:40]!r}, which this version does not know: update klprobe."
    listed = ", ".join(repr(name[:60]) for name in names[:4]) + (", ..." if len(names) > 4 else "")
    return (
        f"{path} holds the tensors {listed or 'none'}, no posterior: a network's weights alone do not say how to run it. "
        f"Run the encoder over your data and save what it returns: {FROM_ARRAYS}."
    )


def _is_cut(path: Path) -> bool:
    """A zip file without the directory at its end."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path)


def _is_pickle(path: Path) -> bool:
    """A pickle of protocol 2 or later, or torch's zip of one."""
    with path.open("rb") as stream:
        head = stream.read(2)
    if head == b"PK":
        return any(name.endswith(".pkl") for name in names_in(path))
    return head[:1] == b"\x80" and 2 <= head[-1] <= 5
