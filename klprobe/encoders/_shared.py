"""What every checkpoint format agrees on: what the user asked for, and what a file gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch.distributions import Distribution

from klprobe.categorical import Classes
from klprobe.files.child import Limits
from klprobe.types import InputError, Progress, no_progress


@dataclass(frozen=True)
class Request:
    """What the user asked for beside the path.

    Attributes:
        data: What the user wants encoded, in her own words; None means the set of klprobe's that the checkpoint remembers.
        split: `train`, `test` or `all` (train, then test).
        data_root: Folder that holds the data sets' folders; None means KLPROBE_DATA, then ./data.
        device: Device that the encoder's network runs on; results come back to the CPU.
        progress: Told how many data points are encoded.
        encoder: `package.module:factory` of the network that a state dict belongs to; imports and runs that code.
        outputs: What the encoder returns, as `mean,logvar`, `_` for what is to be ignored; None means look and find out.
        resize: (H, W) that images are resized to, bilinear.
        value_range: Range that bytes, or numbers in [0, 1], are mapped to.
        gray: Whether colours become one grey channel.
        flatten: Whether a point becomes a vector.
        allow_pickle: Whether the file may run the code in it: the user trusts it.
        limits: Memory and time that a file may use where it is opened or run in a confined process.
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
    gray: bool = False
    flatten: bool = False
    allow_pickle: bool = False
    limits: Limits = field(default_factory=Limits)


FLAGS = {"encoder": "--encoder", "outputs": "--outputs", "resize": "--resize", "value_range": "--range"}
FLAGS |= {"gray": "--gray", "flatten": "--flatten"}


def refuse_flags(request: Request, fields: tuple[str, ...], why: str) -> None:
    """Raise InputError when the user asked for what a format cannot do; nothing asked for is ever ignored."""
    asked = [FLAGS[field] for field in fields if getattr(request, field)]
    if asked:
        raise InputError(f"{why}: leave {', '.join(asked)} away.")


@dataclass(frozen=True)
class Encoded:
    """What a checkpoint gives: the conditionals of a data set, and where they come from.

    Attributes:
        posterior: klprobe's own or any torch Distribution, batch shape (N,), event shape (D,).
        prior: Event shape (D,); None when the file says nothing, and N(0, I) is meant.
        split: Which points the posterior is of: `train`, `test`, `all` or `unknown`.
        trained_on: Split that the encoder was trained on, or `unknown`.
        provenance: Format, file name, SHA-256 of the file, data set, settings. Strict-JSON values only.
        notes: How data and outputs were understood, one sentence each, for the user to check.
        parts: Latents that are also reported by themselves: columns of the posterior, or categorical latents beside it.
    """

    posterior: Distribution
    prior: Distribution | None = None
    split: str = "unknown"
    trained_on: str = "unknown"
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: Mapping[str, slice | Classes] = field(default_factory=dict)


class Format(Protocol):
    """One checkpoint format: a frozen dataclass without fields, first in its file's `__all__`."""

    def matches(self, path: Path) -> bool:
        """Whether the file looks like this format: suffix and header only, cheap, False on garbage."""

    def load(self, path: Path, request: Request) -> Encoded:
        """Read the file, and encode the data set where the format holds an encoder.

        Raises:
            InputError: the file is damaged, or lacks something; the message names file, tensor and remedy.
        """


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal: which file a number came from."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
