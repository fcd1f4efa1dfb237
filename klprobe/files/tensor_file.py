"""safetensors: tensors by name, and a few words of text; a format that holds no code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from klprobe.types import InputError

UNREADABLE = (SafetensorError, ValueError, RuntimeError, AttributeError, TypeError)
"""What safetensors raises of a damaged file, and of numbers of a kind that this torch lacks."""


@dataclass(frozen=True)
class TensorFile:
    """An open file.

    Attributes:
        header: Its text by name.
        names: Of its tensors.
        read: From a name to the tensor, on the CPU.
    """

    header: dict[str, str]
    names: tuple[str, ...]
    read: Callable[[str], torch.Tensor]

    @property
    def kind(self) -> str | None:
        """What klprobe wrote the file as, such as `checkpoint` or `flow`; None where the file says nothing."""
        return self.header.get("klprobe.kind")

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {name: self.read(name) for name in self.names}


@contextmanager
def opened(path: Path, label: str = "") -> Iterator[TensorFile]:
    """The file, for reading in this block.

    Args:
        path: A `.safetensors` file.
        label: What errors call it; the path where it is empty.
    Raises:
        InputError: damaged, cut short, or no such file, found on opening or in the block.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield TensorFile(dict(file.metadata() or {}), tuple(file.keys()), file.get_tensor)
    except (InputError, FileNotFoundError):
        raise
    except (OSError, *UNREADABLE) as error:
        said = str(error)[:200]
        raise InputError(
            f"{label or path} is damaged, cut short, or no safetensors file ({said}): save or copy it again."
        ) from error


def kind_of(path: Path) -> str | None:
    """What the header calls the file; None where it says nothing, or is none that can be read."""
    try:
        with opened(path) as file:
            return file.kind
    except (InputError, OSError):
        return None
