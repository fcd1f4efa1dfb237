"""A confined process for files that could run code, take all memory, or never end: it opens the file, and answers with arrays.

The process is a fresh Python. It may use a stated amount of memory, an answer may take a stated time, and where the system
allows it (Linux with Landlock) it can neither write a file nor start a program. What it answers is JSON and bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from klprobe.files.arguments import Batch, rows_of
from klprobe.files.messages import BrokenMessage, receive, send
from klprobe.types import CapabilityError, InputError

GB = 10**9
SLACK = 4
"""Longest time of an answer, relative to the time for each point of the first answer, where that exceeds the limit."""
START_SECONDS = 120.0
"""Longest time, in seconds, for a new Python process to import torch on a busy machine, before any file is opened."""
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|bad_alloc|bad allocation|[Ff]ailed to allocate|[Cc]annot allocate|MemoryError"
)
"""Words with which torch, onnxruntime and Python say that there is no more memory."""


@dataclass(frozen=True)
class Limits:
    """Limits of a file that is opened in a confined process.

    Attributes:
        memory: Largest memory in GB (10^9 bytes), beyond that of Python and torch; None is half of the machine's memory.
        seconds: Longest time, in seconds, for opening the file, or for one answer of its program.
    """

    memory: float | None = None
    seconds: float = 600.0

    @property
    def num_bytes(self) -> float:
        """The limit of memory in bytes."""
        return GB * self.memory if self.memory is not None else machine_bytes() / 2


def machine_bytes() -> float:
    """Number of bytes of memory of this machine; 16 GB where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 16.0 * GB


Process = subprocess.Popen[bytes]


class Child:
    """A function of klprobe that runs in a confined process: it opens a file, and may answer as often as it is asked.

    Args:
        function: A function at the top of one of klprobe's modules, from `settings` to an `Opened`.
        settings: Its keyword arguments; JSON values.
        label: Name of the file, for messages.
        limits: Memory and time that the process may use.
        device: Device that it computes on; on a GPU memory is not limited, because the driver maps all of it.
        seed: Seed of torch's generator in the process, set before the first answer.
        writable: The only folder that the process may write to; None if there is no such folder.
    Raises:
        InputError: the function refused the file, failed, crashed, or went beyond a limit; CapabilityError if it raised it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        settings: Mapping[str, Any],
        *,
        label: str,
        limits: Limits,
        device: str = "cpu",
        seed: int = 0,
        writable: Path | None = None,
    ) -> None:
        self.label, self.limits, self.pace = label, limits, 0.0
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = launch(theirs, "" if writable is None else str(writable), device != "cpu")
        self._end = weakref.finalize(self, _end, self.process, self.channel)
        with contextlib.suppress(OSError):  # it has ended; why is found out when its answer is read
            send(
                self.channel,
                {
                    "function": f"{function.__module__}:{function.__qualname__}",
                    "settings": dict(settings),
                    "memory": limits.num_bytes if device == "cpu" else None,
                    "threads": torch.get_num_threads(),
                    "seed": seed,
                    "writable": "" if writable is None else str(writable),
                },
            )
        try:
            self._answer(START_SECONDS)  # the message that it is ready to open the file
            opened, tensors = self._answer(limits.seconds)
        except RuntimeError as error:
            raise InputError(f"{label} cannot be opened ({error}): save or copy it again.") from error
        facts, names = opened.get("facts"), opened.get("names")
        if not isinstance(facts, dict) or not isinstance(names, list) or [*map(type, names)] != [str] * len(tensors):
            raise InputError(self._ended("a message that is not understood"))
        self.facts: dict[str, Any] = facts
        self.tensors: dict[str, torch.Tensor] = dict(zip(names, tensors, strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._end()

    def __call__(self, x: Batch) -> Any:
        """Run the opened program on points, shape (m, ...), or several inputs; it returns tensors in lists and dictionaries.

        Raises:
            InputError: the program crashed, or went beyond a limit.
            RuntimeError: the program failed; the message is its own.
        """
        begin = time.monotonic()
        with contextlib.suppress(OSError):  # it has ended; why is found out when its answer is read
            if isinstance(x, torch.Tensor):
                send(self.channel, {}, [x])
            else:
                send(self.channel, {"arguments": list(x)}, list(x.values()))
        answer, tensors = self._answer(max(self.limits.seconds, SLACK * self.pace * rows_of(x)))
        if self.pace == 0.0:
            self.pace = (time.monotonic() - begin) / max(1, rows_of(x))
        return _rebuilt(answer.get("returned"), tensors)

    def _answer(self, seconds: float) -> tuple[dict[str, Any], list[torch.Tensor]]:
        try:
            answer, tensors = receive(self.channel, self.limits.num_bytes, seconds)
        except TimeoutError:
            self.close()
            raise InputError(
                f"{self.label} was not done within {seconds:.4g} seconds, which is the limit for files that are run: if it is "
                "yours and needs longer, allow it by --file-seconds."
            ) from None
        except BrokenMessage as broken:
            raise InputError(self._ended(str(broken))) from None
        except MemoryError:
            self.close()
            raise InputError(self._too_large()) from None
        except BaseException:  # after Ctrl-C, an answer that was not read would be mistaken for the next one
            self.close()
            raise
        if "error" in answer:
            self._raise(str(answer["error"]), str(answer.get("kind")))
        return answer, tensors

    def _raise(self, said: str, kind: str) -> None:
        if kind in ("InputError", "CapabilityError"):
            raise {"InputError": InputError, "CapabilityError": CapabilityError}[kind](said)
        if OUT_OF_MEMORY.search(said):
            raise InputError(self._too_large())
        raise RuntimeError(said)

    def _too_large(self) -> str:
        return (
            f"{self.label} asks for more than {self.limits.num_bytes / GB:.3g} GB of memory, which is the limit for files that "
            "are run: if it is yours and needs more, allow it by --file-memory."
        )

    def _ended(self, broken: str) -> str:
        self.close()
        code = self.process.returncode
        if code is not None and code < 0:
            how = f"crashed by signal {-code} ({signal.strsignal(-code)})"
            if -code == signal.SIGKILL:
                how = "was killed, as systems do when memory runs out"
        else:
            how = f"ended without an answer ({broken})"
        return f"The confined process that opens {self.label} {how}: the file is damaged, or does what it should not."


def launch(theirs: socket.socket, writable: str, devices: bool) -> Process:
    """Start a fresh Python that gives up its rights and serves the socket; it finds modules where this one does."""
    path = json.dumps([entry or os.getcwd() for entry in sys.path])
    code = (
        f"import sys, json; sys.path[:] = json.loads({path!r}); "
        f"from klprobe.files.rights import give_up_rights; give_up_rights({writable!r}, devices={devices}); "
        "from klprobe.files.system_calls import refuse_system_calls; refuse_system_calls(); "
        f"from klprobe.files.confined import serve; serve({theirs.fileno()})"
    )
    return subprocess.Popen(
        [sys.executable, "-P", "-B", "-c", code],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # without a terminal of the user's that it could type into
    )


def _end(process: Process, channel: socket.socket) -> None:
    """End the process, if it has not ended yet."""
    channel.close()
    try:
        process.wait(timeout=0.2)  # it ends by itself when the connection is closed
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _rebuilt(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Rebuild the returned value from {"tensor": i}, {"list": [...]}, {"dict": [[key, value], ...]}; None for anything else."""
    try:
        if not isinstance(value, dict):
            return None
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "dict" in value:
            return {str(key): _rebuilt(inner, tensors) for key, inner in value["dict"]}
        return [_rebuilt(inner, tensors) for inner in value["list"]]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise InputError("The confined process gave an answer that is not understood.") from error
