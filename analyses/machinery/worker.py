"""One worker of the runner: takes the first cell that is free, again and again, until the plan is done or the time is over."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from analyses.machinery import models
from analyses.machinery.cells import Preset, label, record_of
from analyses.machinery.findings import in_words
from analyses.machinery.kept import is_free, lock
from analyses.machinery.notes import note_speed, read_note, seconds_after_training, write_note
from analyses.machinery.operations import seconds_in_one_piece
from analyses.machinery.plan import Job, jobs_of, read_plan, records_of, trainings_of
from analyses.machinery.session import Session, Stopped, Taken, within
from klprobe.runtime.records import keep_record

OFF = 3.0
"""Factor by which a time that was not measured may be too long."""
NOTED, SAID = 5.0, 300.0
"""Seconds between two notes of what was spent, and between two lines about a cell that goes on."""
WAIT = 5.0
"""Seconds until a worker looks again whether a cell that another one has is free."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What every worker is told.

    Attributes:
        preset, plan, out: As of `read_plan`.
        deadline: Seconds since the epoch at which a worker looks for a checkpoint to stop at; infinite without one.
        retried: Cells that are run again though they failed, by name, with the number of their records before.
        parent: The process without which it stops too.
    """

    preset: Preset
    plan: Path
    out: Path | None
    deadline: float
    retried: dict[str, int]
    parent: int


@dataclass
class _Log:
    """What goes on in one cell, as the session hears of it."""

    job: Job
    number: int
    begun: float = field(default_factory=time.monotonic)
    noted: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.before = float(read_note(self.job.notes).get("cpu_seconds", 0.0))
        self.cpu, self.first, self.trained_until = time.process_time(), {}, self.begun
        self.last = ("", 0, 0.0)

    def tell(self, what: str, done: int, steps: int) -> None:
        """Note what was spent and how fast it goes, now and then."""
        now = time.monotonic()
        at, then = self.first.setdefault(what, (done, now))
        self.trained_until = now
        self.last = (what, done - at, now - then)
        if now - self.noted >= NOTED:
            self.noted = now
            self.note()
        if now - self.said >= SAID:
            self.said = now
            rate = (done - at) / max(now - then, 1e-9)
            left = f", about {in_words((steps - done) / rate)} of it left" if rate else ""
            say(self.number, f"{title(self.job)}: step {done:,} of {steps:,}, {rate:.3g} steps a second{left}")

    def note(self, **more: float) -> None:
        """Note what was spent, and how fast the last training went."""
        write_note(self.job.notes, cpu_seconds=self.spent(), **more)
        what, steps, seconds = self.last
        for training in trainings_of(self.job):
            if training.name == what and steps and seconds:
                note_speed(training, steps / seconds)

    def spent(self) -> float:
        """CPU seconds, those of earlier sessions included."""
        return self.before + time.process_time() - self.cpu


def work_through(number: int, orders: Orders) -> None:
    """Work until nothing is left to do, the deadline is there, SIGTERM comes, or the runner is gone."""
    torch.set_num_threads(1)
    session = Session(waits=False)

    def look(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM or time.time() >= orders.deadline or os.getppid() != orders.parent:
            signal.setitimer(signal.ITIMER_REAL, 0)
            session.end()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to all processes of a terminal; the runner tells the workers
    signal.signal(signal.SIGTERM, look)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    try:
        with within(session):
            jobs = jobs_of(read_plan(orders.preset, orders.plan, orders.out))
            unfit: set[str] = set()
            while _one(number, orders, jobs, unfit, session):
                pass
    except Stopped:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _one(number: int, orders: Orders, jobs: list[Job], unfit: set[str], session: Session) -> bool:
    """Run the first cell that is free; False where none is left. Where others have all that are left, wait a little."""
    taken = False
    for job in _left(jobs, orders, unfit):
        try:
            with lock(job.lock, wait=False):
                if finished(job, orders.retried):  # while we looked at the ones before
                    continue
                if any(not is_free(models.RUNS / f"{training.name}.lock") for training in trainings_of(job)):
                    raise Taken  # another cell's worker trains what this one looks at too
                if why := too_long(job, jobs, orders.deadline - time.time()):
                    unfit.add(job.name)
                    say(number, f"{title(job)}: left out, {why}")
                    continue
                _run(number, job, session)
                return True
        except Taken:
            taken = True
    if taken:
        time.sleep(WAIT)
    return taken


def _left(jobs: list[Job], orders: Orders, unfit: set[str]) -> Iterator[Job]:
    for job in jobs:
        if job.name not in unfit and not finished(job, orders.retried):
            yield job


def _run(number: int, job: Job, session: Session) -> None:
    """One cell to its record. `Stopped` and `Taken` leave notes and no record."""
    log = _Log(job, number)
    session.tell = log.tell
    begun = [f"from step {t.done:,} of {t.steps:,}" for t in trainings_of(job) if t.done < t.steps]
    say(number, f"{title(job)}: {'trains ' + ', '.join(begun) if begun else 'is looked at'}")
    try:
        record = record_of(job.part.item.work, job.cell)
    except Stopped:
        if all(t.done == t.steps for t in trainings_of(job)):
            cut = time.monotonic() - log.trained_until
            log.note(cut_after=max(cut, float(read_note(job.notes).get("cut_after", 0.0))))
            say(number, f"{title(job)}: cut off after {in_words(cut)} of looking at what was trained, which begins anew")
        else:
            at = ", ".join(f"step {t.done:,} of {t.steps:,}" for t in trainings_of(job))
            log.note()
            say(number, f"{title(job)}: stopped at a checkpoint, {at}")
        raise
    record["cpu_seconds"] = round(log.spent(), 2)
    with session.until_checkpoint():
        keep_record(job.part.records, record)
        log.note(**({} if record["failed"] else {"after_training": time.monotonic() - log.trained_until}))
    say(number, f"{title(job)}: {record['failed'] or 'done, ' + in_words(record['cpu_seconds']) + ' of CPU time in all'}")


def finished(job: Job, retried: dict[str, int]) -> bool:
    """Whether a cell has a record that counts; of one that is retried, a failure of before does not."""
    records = records_of(job)
    return any(not record["failed"] for record in records) or len(records) > retried.get(job.name, 0)


def too_long(job: Job, jobs: list[Job], left: float) -> str:
    """Why a cell is not begun in the seconds that are left; empty where it may be."""
    if any(training.done < training.steps for training in trainings_of(job)):
        return ""  # training stops at a checkpoint
    after, about = seconds_after_training(job, jobs), ""
    if after is None:  # an estimate may be off by as much as this
        after, about = seconds_in_one_piece(job.part.item, job.cell, models.DEVICE.partition(":")[0]) / OFF, "about "
    if after <= left:
        return ""
    return f"for it needs {about}{in_words(after * (OFF if about else 1))} in one piece, and {in_words(left)} are left"


def title(job: Job) -> str:
    """A cell in a line: its item, what tells it apart, and its model's size, seed and steps."""
    said = {name: value for name, value in job.cell.items() if not isinstance(value, dict | list) and name != "preset"}
    model, settings = job.cell.get("model"), job.cell.get("settings", {})
    if isinstance(model, dict):
        said |= {"steps": model["steps"], "seed": model["seed"]}
    others = [] if "choice" in said else [cell.get("settings", {}) for cell in job.part.cells]
    said |= {name: value for name, value in settings.items() if any(value != other.get(name, value) for other in others)}
    return f"{job.part.module} ({label(said)})"


def say(number: int, text: str) -> None:
    """A line on the terminal, whole also where several workers write."""
    sys.stdout.write(f"[{number}] {time.strftime('%H:%M')} {text}\n")
    sys.stdout.flush()
