"""The confined process itself: it opens one file, and answers.

Order matters. It has given up its rights (`klprobe.files.rights`) before this module and torch are imported; the limit of
memory is set when the libraries are there, so that it counts what the file takes; only then is the file opened.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from klprobe.files.messages import BrokenMessage, receive, send
from klprobe.types import InputError

MOST_WRITTEN = 1 << 32
"""Largest number of bytes that a process with a writable folder may write into one file."""


@dataclass(frozen=True)
class Opened:
    """The result of a function that opens a file in a confined process.

    Attributes:
        facts: Facts about the file, as JSON values.
        tensors: Tensors by name.
        run: Function from points, shape (m, ...), on the CPU, or from several tensors by argument, to tensors in tuples, lists
            and dictionaries; None where there is nothing to run.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    run: Callable[[Any], Any] | None = None


def serve(descriptor: int) -> None:
    """Open the file that the first message names, then answer messages until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side handles Ctrl-C
    with socket.socket(fileno=descriptor) as channel, contextlib.suppress(BrokenMessage, BrokenPipeError, ConnectionError):
        asked, _ = receive(channel, 0)
        try:
            _name_folders(asked["writable"] or sys.prefix)
            module, _, name = asked["function"].partition(":")
            function = getattr(importlib.import_module(module), name)  # a module of klprobe's own, which the other side named
            torch.set_num_threads(asked["threads"])
            _limit(asked["memory"], writes=bool(asked["writable"]))
            send(channel, {"ready": True})
            opened: Opened = function(**asked["settings"])
            send(channel, {"facts": dict(opened.facts), "names": list(opened.tensors)}, list(opened.tensors.values()))
        except Exception as error:
            send(channel, _said(error))
            return
        torch.manual_seed(asked["seed"])
        while opened.run is not None:
            asked, given = receive(channel, float("inf"))
            names = asked.get("arguments")
            x = given[0] if names is None else dict(zip(names, given, strict=True))
            try:
                with torch.no_grad():
                    tensors: list[torch.Tensor] = []
                    returned = _flat(opened.run(x), tensors)
                send(channel, {"returned": returned}, tensors)
            except Exception as error:
                send(channel, _said(error))


def _name_folders(folder: str) -> None:
    """Set a folder for libraries that need a writable one as soon as they are imported, whether they write or not."""
    tempfile.tempdir = folder
    os.environ |= dict.fromkeys(("TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"), folder)


def _said(error: Exception) -> dict[str, str]:
    """Turn the error into a message; of torch's long messages, take the last line, which says what failed."""
    if isinstance(error, InputError):
        return {"error": str(error), "kind": type(error).__name__}
    lines = str(error).strip().splitlines() or [""]
    told = next((line for line in lines if "alloc" in line or "memory" in line), lines[-1])
    kind = f"{type(error).__name__}: " if isinstance(error, MemoryError) or not told else ""
    return {"error": f"{kind}{told}"[:300], "kind": "Exception"}


def _flat(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Describe the structure of a program's answer as JSON, and append its tensors to the list."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = dict(zip(value._fields, value, strict=True))
    if isinstance(value, Mapping):
        return {"dict": [[str(key), _flat(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, tuple | list):
        return {"list": [_flat(inner, tensors) for inner in value]}
    return None


def _limit(num_bytes: float | None, *, writes: bool) -> None:
    """Limit the memory and file sizes of the process from here on; where a system lacks one limit, the others hold."""
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, MOST_WRITTEN if writes else 0)
    if num_bytes is not None and sys.platform == "linux":
        _bound(resource.RLIMIT_DATA, _data_bytes() + int(num_bytes))


def _bound(kind: int, most: int) -> None:
    """Set a limit, but never above the limit that the process was started with."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _data_bytes() -> int:
    """Number of bytes that the process already uses for data."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
