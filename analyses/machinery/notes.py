"""What a runner notes of its work in the folder of runs: seconds spent, and how fast steps go, so that the rest can be told."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
from pathlib import Path
from typing import Any

from analyses.machinery import models
from analyses.machinery.cells import Training
from analyses.machinery.plan import Job, trainings_of


def read_note(path: Path) -> dict[str, Any]:
    """What is noted; nothing where there is no such file, or no whole one."""
    with contextlib.suppress(OSError, UnicodeDecodeError, json.JSONDecodeError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def write_note(path: Path, **changed: Any) -> None:
    """Change some of what is noted, whole or not at all; whoever writes holds the cell's lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.write_text(json.dumps(read_note(path) | changed))
    draft.replace(path)


def note_speed(training: Training, steps_a_second: float) -> None:
    """How fast one training goes; the last to say so is believed."""
    write_note(_speed(training.like), name=training.name, like=training.like, steps_a_second=steps_a_second)


def seconds_of_training(job: Job) -> float | None:
    """What the rest of a cell's training takes on one of these jobs, by measured speeds; None where none is measured."""
    total = 0.0
    for training in trainings_of(job):
        if training.done < training.steps:
            speed = read_note(_speed(training.like)).get("steps_a_second")
            if not speed:
                return None
            total += (training.steps - training.done) / speed
    return total


def seconds_after_training(job: Job, jobs: list[Job]) -> float | None:
    """What looking at the trained models takes: as long as of other cells of its part, and as long as it was tried in vain."""
    tried = read_note(job.notes).get("cut_after")
    others = [read_note(other.notes).get("after_training") for other in jobs if other.part is job.part]
    known = [float(seconds) for seconds in others if seconds is not None]
    if tried is None and not known:
        return None
    return max(1.2 * float(tried or 0.0), statistics.median(known) if known else 0.0)


def _speed(like: str) -> Path:
    return models.RUNS / "speeds" / f"{hashlib.sha256(like.encode()).hexdigest()[:16]}.json"
