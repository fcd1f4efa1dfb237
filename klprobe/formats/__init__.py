"""Checkpoint formats, one in each file: here are their base class and the function that loads a posterior from a path."""

from __future__ import annotations

import difflib
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch.distributions import Distribution

from klprobe import registry
from klprobe.distributions.categorical import Classes
from klprobe.files import tensor_file
from klprobe.files.archive import names_in
from klprobe.files.child import Limits
from klprobe.files.plain import check_plain
from klprobe.printable import LONGEST, short
from klprobe.types import Check, InputError, Progress, no_progress

PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib")
NEED_TEXT = (".safetensors", ".onnx", ".pt2", ".pt", ".ts")
"""Suffixes of formats whose libraries open a file only when its name is valid text."""
LISTED = 100
"""Entries of a folder that are looked at for checkpoints inside."""
FROM_ARRAYS = "numpy.savez('posterior.npz', mean=mean, logvar=logvar), each of shape (N, D)"


@dataclass(frozen=True)
class Request:
    """A request of the user, beside the path.

    Attributes:
        data: Data to encode, as the user named them; None means the data set of klprobe that the checkpoint names.
        split: `train`, `test` or `all` (train, then test).
        data_root: Folder that holds the data sets' folders; None means KLPROBE_DATA, then ./data.
        device: Device that the encoder's network runs on; results come back to the CPU.
        progress: Function that is called with the number of encoded data points.
        encoder: `package.module:factory` of the network that a state dict belongs to; that code is imported and run.
        outputs: What the encoder returns, as `mean,logvar`, with `_` for each output to ignore; None means that klprobe finds
            out.
        inputs: Which array of the data each argument of the encoder gets, as `x=images,y=labels`; None gives it the data alone.
        resize: Height and width to which images are resized, bilinearly.
        value_range: Range to which bytes, or numbers in [0, 1], are mapped.
        scale: Number that becomes 1; None means 255 for bytes, 65535 for images of 16 bits, and 1 for all others.
        gray: Whether colour images become grey images of one channel.
        rgb: Whether grey images become colour images of three equal channels.
        flatten: Whether each data point becomes a vector.
        allow_pickle: Whether the file may run the code in it, because the user trusts it.
        limits: Memory and time that a file may use where it is opened or run in a confined process.
        of_rows: Whether groups and weights of the rows are read too.
    """

    data: str | None = None
    split: str = "all"
    data_root: Path | None = None
    device: str = "cpu"
    progress: Progress = no_progress
    encoder: str | None = None
    outputs: str | None = None
    resize: tuple[int, int] | None = None
    value_range: tuple[float, float] | None = None
    scale: float | None = None
    gray: bool = False
    rgb: bool = False
    flatten: bool = False
    allow_pickle: bool = False
    limits: Limits = field(default_factory=Limits)
    of_rows: bool = True
    inputs: str | None = None


FLAGS = {"encoder": "--encoder", "outputs": "--outputs", "inputs": "--inputs", "resize": "--resize", "value_range": "--range"}
FLAGS |= {"scale": "--scale", "gray": "--gray", "rgb": "--rgb", "flatten": "--flatten"}


def refuse_flags(request: Request, fields: tuple[str, ...], why: str) -> None:
    """Raise InputError when the user asked for something that a format cannot do, because no flag is ever ignored."""
    asked = [FLAGS[field] for field in fields if getattr(request, field)]
    if asked:
        raise InputError(f"{why}: do not give {', '.join(asked)}.")


@dataclass(frozen=True)
class Encoded:
    """The content of a checkpoint: the conditionals of a data set, and their provenance.

    Attributes:
        posterior: klprobe's own or any torch Distribution, batch shape (N,), event shape (D,).
        prior: Distribution of event shape (D,); None when the file has no prior, and N(0, I) is meant.
        split: Split of the posterior's points: `train`, `test`, `all` or `unknown`.
        trained_on: Split that the encoder was trained on, or `unknown`.
        provenance: Format, file name, SHA-256 of the file, data set, settings. Strict-JSON values only.
        notes: Sentences that say how data and outputs were understood, for the user to check.
        parts: Latents that are also reported by themselves: columns of the posterior, or categorical latents beside it.
        prior_name: The model's own prior in words, for the report's first lines; empty where it is N(0, I), or none is known.
        no_prior: Why the model's own prior, of which the file says something, cannot be used; else empty.
        checks: What must hold of what was encoded, such as that its range fits a convention.
    """

    posterior: Distribution
    prior: Distribution | None = None
    split: str = "unknown"
    trained_on: str = "unknown"
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: Mapping[str, slice | Classes] = field(default_factory=dict)
    prior_name: str = ""
    no_prior: str = ""
    checks: tuple[Check, ...] = ()


class Format(Protocol):
    """One checkpoint format: a frozen dataclass without fields, first in its file's `__all__`."""

    def matches(self, path: Path) -> bool:
        """Whether the file looks like this format, by its suffix and header alone; False for anything that cannot be read."""

    def load(self, path: Path, request: Request) -> Encoded:
        """Read the file, and encode the data set where the format holds an encoder.

        Raises:
            InputError: the file is damaged, or lacks something; the message names file, tensor and remedy.
        """


def sha256(path: Path) -> str:
    """SHA-256 of a file, as a hexadecimal string, which identifies the file that a number came from."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(path: str | Path, request: Request | None = None) -> Encoded:
    """Load the posterior that a file or folder holds, or that its encoder gives on a data set.

    Args:
        path: A file or folder in one of the formats that `klprobe list` names.
        request: What the user asked for: data, split and device for an encoder, and its factory for weights alone.

    Raises:
        InputError: no such file, or one that cannot be used; the message names file, tensor and remedy.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(_missing(path))
        if not path.is_dir():
            check_plain(path)
        if path.suffix.lower() in NEED_TEXT and not _is_text(str(path)):
            raise InputError(f"{path} has bytes in its name that are not text, and cannot be opened by that name: rename it.")
        if request is not None and request.encoder is not None:
            chosen: Encoded = registry.load("formats", "state-dict")().load(path, request)
            return chosen
        if found := _recognised(path):
            return found.load(path, request or Request())
        if request is not None and request.allow_pickle and path.is_file() and _is_pickle(path):
            trusted: Encoded = registry.load("formats", "pickled-module")().load(path, request)
            return trusted
        raise InputError(_unknown(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _recognised(path: Path) -> Format | None:
    """Find the format that recognises the file or folder; None when no format does.

    Raises:
        InputError: several formats know it, so that the user has to say which of them is meant.
    """
    every = {name: registry.load("formats", name)() for name in registry.names("formats")}
    found = {name: checkpoint for name, checkpoint in every.items() if checkpoint.matches(path)}
    if len(found) > 1:
        raise InputError(
            f"{path} can be read as {' and as '.join(found)}, and klprobe does not choose: move the files of all but one "
            "of them to another folder."
        )
    return next(iter(found.values()), None)


def _is_text(name: str) -> bool:
    """Whether the name has no bytes that cannot be decoded."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _missing(path: Path) -> str:
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() and len(path.name) <= LONGEST else []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
    return f"{path} does not exist" + (
        f"; did you mean {path.parent / near[0]}?" if near else ": give the path of a checkpoint."
    )


def _unknown(path: Path) -> str:
    """Say why no format recognises the file, and what to do."""
    if path.is_dir():
        return _unknown_folder(path)
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
        return (
            f"{path} is no array of shape (N, D), which would be samples: put mean.npy beside logvar.npy into a folder, and "
            "give the folder."
        )
    if suffix == ".npz":
        return f"{path} is no .npz file (a zip of arrays): it is damaged, or something else by that name. Write {FROM_ARRAYS}."
    if suffix == ".safetensors":
        return _unknown_safetensors(path)
    return (
        f"{path} is no checkpoint that klprobe knows: it reads .npz, .safetensors, .pt, .pt2, .onnx, .ckpt and the folders "
        f"that klprobe list names. Any encoder can write {FROM_ARRAYS}."
    )


def _unknown_folder(path: Path) -> str:
    """Name the folder inside that a format knows, as the `final_model` of a training, if there is one."""
    inside = [str(folder) for folder in sorted(path.iterdir())[:LISTED] if folder.is_dir() and _recognised(folder)]
    if inside:
        return f"{path} is no checkpoint, but holds some: give --checkpoint {' or '.join(inside[:3])}."
    return f"{path} is a folder without mean.npy or samples.npy. Save your encoder's output there, or give a file."


def _unknown_safetensors(path: Path) -> str:
    with tensor_file.opened(path) as file:
        names, kind = file.names, file.kind
    if kind == "flow":
        return f"{path} is a flow that --maf.save kept, a prior and no posterior: give it as --prior flow:{path}."
    if kind is not None:
        return f"{path} says klprobe.kind = {short(kind)}, which this version does not know: update klprobe."
    listed = ", ".join(map(short, names[:4])) + (", ..." if len(names) > 4 else "")
    return (
        f"{path} holds the tensors {listed or 'none'}, no posterior: a network's weights alone do not say how to run it. "
        f"Run the encoder over your data and save what it returns: {FROM_ARRAYS}."
    )


def _is_cut(path: Path) -> bool:
    """Whether this is a zip file that lacks the directory at its end."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path)


def _is_pickle(path: Path) -> bool:
    """Whether this is a pickle of protocol 2 or later, or a zip file of torch that holds one."""
    with path.open("rb") as stream:
        head = stream.read(2)
    if head == b"PK":
        return any(name.endswith(".pkl") for name in names_in(path))
    return head[:1] == b"\x80" and 2 <= head[-1] <= 5
