"""metrics.csv, and TensorBoard events where they are wanted: the players' losses as training goes on."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from klprobe.types import InputError


class MetricsLog:
    """Collects what the players log and writes the mean over the updates since the last row.

    Columns: step, seconds (of training so far), then `player.quantity` each.

    Args:
        path: The CSV file; a fresh run replaces it.
        resumed_at: Steps of the checkpoint that the run goes on from: later rows belong to work that was lost, and go.
        tensorboard: Whether the folder of `path` also gets TensorBoard events.
    Raises:
        InputError: TensorBoard is wanted and not installed.
    """

    def __init__(self, path: Path, resumed_at: int, tensorboard: bool = False) -> None:
        self.path = path
        self.events = _events(path.parent, resumed_at) if tensorboard else None
        self.rows = _read(path, resumed_at) if resumed_at else []
        self.values: dict[str, list[torch.Tensor]] = {}
        self.begun = time.monotonic() - (float(self.rows[-1][1]) if self.rows else 0.0)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(self.rows)

    def add(self, player: str, values: Mapping[str, torch.Tensor]) -> None:
        """Take note of one update's values, each of shape (); nothing is moved off the device yet."""
        for name, value in values.items():
            self.values.setdefault(f"{player}.{name}", []).append(value)

    def flush(self, step: int) -> str:
        """Write one row and begin afresh; returns the players' losses for a progress bar."""
        means = {column: torch.stack(values).mean().item() for column, values in self.values.items()}
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if not self.rows:
                self.rows = [["step", "seconds", *means]]
                writer.writerows(self.rows)
            writer.writerow([step, f"{time.monotonic() - self.begun:.3f}", *(f"{v:.6g}" for v in means.values())])
        self.values = {}
        if self.events is not None:
            for column, mean in means.items():
                self.events.add_scalar(column.replace(".", "/"), mean, step)
            self.events.flush()
        return ", ".join(f"{c.removesuffix('.loss')} {v:.4g}" for c, v in means.items() if c.endswith(".loss"))


def _events(folder: Path, resumed_at: int) -> Any:
    """Writer of TensorBoard events; what was written after the checkpoint is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(f"TensorBoard is not installed ({error}): pip install 'klprobe[tensorboard]'.") from error
    return SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)


def _read(path: Path, last_step: int) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    return [header, *(row for row in rows if int(row[0]) <= last_step)] if header else []
