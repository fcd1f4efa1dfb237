"""Progress bars on stderr, while it is a terminal, with the time left and the current value."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from klprobe.printable import visible
from klprobe.types import Progress, no_progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import Task

NOTE_WIDTH = 48


@contextlib.contextmanager
def bars(title: str, count: int) -> Iterator[Callable[[str], Progress]]:
    """Yield a function from a method's name to the function that receives the method's progress.

    Args:
        title: Title of the bar for all methods, which is there from the start.
        count: Number of methods.
    """
    if not sys.stderr.isatty():
        yield lambda _: no_progress
        return
    with _display() as display:
        overall = display.add_task(visible(title), total=count, note="")

        def begin(name: str) -> Progress:
            before = len(display.tasks) - 1
            if before:
                _finish(display, display.tasks[-1])
            display.update(overall, completed=before, total=max(count, before + 1))
            one = _receiver(display, name)

            def receive(done: float, total: float, note: str = "") -> None:
                one(done, total, note)
                display.update(overall, completed=before + (min(done / total, 1) if total else 0))

            return receive

        yield begin


@contextlib.contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Yield the function that receives one job's progress; before its first call the bar moves left and right."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    with _display() as display:
        yield _receiver(display, title)


def _receiver(display: Display, name: str) -> Progress:
    task = display.add_task(visible(name), total=None, note="")

    def receive(done: float, total: float, note: str = "") -> None:
        display.update(task, completed=done, total=total, note=visible(note[:NOTE_WIDTH]))

    return receive


def _finish(display: Display, task: Task) -> None:
    """Stop the clock of a task that is over, and fill its bar if it never received progress."""
    if task.total is None:
        display.update(task.id, total=1, completed=1)
    display.stop_task(task.id)


def _display() -> Display:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
