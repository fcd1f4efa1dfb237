"""Progress bars on stderr, while it is a terminal: one over everything from the start, one per method."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from klprobe.types import Progress, no_progress

NOTE_WIDTH = 40


@contextlib.contextmanager
def bars(title: str, count: int) -> Iterator[Callable[[str], Progress]]:
    """Yield what `klprobe.estimate` calls with a method's name: the receiver of that method's progress.

    Args:
        title: What the bar over everything is called.
        count: How many methods there will be.
    """
    if not sys.stderr.isatty():
        yield lambda _: no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        overall = display.add_task(title, total=count, note="")
        started = 0

        def begin(name: str) -> Progress:
            nonlocal started
            before, started = started, started + 1
            display.update(overall, completed=before, total=max(count, started))
            task = display.add_task(name, total=1, note="")

            def receive(done: float, total: float, note: str = "") -> None:
                display.update(task, completed=done, total=total, note=note[:NOTE_WIDTH])
                display.update(overall, completed=before + (min(done / total, 1) if total else 0))

            return receive

        yield begin


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner with the time gone by, for work that cannot say how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
