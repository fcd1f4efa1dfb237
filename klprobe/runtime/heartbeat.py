"""Signs of life between processes: one that was killed or stopped is noticed in seconds, however long the others compute.

A limit on the time of an exchange cannot do that: a process that computes for ten minutes is alive, and one that has stopped is
not, though both are silent. So every process raises a counter in the store that they all share, in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT = 1.0
"""Seconds between two signs of life."""
LIMIT = 15.0
"""Seconds without one after which a process counts as lost."""


_lost: list[ProcessLost] = []
"""What this process was told of others that it lost."""


class ProcessLost(KeyboardInterrupt):
    """Another process has ended or stopped; the run ends here as it does at Ctrl-C, and what is done is kept."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        _lost.append(self)


def any_lost() -> bool:
    """Whether another process was lost: then an exchange with it may hang for ever, the farewell included."""
    return bool(_lost)


class Heartbeat:
    """This process's signs of life, and its view of the others'.

    Args:
        store: Shared by all processes; each needs a connection of its own.
        rank, size: This process's number, from 0, and how many there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank = store, rank
        now = time.monotonic()
        self.seen = {other: (0, now) for other in range(size) if other != rank}
        self.round = now
        self.ended = threading.Event()
        store.add(_key(rank), 1)
        self.thread = threading.Thread(target=self._beat, name="klprobe heartbeat", daemon=True)
        self.thread.start()

    def lost(self) -> str | None:
        """What is wrong, in words; None while every process lives."""
        now = time.monotonic()
        if now - self.round > LIMIT + BEAT:
            return f"the processes' meeting point has not answered for {now - self.round:.0f} s"
        for other, (_, last) in self.seen.items():
            if now - last > LIMIT:
                return f"process {other} has shown no sign of life for {now - last:.0f} s"
        return None

    def stop(self) -> None:
        """End the signs of life, once this process has no exchange with the others left."""
        self.ended.set()
        self.thread.join(timeout=2 * BEAT)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            try:
                self.store.add(_key(self.rank), 1)
                for other, (count, _) in self.seen.items():
                    beats = self.store.add(_key(other), 0)
                    if beats != count:
                        self.seen[other] = beats, time.monotonic()
            except RuntimeError:  # the store has gone: `lost` tells, for `round` grows old
                return
            self.round = time.monotonic()


def _key(rank: int) -> str:
    return f"klprobe/heartbeat/{rank}"
