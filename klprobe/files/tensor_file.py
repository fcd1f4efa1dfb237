"""Files of safetensors, a format without code, which holds tensors by name and a few words of text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from klprobe.files.plain import check_plain
from klprobe.printable import short
from klprobe.types import InputError

UNREADABLE = (SafetensorError, ValueError, RuntimeError, AttributeError, TypeError)
"""Errors of safetensors for a damaged file, and for number types that this torch lacks."""

KIND = "checkpoint"
VERSION = "1"
"""Version of what klprobe writes into such a file: raised when older versions could no longer read it. Files without one are of
version 1."""


@dataclass(frozen=True)
class TensorFile:
    """An open file.

    Attributes:
        header: Texts of the header by name.
        names: Names of the tensors.
        read: Function from a name to the tensor, on the CPU.
        shape: Function from a name to the tensor's shape, which does not read it.
    """

    header: dict[str, str]
    names: tuple[str, ...]
    read: Callable[[str], torch.Tensor]
    shape: Callable[[str], tuple[int, ...]]

    @property
    def kind(self) -> str | None:
        """Kind that klprobe wrote, such as `checkpoint` or `flow`; None where the file does not say it."""
        return self.header.get("klprobe.kind")

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read all tensors by name."""
        return {name: self.read(name) for name in self.names}


@contextmanager
def opened(path: Path, label: str = "") -> Iterator[TensorFile]:
    """Open the file for reading in this block.

    Args:
        path: A `.safetensors` file.
        label: Name of the file in messages; the path where it is empty.
    Raises:
        InputError: the file is missing, damaged or cut short, found on opening or in the block.
    """
    check_plain(path, label)
    try:
        with safe_open(path, framework="pt") as file:
            header, names = dict(file.metadata() or {}), tuple(file.keys())
            _check_version(header, label or str(path))
            yield TensorFile(header, names, file.get_tensor, lambda name: tuple(file.get_slice(name).get_shape()))
    except (InputError, FileNotFoundError):
        raise
    except (OSError, *UNREADABLE) as error:
        said = str(error)[:200]
        raise InputError(
            f"{label or path} is damaged, cut short, or not a safetensors file ({said}): save or copy it again."
        ) from error


def _check_version(header: Mapping[str, str], label: str) -> None:
    """Raise InputError where klprobe wrote the file in a version that this one does not know."""
    version = header.get("klprobe.version", VERSION)
    if "klprobe.kind" in header and version != VERSION:
        raise InputError(
            f"{label} says klprobe.version = {short(version)}, and this klprobe reads version {VERSION}: update klprobe."
        )


def kind_of(path: Path) -> str | None:
    """Kind of the file by its header; None where the header does not say it, or cannot be read."""
    try:
        with opened(path) as file:
            return file.kind
    except (InputError, OSError):
        return None


def write(path: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], *, kind: str = KIND) -> None:
    """Write a checkpoint under another name, then rename it, so that a full disk or a crash leaves the old file whole.

    Another `kind` of file with tensors and settings is written in the same way.

    Raises:
        InputError: the file cannot be written.
    """
    draft = path.with_name(path.name + ".draft")
    metadata = {"klprobe.kind": kind, "klprobe.version": VERSION, "klprobe.settings": json.dumps(settings, allow_nan=False)}
    try:
        # not save_file, which makes the file readable for its owner alone whatever the umask
        draft.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata))
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        kept = f"the checkpoint written before stays as it is: {path}" if path.exists() else "there is no earlier one"
        raise InputError(f"The checkpoint {path} cannot be written ({error}); {kept}.") from error
