"""The plan in words: what is done, what is left, and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence

from analyses.machinery import models
from analyses.machinery.findings import in_words
from analyses.machinery.kept import is_free
from analyses.machinery.notes import seconds_after_training, seconds_of_training
from analyses.machinery.operations import seconds
from analyses.machinery.plan import Job, Part, jobs_of, records_of, trainings_of
from analyses.machinery.worker import title

SHOWN = 12
"""Cells of a part that are shown one by one."""


def listing(parts: Sequence[Part], workers: int) -> str:
    """Every part with its question and its cells, those first that come next."""
    jobs, lines = jobs_of(list(parts)), []
    for place, part in enumerate(parts, 1):
        mine = [job for job in jobs if job.part is part]
        said = f"{_counted(part.module, mine)}{_left(mine, jobs, workers)}{_guessed(part, workers)}"
        lines.append(f"{place}. {part.question}\n   {said}")
        shown = [job for job in mine if not _succeeded(job)][:SHOWN]
        lines += [f"   - {title(job)}: {state(job, jobs)}" for job in shown]
        hidden = sum(not _succeeded(job) for job in mine) - len(shown)
        lines += [f"   - and {hidden} more"] if hidden else []
    return "\n".join([*lines, _whole(jobs, workers)])


def summary(parts: Sequence[Part], workers: int, since: float, *, stopped: bool) -> str:
    """What is done and left after a stretch of time, and the commands that draw what is new."""
    jobs = jobs_of(list(parts))
    lines = [
        "The plan is done." if all(map(records_of, jobs)) else "The time is over: run it again to go on from the checkpoints."
    ]
    lines = ["Stopped: run it again to go on from the checkpoints."] if stopped else lines
    for part in parts:
        mine = [job for job in jobs if job.part is part]
        if mine:
            lines.append(f"- {_counted(part.module, mine)}{_left(mine, jobs, workers)}")
    lines.append(_whole(jobs, workers))
    new = [part.module for part in parts if part.records.exists() and part.records.stat().st_mtime >= since]
    lines += [f"Draw: python -m analyses.{module}" for module in dict.fromkeys(new)]
    return "\n".join(lines)


def state(job: Job, jobs: list[Job]) -> str:
    """How far one cell is."""
    records = records_of(job)
    if records and records[-1]["failed"]:
        return f"failed, {records[-1]['failed']}"
    if records:
        return "done"
    said = [f"step {training.done:,} of {training.steps:,}" for training in trainings_of(job)]
    if not is_free(job.lock):
        said.append("being worked on")
    return ", ".join([*said, expected(job, jobs)])


def expected(job: Job, jobs: list[Job]) -> str:
    """How long one cell still takes, as far as it was measured."""
    training, after = seconds_of_training(job), seconds_after_training(job, jobs)
    known = (training or 0.0) + (after or 0.0)
    missing = [name for name, value in (("training", training), ("looking at it", after)) if value is None]
    if len(missing) == 2 or (missing and not known):
        return "time not measured yet"
    return f"{in_words(known)} left" + (f", without {missing[0]}, which was not measured yet" if missing else "")


def _counted(name: str, jobs: list[Job]) -> str:
    done, failed = sum(_succeeded(job) for job in jobs), sum(_failed(job) for job in jobs)
    return f"{name}: {done} of {len(jobs)} cells done" + (f", {failed} failed" if failed else "")


def _left(mine: list[Job], jobs: list[Job], workers: int) -> str:
    """Time of what is left of some cells, each training counted once."""
    open_ones = [job for job in mine if not records_of(job)]
    if not open_ones:
        return ""
    total, unknown = _seconds(open_ones, jobs)
    said = f"; {in_words(total / workers)} left with {workers} at once" if total else ""
    rest = f"{unknown} of which {'not all is' if said else 'nothing is'} measured yet" if unknown else ""
    return f"{said}, without that of {rest}" if said and rest else f"{said}; {rest}" if rest else said


def _guessed(part: Part, workers: int) -> str:
    """What a part's item takes at the paper's size by its operations, where it is at that size and not done."""
    at_paper_size = all(cell.get("preset") == "paper" for cell in part.cells)
    if not at_paper_size or all(records_of(Job(part, cell)) for cell in part.cells):
        return ""
    guess = seconds(part.item, models.DEVICE.partition(":")[0])
    return f"; by its operations the whole item takes ≈ {in_words(guess / workers)}" if guess else ""


def _whole(jobs: list[Job], workers: int) -> str:
    done = sum(bool(records_of(job)) for job in jobs)
    return f"In all {done} of {len(jobs)} cells have a record{_left(jobs, jobs, workers)}."


def _seconds(open_ones: list[Job], jobs: list[Job]) -> tuple[float, int]:
    """Of cells that share a training each has what it adds; and how many cells' time is not known."""
    total, unknown, reached = 0.0, 0, {}
    for job in open_ones:
        after, training = seconds_after_training(job, jobs), seconds_of_training(job)
        steps = sum(t.steps - t.done for t in trainings_of(job))
        new = sum(max(0, t.steps - max(t.done, reached.get(t.name, 0))) for t in trainings_of(job))
        reached |= {t.name: max(t.steps, reached.get(t.name, 0)) for t in trainings_of(job)}
        unknown += training is None or after is None
        total += (after or 0.0) + ((training or 0.0) * new / steps if steps else 0.0)
    return total, unknown


def _succeeded(job: Job) -> bool:
    return any(not record["failed"] for record in records_of(job))


def _failed(job: Job) -> bool:
    return bool(records_of(job)) and not _succeeded(job)
