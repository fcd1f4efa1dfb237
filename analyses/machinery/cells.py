"""An item of a paper: cells, each run once, on this machine or many, and a page that is made of their records alone.

Every item is a module that declares an `ITEM` and has `main(ITEM)`; then `python -m analyses.FOLDER.ITEM` writes the page from
the records, and with `--preset quick` or `--preset paper` runs the cells that have no record first.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import joblib
import torch
from joblib.parallel import get_active_backend
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from klprobe.datasets import data_root
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import keep_record, read_records
from klprobe.types import InputError

Preset = Literal["tiny", "quick", "paper"]
Backend = Literal["loky", "sequential", "dask", "ray"]
Cell = dict[str, Any]
"""What is run, in plain JSON values: preset, seed, settings; two cells are one when they are equal."""
Result = dict[str, Any]
"""What came out, in plain JSON values."""
Record = dict[str, Any]
"""`cell`, `result` (None when it failed), `failed` (None or why), `cpu_seconds`, `date`, `commit`, `versions`."""
NO_PAPER = "no paper has it"
"""Of an item that is ours."""


class Training(NamedTuple):
    """A part of a cell that goes on from its last checkpoint.

    Attributes:
        name: As the session is told.
        like: What trainings whose steps take as long have in common.
        steps, done: In all, and by the checkpoints that are there.
    """

    name: str
    like: str
    steps: int
    done: int


class Costs(NamedTuple):
    """What takes the time of a cell.

    Attributes:
        models: What it trains.
        methods: The estimators that look at each part of the data of its model, of so many latents.
        steps, operations: Of whatever else it learns, in all.
    """

    models: Sequence[Mapping[str, Any]] = ()
    methods: Mapping[str, Sequence[Any]] = MappingProxyType({})
    latents: int = 0
    steps: int = 0
    operations: float = 0.0


@dataclass(frozen=True)
class Item:
    """A table or a figure: all that is particular to it, declared in its own file.

    Attributes:
        order: Its place among the items of its folder, from 1, in the overview and in lists.
        title: As `DMVI Table 1`.
        paper: What the paper says of it, in few words, or `NO_PAPER`.
        headline: What its records say, in few words; they are those of the last run of each cell, and none failed.
        folder: Where page and records lie.
        records: Name of the records file; items that share their cells share it.
        cells: The cells of a preset, the most useful ones first.
        work: Runs one cell; it is pickled and may run in another process or on another machine.
        write: From the records to files in a folder; returns their paths.
        costs: What takes the time of a cell; None: training the models that it names.
        trainings: What of a cell is kept between two runs; None: the models that it names.
    """

    order: int
    title: str
    paper: str
    headline: Callable[[list[Record]], str]
    folder: Path
    records: str
    cells: Callable[[Preset], Sequence[Cell]]
    work: Callable[[Cell], Result]
    write: Callable[[list[Record], Path], list[Path]]
    costs: Callable[[Cell], Costs] | None = None
    trainings: Callable[[Cell], Sequence[Training]] | None = None


def main(item: Item, argv: Sequence[str] | None = None) -> None:
    """The command line of one item."""
    parser = argparse.ArgumentParser(description=item.title)
    parser.add_argument("--preset", choices=get_args(Preset), help="first run its cells that have no record")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells at once")
    parser.add_argument("--backend", choices=get_args(Backend), default="loky", help="dask and ray: a cluster, at --address")
    parser.add_argument("--address", help="of a Dask scheduler or a Ray head")
    parser.add_argument("--first", type=int, help="run that many cells at most")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--out", type=Path, default=item.folder, help="folder of the page; records lie in its records/")
    flags = parser.parse_args(argv)
    if flags.jobs == 0 or (flags.first is not None and flags.first < 1):
        parser.error("--jobs must be at least 1 (or -1: as many as there are cores), and --first at least 1.")
    path = flags.out / "records" / item.records
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if flags.preset:
            todo = missing(item.cells(flags.preset), read_records(path), retry=flags.retry)[: flags.first]
            with backend(flags.backend, flags.address):
                run(item, todo, path, jobs=flags.jobs)
        if not (records := read_records(path)):
            raise InputError(f"nothing is recorded in {path}: --preset quick runs the cells.")
        for written in item.write(records, flags.out):
            print(written)
    except (InputError, OSError) as error:
        parser.error(str(error))


def missing(cells: Sequence[Cell], records: Sequence[Record], *, retry: bool = False) -> list[Cell]:
    """Cells without a record; with `retry` those too that only ever failed."""
    done = [record["cell"] for record in records if not (retry and record["failed"])]
    return [cell for cell in cells if cell not in done]


def results(cells: Sequence[Cell], records: Sequence[Record]) -> list[tuple[Cell, Record]]:
    """Each cell that has a record, with its last one."""
    last = [(cell, [record for record in records if record["cell"] == cell]) for cell in cells]
    return [(cell, found[-1]) for cell, found in last if found]


def run(item: Item, cells: Sequence[Cell], path: Path, *, jobs: int | None = None) -> None:
    """Run cells, keep each one's record as soon as it is there; a cell that fails is a record, not the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(item.title, total=len(cells))
        for record in finished(item.work, cells, jobs):
            keep_record(path, record)
            bar.advance(task)
            said = record["failed"] or f"{record['cpu_seconds']:.0f} s"
            bar.console.print(f"{label(record['cell'])}: {said}", highlight=False, soft_wrap=True)


def finished(work: Callable[[Cell], Result], cells: Sequence[Cell], jobs: int | None) -> Iterator[Record]:
    """Records as they come; a round of `jobs` cells at a time from a backend that gives nothing before all is done (Ray's)."""
    active, most = get_active_backend()
    tasks = [joblib.delayed(record_of)(work, cell) for cell in cells]
    if active.supports_return_generator:
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
        return
    each = max(1, jobs or most)
    for first in range(0, len(tasks), each):
        yield from joblib.Parallel(n_jobs=jobs)(tasks[first : first + each])


def label(cell: Cell) -> str:
    """A cell in a line: its values, without those of the models it looks at."""
    return ", ".join(f"{name} {value}" for name, value in cell.items() if name not in ("model", "models"))


def record_of(work: Callable[[Cell], Result], cell: Cell) -> Record:
    """Run one cell on one thread; numbers that are not finite fail it, and are kept as None."""
    torch.set_num_threads(1)
    started, result, failed = time.process_time(), None, None
    try:
        result = work(cell)
        odd: list[str] = []
        result = finite(result, "", odd)
        failed = f"not finite: {', '.join(odd)}" if odd else None
    except InputError as error:
        failed = str(error).replace(str(data_root(None).resolve()), "KLPROBE_DATA")  # no path of this machine in a record
    except Exception:
        failed = traceback.format_exc(limit=-1).strip().splitlines()[-1]
    return {
        "cell": cell,
        "result": result,
        "failed": failed,
        "cpu_seconds": round(time.process_time() - started, 2),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions(),
    } | ({"device": device} if (device := os.environ.get("KLPROBE_DEVICE", "cpu")) != "cpu" else {})


def finite(value: Any, name: str, odd: list[str]) -> Any:
    """The same with None for numbers that are not finite, whose names are added to `odd`."""
    if isinstance(value, dict):
        return {key: finite(entry, f"{name}.{key}".lstrip("."), odd) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry, f"{name}[{i}]", odd) for i, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        odd.append(name)
        return None
    return value


@contextlib.contextmanager
def backend(name: Backend, address: str | None) -> Iterator[None]:
    """joblib's workers: this machine's processes, or those of a Dask or Ray cluster that is installed and running."""
    if name not in ("dask", "ray"):
        with joblib.parallel_config(backend=name):
            yield
        return
    try:
        cluster = importlib.import_module({"dask": "dask.distributed", "ray": "ray.util.joblib"}[name])
    except ImportError as error:
        package = {"dask": "distributed", "ray": "ray"}[name]
        raise InputError(f"--backend {name} needs a package that is not here: pip install {package} ({error}).") from error
    if name == "dask":  # registers itself with joblib
        with cluster.Client(address), joblib.parallel_config(backend="dask"):
            yield
    else:
        importlib.import_module("ray").init(address=address)
        cluster.register_ray()
        with joblib.parallel_config(backend="ray"):
            yield


def reason(record: Record) -> str:
    """Why a cell has no value, in a sentence."""
    return str(record["failed"]).split(". ")[0].rstrip(".")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are numbers, to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
