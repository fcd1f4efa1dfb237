"""One run of the program in a forked child, with limits from outside, and what became of it.

`launch` is the one place where a child is set up. The caller has imported everything heavy, and has one thread.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SECONDS = 10.0
"""Wall time that a run may take."""
MEMORY = 1 << 30
"""Bytes by which a run's memory may grow over the memory that it is born with."""
BACKSTOP = 3 << 30
"""Bytes of data beyond which the kernel refuses more, so that the machine stays usable whatever a run does."""
OUT, ERR = ".stdout", ".stderr"
CONFINED_COMMANDS = ("estimate", "holes", "evaluate")
CONFINED_LIMITS = ("--file-memory", "0.8", "--file-seconds", "6")
"""What a program in a file may take, so that it is refused before the run as a whole is late or large."""


class Outcome(NamedTuple):
    """What became of a run: its exit status (negative: the signal that ended it), what it said, what it took."""

    status: int
    out: str
    err: str
    seconds: float
    grown: int
    late: bool


def launch(arguments: Sequence[str], folder: Path) -> Outcome:
    """Run `klprobe ARGUMENTS` in the folder, in a child process that ends before this returns."""
    baseline = resident()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_the_program(arguments, folder)
    late = False
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - started > SECONDS and not late:
            late = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # its own children too
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    seconds = time.monotonic() - started
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # whatever it left behind
    said = [
        (folder / name).read_bytes()[: 1 << 22].decode(errors="replace") if (folder / name).exists() else ""
        for name in (OUT, ERR)
    ]
    return Outcome(os.waitstatus_to_exitcode(status), *said, seconds, used.ru_maxrss * 1024 - baseline, late)


def resident() -> int:
    """Bytes of memory that this process has now, which a child is born with."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _be_the_program(arguments: Sequence[str], folder: Path) -> None:
    """What a child does: be `klprobe` in that folder, and end."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for descriptor, name in ((1, OUT), (2, ERR)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        faulthandler.enable(sys.stderr)
        _limit()
        os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "KLPROBE_DATA": str(folder / "data")}
        sys.path.insert(0, str(folder))  # as `python -m klprobe` has it
        from klprobe.cli import main
        from klprobe.files import child

        child.launch = _fork_confined  # type: ignore[assignment]
        code = main([*arguments, *(CONFINED_LIMITS if arguments[0] in CONFINED_COMMANDS else ())])
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class _Forked:
    """A process as `subprocess.Popen` shows it."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def wait(self, timeout: float | None = None) -> int:
        started = time.monotonic()
        while self.returncode is None:
            ended, status = os.waitpid(self.pid, 0 if timeout is None else os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif timeout is not None and time.monotonic() - started > timeout:
                raise subprocess.TimeoutExpired("confined", timeout)
            else:
                time.sleep(0.001)
        return self.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _fork_confined(theirs: socket.socket, writable: str, devices: bool) -> _Forked:
    """The confined process by a fork, which costs a hundredth of a fresh Python.

    It keeps its rights, so that a marker appears if code of the file is run: Landlock would hide that.
    """
    pid = os.fork()
    if pid:
        return _Forked(pid)
    from klprobe.files.confined import serve

    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # as the real one has it: torch prints what goes wrong in it
        os.dup2(nowhere, descriptor)
    try:
        serve(theirs.fileno())
    finally:
        os._exit(0)


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + BACKSTOP, used + BACKSTOP))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def settle() -> None:
    """Before many children: nothing of this process is looked at again by their garbage collectors."""
    gc.collect()
    gc.freeze()
