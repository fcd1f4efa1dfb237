"""The plan of long jobs, as `analyses/plan.toml` has it: cells in the order of their worth, and what each has come to."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.machinery import models
from analyses.machinery.cells import Cell, Item, Preset, Record, Training
from analyses.machinery.declared import items
from analyses.machinery.operations import models_of
from klprobe.runtime.records import read_records
from klprobe.types import InputError

PLAN = Path(__file__).parents[1] / "plan.toml"


@dataclasses.dataclass(frozen=True)
class Part:
    """An item of the plan: its module, its question, its cells, and the file that their records go to."""

    module: str
    question: str
    item: Item
    cells: tuple[Cell, ...]
    records: Path


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell of a part."""

    part: Part
    cell: Cell

    @functools.cached_property
    def name(self) -> str:
        """Of its lock, and of what is noted of it; items that share records share their cells."""
        where = f"{self.part.module.partition('.')[0]}/{self.part.records.name}"
        return hashlib.sha256(json.dumps([where, self.cell], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def lock(self) -> Path:
        """Held by the process that works on it."""
        return models.RUNS / "cells" / f"{self.name}.lock"

    @property
    def notes(self) -> Path:
        """What is noted of it between sessions."""
        return models.RUNS / "cells" / f"{self.name}.json"


def read_plan(preset: Preset, path: Path = PLAN, out: Path | None = None) -> list[Part]:
    """The parts with the cells of a preset; records go to the items' own files, or to those of a folder `out`.

    Raises:
        InputError: the file is none, or names no item, or asks for values that no cell has.
    """
    parts = []
    try:
        listed = tomllib.loads(path.read_text())["part"]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError) as error:
        raise InputError(f"{path} is no plan ({error}): it needs a [[part]] for every item.") from error
    for entry in listed:
        name = entry.get("item")
        item, only = _item(name, path), entry.get("only", {})
        cells = tuple(cell for cell in item.cells(preset) if _chosen(cell, only))
        if not cells and preset == "paper":
            raise InputError(f"{path}: no cell of {name} has {only}.")
        folder = item.folder if out is None else out / name.partition(".")[0]
        parts.append(Part(name, entry.get("question", item.title), item, cells, folder / "records" / item.records))
    return parts


def _item(name: Any, path: Path) -> Item:
    """By its module, which alone is imported: a runner has many workers, and no time for all of them.

    Raises:
        InputError: there is no such item.
    """
    with contextlib.suppress(ImportError):
        item = getattr(importlib.import_module(f"analyses.{name}"), "ITEM", None)
        if isinstance(item, Item):
            return item
    raise InputError(f"{path} names the item {name!r}, which is none of {', '.join(items())}.")


def jobs_of(parts: list[Part]) -> list[Job]:
    """All cells in their order, each once."""
    return list({job.name: job for job in (Job(part, cell) for part in parts for cell in part.cells)}.values())


def records_of(job: Job) -> list[Record]:
    """What is recorded of a cell, the last one last."""
    path = job.part.records
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
    return [record for record in _read(path, stamp) if record["cell"] == job.cell]


@functools.lru_cache(maxsize=32)
def _read(path: Path, stamp: tuple[int, int]) -> list[Record]:
    return read_records(path)


def trainings_of(job: Job) -> list[Training]:
    """What of a cell goes on from its last checkpoint."""
    if job.part.item.trainings is not None:
        return list(job.part.item.trainings(job.cell))
    return [
        Training(models.kind(model), like(model), model["steps"], min(models.steps_done(model), model["steps"]))
        for model in models_of(job.cell)
    ]


def like(model: Mapping[str, Any]) -> str:
    """Models whose steps take as long, or nearly: of one system, on one data set, with the same sizes."""
    sizes = {name: value for name, value in model["settings"].items() if not name.endswith(("lr", "weight", "decay_steps"))}
    return json.dumps([model["system"], model["dataset"], sizes, models.DEVICE], sort_keys=True)


def _chosen(cell: Cell, only: Mapping[str, list[Any]]) -> bool:
    return all(cell.get(name) in values for name, values in only.items())
