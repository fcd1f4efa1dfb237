"""What the scripts of this folder share: MNIST as vectors, a resumable training run, and errors of reconstructions."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from klprobe.checkpoint import Checkpoint, load_checkpoint, read
from klprobe.datasets._shared import Data, Split
from klprobe.loading import dataset
from klprobe.pictures import reconstruct
from klprobe.provenance import commit, versions
from klprobe.training import CHECKPOINT, Algorithm, train

POINTS_AT_ONCE = 1000


def vectors(split: Split, root: Path | None = None) -> Data:
    """MNIST as vectors of 784: what the MLP pair takes, on one thread a tenth of the cost of convolutions."""
    images = dataset("mnist").load(split, root)
    return replace(images, name="mnist, as vectors", stored=images.stored.flatten(1))


def trained(algorithm: Algorithm, data: Data, steps: int, out: Path, seed: int) -> tuple[Checkpoint, float]:
    """The system after so many steps, from `out` where it is there already, and the CPU seconds of its training.

    The seconds of an interrupted run are kept beside its checkpoint, and counted.
    """
    path, clock = out / CHECKPOINT, out / "cpu_seconds.json"
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    if not path.exists() or read(path)[1]["steps"] < steps:
        started = time.process_time()
        try:
            train(algorithm, data, steps=steps, out=out, seed=seed, resume=path.exists(), checkpoint_every=steps)
        finally:
            before += time.process_time() - started
            clock.write_text(json.dumps(before))
    return load_checkpoint(path), before


def reconstruction_errors(system: Checkpoint, data: Data, seed: int) -> dict[str, tuple[float, float]]:
    """Mean absolute and root-mean-square error of a pixel of E[x|z], z ~ q(z|x), one draw a point, and their errors."""
    noise, absolute, squared = torch.Generator().manual_seed(seed), [], []
    for indices in torch.arange(len(data)).split(POINTS_AT_ONCE):
        x = data.floats(indices)
        error = (x - reconstruct(system.algorithm, system.networks, x, noise)).double().flatten(1)
        absolute.append(error.abs().mean(1))
        squared.append(error.square().mean(1))
    l1, l2 = (torch.cat(parts) for parts in (absolute, squared))
    root = math.sqrt(float(l2.mean()))
    return {"l1": (float(l1.mean()), _error(l1)), "rms": (root, _error(l2) / (2 * root))}


def stamp() -> dict[str, Any]:
    """When a record was made, and by what."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(), "commit": commit()}


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, in order; none where it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, record: dict[str, Any]) -> None:
    """Write one more record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def _error(values: torch.Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))
