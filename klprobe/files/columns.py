"""One value for each row, from outside: the groups that rows belong to and their weights, as an array or a column of text."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe.files import npy
from klprobe.files.plain import check_plain
from klprobe.files.zips import opened
from klprobe.printable import short
from klprobe.types import InputError

TEXT = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
"""Suffixes of tables in text, and what parts their columns."""
MOST_BYTES = 1 << 30
"""Largest table in text that is read, in bytes."""


def read_column(spec: str, flag: str, num_rows: int) -> NDArray[Any]:
    """Read one value a row from PATH, or from the array or column NAME of it, as PATH:NAME.

    Args:
        spec: Path of a `.npy`, `.npz`, `.csv`, `.tsv` or `.txt` file, and where it has several arrays or columns, its name.
        flag: The flag that asked, for messages; without its dashes it is the name looked for where none is given.
        num_rows: N, the number of rows. A table has so many lines, or one line more for the columns' names.
    Returns:
        Shape (N,), of numbers or text.
    Raises:
        InputError: no such file or column, or another number of values.
    """
    path, name = Path(spec), ""
    if not path.exists() and ":" in spec:
        before, _, name = spec.rpartition(":")
        path = Path(before)
    if not path.is_file():
        raise InputError(f"{flag} {short(spec)}: there is no such file: give a .npy, .npz or .csv file with one value a row.")
    check_plain(path)
    suffix = path.suffix.lower()
    if suffix == ".npy" and not name:
        values = npy.read_file(path, f"{flag} {path.name}")
    elif suffix == ".npz":
        values = _from_npz(path, name, flag)
    elif suffix in TEXT:
        values = _from_text(path, name, flag, num_rows, TEXT[suffix])
    else:
        raise InputError(f"{flag} {short(spec)}: give a .npy file, or a .npz, .csv, .tsv or .txt file as PATH or PATH:NAME.")
    return check_column(values, f"{flag} {short(spec)}", num_rows)


def check_column(values: NDArray[Any], label: str, num_rows: int) -> NDArray[Any]:
    """The values as shape (N,); InputError unless there is one for each row."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (num_rows,):
        raise InputError(f"{label} has shape {values.shape}, but there are N = {num_rows:,} rows: give one value a row.")
    return values


def as_groups(values: NDArray[Any], label: str) -> torch.Tensor:
    """Numbers from 0 that are equal where the values are, shape (N,), int64."""
    if values.dtype.kind not in "biufUS" or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise InputError(f"{label} holds {values.dtype} with values that name no group: give numbers or text, none missing.")
    if values.dtype.kind in "US" and (empty := int((np.char.str_len(values) == 0).sum())):
        raise InputError(f"{label} names no group in {empty:,} of {len(values):,} rows: give each row one, its own if need be.")
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64))


def as_weights(values: NDArray[Any], label: str) -> torch.Tensor:
    """The values as numbers, shape (N,), float64."""
    try:
        return torch.from_numpy(values.astype(np.float64))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{label} holds weights that are no numbers, such as {short(str(values[0]))}: give numbers."
        ) from error


def _from_npz(path: Path, name: str, flag: str) -> NDArray[Any]:
    label = f"{flag} {path.name}"
    with opened(path, label) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = name or (flag.lstrip("-") if flag.lstrip("-") in members or len(members) > 1 else next(iter(members), ""))
        if wanted not in members:
            listed = ", ".join(map(short, list(members)[:8])) or "nothing"
            raise InputError(f"{label} holds no array {short(wanted)}, but {listed}: name one, {path.name}:NAME.")
        return npy.read_member(archive, members[wanted], label)


def _from_text(path: Path, name: str, flag: str, num_rows: int, separator: str) -> NDArray[Any]:
    label = f"{flag} {path.name}"
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{label} has more than {MOST_BYTES:,} bytes: save the column as a .npy file.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream, delimiter=separator) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{label} is no table in UTF-8 text ({str(error)[:80]}).") from error
    width = max(map(len, rows), default=0)
    headed = bool(name) or len(rows) == num_rows + 1 or width > 1
    columns = [column.strip() for column in rows[0]] if rows and headed else []
    if len(rows) != num_rows + headed:
        raise InputError(
            f"{label} has {len(rows):,} lines, but there are N = {num_rows:,} rows: give one line a row, and first one with "
            "the columns' names where there are several columns."
        )
    wanted = name or (flag.lstrip("-") if width > 1 else "")
    if wanted and columns.count(wanted) != 1:
        listed = ", ".join(map(short, columns[:8]))
        raise InputError(f"{label} has columns {listed}, and not one called {short(wanted)}: name one, {path.name}:COLUMN.")
    place = columns.index(wanted) if wanted else 0
    if any(len(row) <= place for row in rows):
        raise InputError(f"{label} has lines without a value in column {short(wanted) or 1}: give each row one.")
    return np.array([row[place].strip() for row in rows[headed:]])
