"""Batches of 64 a second from every data set that is here, beside the training steps that they feed; one CPU thread.

python -m analyses.ours.loading --data-root DIR             # measure, append a record, print the table
python -m analyses.ours.loading --data-root DIR --quick     # one batch and one step each, no record
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.machinery.cells import NO_PAPER
from analyses.machinery.declared import Page
from klprobe.datasets import dataset
from klprobe.registry import load
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import keep_record
from klprobe.training.data import Data
from klprobe.training.loop import train
from klprobe.types import InputError

RECORDS = Path(__file__).parent / "results" / "records" / "loading.jsonl"
NAMES = (
    "digits",
    "ring",
    "gaussians:dim=100",
    "mnist",
    "color-mnist",
    "cifar-10:partial",
    "cifar-10:partial:flip:shift=4",
    "svhn",
    "celeba",
)
BATCH, BATCHES, STEPS = 64, 400, 10
FACES = (4096, 3, 64, 64)
"""Where CelebA is not here: as many random pixels of its shape, in a file that is memory-mapped as its pixels are."""
JPEGS, PHOTO = 256, (218, 178, 3)


def main() -> None:
    """Measure, print, and append one record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--quick", action="store_true")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    _training(dataset("ring").load("train"), 1, Path(tempfile.gettempdir()))  # imports and first calls
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "threads": 1},
        "versions": versions(),
        "commit": commit(),
        "batch_size": BATCH,
        **measure(flags.data_root, 1 if flags.quick else BATCHES, 1 if flags.quick else STEPS),
    }
    print(table(record))
    if not flags.quick:
        keep_record(RECORDS, record)


def measure(root: Path | None, batches: int, steps: int) -> dict[str, Any]:
    """One row a data set, and JPEGs decoded a second, all in CPU time."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            try:
                started = time.process_time()
                data = dataset(name).load("train", root)
                seconds = time.process_time() - started
            except InputError:
                continue
            rows.append(row(data, batches, steps, Path(scratch)) | {"load_seconds": seconds})
            if data.tint is not None:
                before = replace(data, name=f"{name}, coloured beforehand", stored=data.x, tint=None)
                rows.append(row(before, batches, steps, Path(scratch)) | {"load_seconds": None})
        np.save(Path(scratch) / "faces.npy", np.random.default_rng(0).integers(0, 256, FACES, dtype=np.uint8))
        mapped = dataset(f"array-file:path={scratch}/faces.npy:held_out=0").load("train")
        rows.append(row(replace(mapped, name="memory-mapped 64 x 64"), batches, 0, Path(scratch)) | {"load_seconds": None})
        return {"rows": rows, "jpegs_per_second": jpegs(Path(scratch), batches)}


def row(data: Data, batches: int, steps: int, scratch: Path) -> dict[str, Any]:
    """Batches at random places a second, and the time of a training step of a vae on them."""
    generator = torch.Generator().manual_seed(0)
    indices = [torch.randint(len(data), (BATCH,), generator=generator) for _ in range(batches)]

    def draw() -> None:
        for which in indices:
            data.batch(which)

    found = {"data": data.name, "megabytes": data.stored.numel() * data.stored.element_size() / 1e6}
    found["batches_per_second"] = batches / cpu_seconds(draw)
    if steps:
        found["step_seconds"] = (_training(data, steps + 1, scratch) - _training(data, 1, scratch)) / steps
    return found


def _training(data: Data, steps: int, scratch: Path) -> float:
    """CPU time of so many steps of a vae, with what comes before and after them."""
    system = load("trainers", "vae")(batch_size=BATCH, visible="laplace")
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        return cpu_seconds(lambda: train(system, data, steps=steps, out=out))


def jpegs(scratch: Path, batches: int) -> float:
    """Images of CelebA's size, smooth as photographs are, decoded, cut and resized a second."""
    from PIL import Image

    from klprobe.datasets.celeba import ALIGNED, BOX
    from klprobe.files.images import read_image

    coarse = np.random.default_rng(0).integers(0, 256, (27, 22, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((PHOTO[1], PHOTO[0]), Image.Resampling.BICUBIC).save(scratch / "a.jpg", quality=90)
    count = min(JPEGS, batches)

    def decode() -> None:
        for _ in range(count):
            read_image(scratch / "a.jpg", "a.jpg", size=(64, 64), expected=ALIGNED, box=BOX)

    return count / cpu_seconds(decode)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the process, which other processes of the machine do not lengthen."""
    started = time.process_time()
    work()
    return time.process_time() - started


def table(record: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| data | MB in memory or file | load, s | batches of 64 a second | vae step, ms | of it loading |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for r in record["rows"]:
        step, load_seconds = r.get("step_seconds"), r["load_seconds"]
        share = "" if step is None else f"{100 / r['batches_per_second'] / step:.1f} %"
        lines.append(
            f"| {r['data']} | {r['megabytes']:.0f} | {'' if load_seconds is None else f'{load_seconds:.1f}'} | "
            f"{r['batches_per_second']:,.0f} | {'' if step is None else f'{1000 * step:.1f}'} | {share} |"
        )
    faces = 162_770 / record["jpegs_per_second"]
    return "\n".join(lines) + (
        f"\n\n{record['jpegs_per_second']:,.0f} aligned JPEGs a second decoded, cut and resized to 64 x 64 by one thread: "
        f"{faces / 60:.1f} minutes of CPU time, once, for the training split of CelebA."
    )


PAGE = Page(
    order=9,
    title="Loading data",
    paper=NO_PAPER,
    commands="ours.loading --data-root DIR",
    headline="batches a second, also flipped and shifted: in the record",
    records="loading.jsonl",
)


if __name__ == "__main__":
    main()
