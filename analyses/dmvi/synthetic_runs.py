"""One run on synthetic Gaussians as a cell: it is kept in the folder of runs while it goes on, as models are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.machinery import models
from analyses.machinery.cells import Cell, Costs, Result, Training
from analyses.machinery.kept import lock
from analyses.machinery.session import current
from klprobe.files import json_files
from klprobe.files.tensor_file import opened
from klprobe.synthetic.kept import Keep, Paused
from klprobe.synthetic.run import run_one
from klprobe.synthetic.settings import Settings

OF_THE_RUN = ("preset", "changed", "cpu_seconds", "time", "versions", "commit", "device")
"""What a record of klprobe's says and the record of a cell too."""


def run(cell: Cell) -> Result:
    """The run, from where it is kept.

    Raises:
        Stopped: the session was told to end, and the run is kept.
    """
    session, name = current(), _name(cell)
    settings = Settings(**{key: tuple(value) if isinstance(value, list) else value for key, value in cell["settings"].items()})
    keep = Keep(
        _path(cell),
        stop=lambda: session.asked,
        seconds=models.CHECKPOINT_SECONDS,
        progress=lambda done, steps, note="": session.tell(name, done, steps),
    )
    with lock(models.RUNS / f"{name}.lock", wait=session.waits), session.until_checkpoint():
        try:
            record = run_one(cell["experiment"], cell["dim"], cell["seed"], settings, device=models.DEVICE, keep=keep)
        except Paused:
            return {}  # what stopped it is raised as this block ends
    return {key: value for key, value in record.items() if key not in OF_THE_RUN}


def trainings(cell: Cell) -> list[Training]:
    """How far the run is."""
    settings: Mapping[str, Any] = cell["settings"]
    size = [settings["classifier_width"], settings["classifier_layers"], settings.get("classifier_steps_per_generator_step")]
    like, done = json.dumps(["synthetic", cell["experiment"], cell["dim"], *size, models.DEVICE]), 0
    if (path := _path(cell)).exists():
        with opened(path) as file:
            done = int(json_files.parse(file.header["klprobe.settings"], str(path))["step"])
    return [Training(_name(cell), like, settings["steps"], done)]


def costs(cell: Cell) -> Costs:
    """Products with the classifier's weights and W; moving W's entries, which memory limits, counts a thousandfold."""
    s, dim = cell["settings"], cell["dim"]
    weights = dim * s["classifier_width"] + (s["classifier_layers"] - 1) * s["classifier_width"] ** 2
    updates = s.get("classifier_steps_per_generator_step", 1)
    learned = (6 * s["batch_size"] + 1000) * 10 * dim**2 if cell["experiment"] == "minimize" else 0
    each = 6 * s["batch_size"] * (2 * updates + 1) * weights + learned
    return Costs(steps=s["steps"] * (updates + 1), operations=float(s["steps"] * each))


def _name(cell: Cell) -> str:
    made = {key: value for key, value in cell.items() if key != "preset"} | {"device": models.DEVICE}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def _path(cell: Cell) -> Path:
    return models.RUNS / f"{_name(cell)}.safetensors"
