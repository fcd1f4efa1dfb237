"""metrics.csv, and TensorBoard events where they are wanted: the players' losses as training goes on."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from klprobe.files.plain import check_plain
from klprobe.types import InputError

COLUMNS = ["step", "seconds"]
"""First columns of every row."""
WHOLE = re.compile(r"[0-9]{1,15}")
NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-][0-9]{1,3})?|nan|-?inf")
"""Pattern of numbers as f"{value:.6g}" and f"{seconds:.3f}" write them."""


class MetricsLog:
    """Collects what the players log and writes the mean over the updates since the last row.

    Columns: step, seconds (of training so far), then `player.quantity` each.

    Args:
        path: The CSV file; the first row that is written replaces what a fresh run finds there.
        resumed_at: Number of steps of the checkpoint that the run continues from; later rows belong to lost work, and go.
        tensorboard: Whether the folder of `path` also gets TensorBoard events.
        values: What the next row is of, by column; not empty where a checkpoint was written between two rows.
    Raises:
        InputError: TensorBoard is wanted and not installed, or the rows of before are damaged.
    """

    def __init__(
        self, path: Path, resumed_at: int, tensorboard: bool = False, values: dict[str, list[torch.Tensor]] | None = None
    ) -> None:
        self.path = path
        self.events = _events(path.parent, resumed_at) if tensorboard else None
        self.rows = _read(path, resumed_at) if resumed_at else []
        self.values = {} if values is None else values
        self.begun = time.monotonic() - (float(self.rows[-1][1]) if len(self.rows) > 1 else 0.0)
        self.mode = "w"

    def add(self, player: str, values: Mapping[str, torch.Tensor]) -> None:
        """Add one update's values, each of shape (), which stay on the device for now."""
        for name, value in values.items():
            self.values.setdefault(f"{player}.{name}", []).append(value)

    def flush(self, step: int) -> str:
        """Write one row and begin afresh; returns the players' losses for a progress bar."""
        means = {column: torch.stack(values).mean().item() for column, values in self.values.items()}
        with self.path.open(self.mode, newline="") as file:
            writer = csv.writer(file)
            if self.mode == "w":
                self.rows = self.rows or [[*COLUMNS, *means]]
                writer.writerows(self.rows)
                self.mode = "a"
            writer.writerow([step, f"{time.monotonic() - self.begun:.3f}", *(f"{v:.6g}" for v in means.values())])
        self.values.clear()
        if self.events is not None:
            for column, mean in means.items():
                self.events.add_scalar(column.replace(".", "/"), mean, step)
            self.events.flush()
        return ", ".join(f"{c.removesuffix('.loss')} {v:.4g}" for c, v in means.items() if c.endswith(".loss"))


def _events(folder: Path, resumed_at: int) -> Any:
    """Make a writer of TensorBoard events, which hides events from after the checkpoint."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(f"TensorBoard is not installed ({error}): pip install 'klprobe[tensorboard]'.") from error
    return SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)


def _read(path: Path, last_step: int) -> list[list[str]]:
    """The header, and the rows up to a step; a last line without its end was being written when the run stopped, and goes."""
    check_plain(path)
    if not path.exists():
        return []
    try:
        text, newline, _ = path.read_bytes().decode().rpartition("\n")
        header, *rows = [row for row in csv.reader(io.StringIO(text + newline), strict=True) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, str(error)) from error
    if not header:
        return []
    if header[:2] != COLUMNS or len(set(header)) < len(header):
        raise _damaged(path, "its first line is no header")
    before = 0
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not WHOLE.fullmatch(row[0]) or not all(map(NUMBER.fullmatch, row[1:])):
            raise _damaged(path, f"row {number} is not {len(header)} numbers")
        if int(row[0]) <= before:
            raise _damaged(path, f"row {number} is out of order")
        before = int(row[0])
    return [header, *(row for row in rows if int(row[0]) <= last_step)]


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why[:200]}): move it to another folder, and resume without its rows.")
