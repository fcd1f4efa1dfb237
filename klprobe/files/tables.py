"""Tables of numbers, in CSV and Parquet: one row a data point, one column a number of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe.files.child import Child, Limits
from klprobe.files.confined import Opened
from klprobe.files.plain import check_plain
from klprobe.printable import short
from klprobe.types import InputError

CSV, PARQUET = (".csv", ".tsv"), (".parquet", ".pq")
SUFFIXES = (*CSV, *PARQUET)
LABELS = ("label", "labels", "target", "targets", "class", "classes")
"""Names of columns that are what a point is called, and no number of it."""
LONGEST_LINE = 1 << 24
ROW_NUMBERS, INDEX = ("", "Unnamed: 0"), "__index_level_0__"
"""Names under which pandas writes the numbers of the rows to CSV, and the index of the rows, whatever it is, to Parquet."""
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
NO_PYARROW = "Parquet is read by pyarrow, which is not installed: pip install pyarrow, or save the table as .npy or .csv"


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
        names: Names of the columns, empty where the file has none.
        values: float64, shape (N, D).
        labels: int64, shape (N,), of a column of labels; None where there is none, or its labels are no whole numbers.
        notes: What was left aside, in sentences.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    def without(self, names: Collection[str]) -> Table:
        """Return the table without some of its columns."""
        keep = [i for i, name in enumerate(self.names) if name not in names]
        if len(keep) == len(self.names):
            return self
        return replace(self, names=tuple(self.names[i] for i in keep), values=self.values[:, keep])


def read_table(path: Path, label: str) -> Table:
    """The numbers of a CSV or Parquet file; a column of row numbers, or of labels, is no number of the points, and said.

    Raises:
        InputError: no such table, columns of text, rows of several lengths, missing values.
    """
    check_plain(path, label)
    if path.suffix.lower() in PARQUET:
        names, values = _read_parquet(path, label)
    else:
        names, values = _read_csv(path, label)
    if not values.size:
        raise InputError(f"{label} holds no rows of numbers: give a table with one row a data point.")
    return _points(names, values, label)


def _points(names: tuple[str, ...], values: NDArray[np.float64], label: str) -> Table:
    """The table without row numbers and labels."""
    notes, labels = [], None
    keep = list(range(values.shape[1]))
    if INDEX in names:
        keep.remove(names.index(INDEX))
        notes.append(f"{label}: the index of its rows is left aside.")
    if names and names[0] in ROW_NUMBERS:
        if not _counts(values[:, 0]):
            raise InputError(f"{label}: its first column has no name and is no row number: name it, or remove it.")
        keep.remove(0)
        notes.append(f"{label}: its first column, the row numbers, is left aside.")
    marked = [i for i in keep if names and names[i].strip().lower() in LABELS]
    if len(marked) > 1:
        raise InputError(f"{label} has several columns of labels, {', '.join(names[i] for i in marked)}: keep one.")
    for i in marked:
        keep.remove(i)
        notes.append(f"{label}: the column {short(names[i])} is taken for labels, and is no number of a point.")
        whole = values[:, i].astype(np.int64) if np.isfinite(values[:, i]).all() else None
        labels = whole if whole is not None and (whole == values[:, i]).all() else None
    if not keep:
        raise InputError(f"{label} has no column of numbers beside row numbers and labels.")
    kept = values[:, keep] if len(keep) < values.shape[1] else values
    bad = ~np.isfinite(kept)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        name = short(names[keep[column]]) if names else str(keep[column] + 1)
        raise InputError(
            f"{label} has {int(bad.sum()):,} missing or infinite numbers, first in row {row + 1}, column {name}: repair or "
            "remove those rows."
        )
    return Table(tuple(names[i] for i in keep) if names else (), kept, labels, tuple(notes))


def _counts(column: NDArray[np.float64]) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ..."""
    return column[0] in (0, 1) and bool((column == np.arange(len(column)) + column[0]).all())


def _read_csv(path: Path, label: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names of the columns, and numbers; NaN stands for a label that is text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [line for line in (stream.readline(LONGEST_LINE) for _ in range(50)) if line.strip()][:2]
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is no text, so no CSV file ({error.reason}): save it again as CSV in UTF-8.") from error
    if not lines or any("\0" in line for line in lines):
        raise InputError(f"{label} is {'no text, so no CSV file' if lines else 'empty'}: save the table again.")
    delimiter = _delimiter(path, lines[0])
    first, *others = ([cell.strip().strip('"') for cell in _cells(line, delimiter)] for line in lines)
    second = others[0] if others else first
    if delimiter == ";" and any(DECIMAL_COMMA.fullmatch(cell) for cell in second):
        raise InputError(f"{label} has decimal commas, as {second[0]}: write a point, as pandas' to_csv(decimal='.') does.")
    names = _header(first, second, bool(others))
    if names and others and len(second) != len(names):
        raise InputError(f"{label} has {len(names)} names of columns but {len(second)} cells in its first row: repair it.")
    text = [i for i, cell in enumerate(second) if not _is_number(cell) and cell != ""]
    named = [i for i in text if names and names[i].strip().lower() in LABELS]
    if left := [i for i in text if i not in named]:
        where = short(names[left[0]]) if names else str(left[0] + 1)
        raise InputError(
            f"{label}: column {where} holds text, {short(second[left[0]])}, and no number: remove it, or name it label."
        )
    columns = [i for i in range(len(second)) if i not in named]
    skipped = _lines_before(path, lines[0]) + bool(names)
    values = _numbers(path, label, delimiter, columns, skipped)
    for i in named:
        values = np.insert(values, i, np.nan, axis=1)
    return names, values


def _numbers(path: Path, label: str, delimiter: str | None, columns: list[int], skipped: int) -> NDArray[np.float64]:
    try:
        with path.open(encoding="utf-8-sig", newline=None) as stream:
            numbers: NDArray[np.float64] = np.loadtxt(
                stream,
                np.float64,
                comments=None,
                delimiter=delimiter,
                skiprows=skipped,
                usecols=columns,
                ndmin=2,
                quotechar='"',
            )
            return numbers
    except (ValueError, IndexError) as error:
        said = str(error).split("; use")[0].split(" (Ex")[0].rstrip(".")
        raise InputError(f"{label} is no table of numbers ({said[:200]}; rows count from 0 below the names).") from error


def _cells(line: str, delimiter: str | None) -> list[str]:
    line = line.strip("\r\n").removeprefix("#")
    return line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))


def _delimiter(path: Path, line: str) -> str | None:
    """What separates cells; None is white space, as numpy.savetxt writes it."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    count, best = max((line.count(delimiter), delimiter) for delimiter in (",", "\t", ";"))
    if ";" in line and best == ",":  # decimal commas
        best = ";"
    return best if count else None if len(line.split()) > 1 else ","


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _header(first: Sequence[str], second: Sequence[str], more: bool) -> tuple[str, ...]:
    """The names of the columns, where the first row is one of names; also 0, 1, 2, ..., as pandas numbers them."""
    if not all(map(_is_number, first)):
        is_names = sum(not _is_number(cell) for cell in first) > sum(not _is_number(cell) for cell in second)
        numbers = [cell for cell in first if _is_number(cell)]
        return tuple(first) if is_names or (more and _consecutive(numbers)) else ()
    return tuple(first) if more and len(first) > 1 and _consecutive(first) else ()


def _consecutive(cells: Sequence[str]) -> bool:
    return len(cells) > 1 and list(cells) == [str(i) for i in range(len(cells))]


def _lines_before(path: Path, line: str) -> int:
    """How many lines stand before the first that says something."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return next(i for i, found in enumerate(stream) if found[:LONGEST_LINE] == line)


def _read_parquet(path: Path, label: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """A confined process opens the file; columns of lists are as many columns as a list has numbers."""
    if find_spec("pyarrow") is None:
        raise InputError(f"{label}: {NO_PYARROW}.")
    with Child(open_parquet, {"path": str(path), "label": label}, label=label, limits=Limits()) as child:
        return tuple(map(str, child.facts["names"])), child.tensors["values"].numpy()


def open_parquet(path: str, label: str) -> Opened:
    """Names and numbers of a Parquet file, in a confined process."""
    import pyarrow
    from pyarrow import parquet

    pyarrow.set_cpu_count(1)
    table = parquet.ParquetFile(path, memory_map=False).read(use_threads=False)
    names: list[str] = []
    blocks: list[NDArray[np.float64]] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        block = _block(pyarrow, name, column, label)
        names += [name] if block.shape[1] == 1 else [f"{name}_{i}" for i in range(block.shape[1])]
        blocks.append(block)
    values = np.concatenate(blocks, 1) if blocks else np.empty((0, 0))
    return Opened(facts={"names": names}, tensors={"values": torch.from_numpy(np.ascontiguousarray(values))})


def _block(pyarrow: Any, name: str, column: Any, label: str) -> NDArray[np.float64]:
    """The numbers of a column, shape (N, 1), or of one of lists of the same length, shape (N, length)."""
    types, kind, width = pyarrow.types, column.type, 1
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        flat = column.combine_chunks()
        lengths = set(flat.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths or 0 in lengths:
            raise InputError(f"{label}: the lists of column {short(name)} are of several lengths: make them one.")
        (width,) = lengths
        column, kind = flat.flatten(), kind.value_type
    if (name == INDEX or name.strip().lower() in LABELS) and not (types.is_integer(kind) or types.is_floating(kind)):
        return np.full((len(column) // width, 1), np.nan)
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError(f"{label}: column {short(name)} holds {kind}, and no numbers: remove it, or name it label.")
    if types.is_boolean(kind):
        column = column.cast("int8")
    numbers = column.to_numpy(zero_copy_only=False) if hasattr(column, "flatten") else column.to_numpy()
    return np.asarray(numbers, np.float64).reshape(-1, width)
