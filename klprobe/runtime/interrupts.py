"""Signals that ask the process to stop: Ctrl-C, SIGTERM of a scheduler, SIGHUP of a terminal that closes; all are one thing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a process to stop, as this system has them."""


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, while the block runs.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored; one that somebody else handles stays theirs. Outside the
    main thread, which alone may set handlers, nothing changes.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():
        changed = [number for number in STOPS[1:] if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def held_back(*, insist: bool = True) -> Iterator[Callable[[], bool]]:
    """Hold the first signal back until the block is left, so that nothing is torn; then KeyboardInterrupt is raised.

    Yields a function that says whether a signal is held back. Signals that do not raise KeyboardInterrupt are left alone.

    Args:
        insist: Whether a second signal interrupts at once, as a user who presses Ctrl-C twice expects; for a block that lasts
            milliseconds it need not.
    """
    mine = []
    if threading.current_thread() is threading.main_thread():
        mine = [number for number in STOPS if signal.getsignal(number) is signal.default_int_handler]
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and insist:
            raise KeyboardInterrupt
        asked = True

    for number in mine:
        signal.signal(number, remember)
    try:
        yield lambda: asked
    finally:
        for number in mine:
            signal.signal(number, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
