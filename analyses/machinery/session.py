"""What long work asks while it goes on: whether it is to end at its next checkpoint. Without a runner it never is."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


class Stopped(BaseException):
    """Long work has ended at a checkpoint, or was cut off between two; run again, it goes on from the last one.

    As little of an error as KeyboardInterrupt, so that no cell is recorded as failed for it.
    """


class Taken(BaseException):
    """Another process trains what this work needs."""


@dataclass
class Session:
    """A stretch of work that may be told to end.

    Attributes:
        tell: Told what goes on, as a key, with the steps done and the steps in all.
        waits: Whether work that another process does is waited for; otherwise it raises `Taken`.
        asked: Whether it was told to end.
        resumable: Whether the work at hand looks at `asked` itself and leaves a checkpoint; other work is cut off.
    """

    tell: Callable[[str, int, int], None] = lambda what, done, steps: None
    waits: bool = True
    asked: bool = False
    resumable: bool = field(default=False, init=False)

    def end(self) -> None:
        """Tell it to end: resumable work at its next checkpoint, any other at once, by raising `Stopped` where it is."""
        self.asked = True
        if not self.resumable:
            raise Stopped

    @contextlib.contextmanager
    def until_checkpoint(self) -> Iterator[None]:
        """Work that is not cut off: it ends itself, or is short. Raises `Stopped` after it, where the session was to end."""
        before, self.resumable = self.resumable, True
        try:
            yield
        finally:
            self.resumable = before
        if self.asked and not before:
            raise Stopped


CURRENT: contextvars.ContextVar[Session] = contextvars.ContextVar("session")


def current() -> Session:
    """The session that work goes on in; one that is never told to end where nobody has begun one."""
    return CURRENT.get(None) or Session()


@contextlib.contextmanager
def within(session: Session) -> Iterator[Session]:
    """Work in this block asks this session."""
    token = CURRENT.set(session)
    try:
        yield session
    finally:
        CURRENT.reset(token)
