"""Columns of a table as the named arrays of a posterior: mean_0, mean_1, ..., logvar_0, ... are mean and logvar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from klprobe.files.tables import Table
from klprobe.printable import short
from klprobe.types import InputError

NUMBERED = re.compile(r"(.*?)[\s_.\-\[(]*(\d+)[\])]?")
"""A column of one latent: mean_0, mean.0, mean0, mean[0], mean 0."""
SAMPLES = "samples"


def columns_of(table: Table, known: Callable[[Iterable[str]], Iterable[str]], label: str) -> dict[str, NDArray[np.float64]]:
    """The arrays that the columns make by their names, each (N, D); all of them as `samples` where no name says what it is.

    Columns of an unknown name that are as many as those of a known one come too: they may be the spread of a mean.

    Args:
        table: The numbers and the names of their columns.
        known: From names to those that say what an array of a posterior is.
        label: What errors call the file.
    Raises:
        InputError: latents that are not numbered from 0 or 1 on, or columns of two kinds that no name explains.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for place, name in enumerate(table.names):
        match = NUMBERED.fullmatch(name.strip())
        kind, number = (match[1], int(match[2])) if match else (name.strip(), -1)
        groups.setdefault(kind, []).append((number, place))
    understood = set(known(groups))
    if understood:
        widths = {len(found) for kind, found in groups.items() if kind in understood}
        whole = {
            kind: found for kind, found in groups.items() if kind in understood or (len(found) in widths and _numbered(found))
        }
        return {kind: _ordered(kind, found, table, label) for kind, found in whole.items()}
    numbered = {kind: found for kind, found in groups.items() if len(found) > 1}
    if len(numbered) > 1:
        kinds = ", ".join(f"{short(kind)} ({len(found)})" for kind, found in list(numbered.items())[:6])
        raise InputError(
            f"{label} has columns of several kinds, {kinds}, and which is mean and which is spread is not clear: call them "
            "mean_0, mean_1, ... and logvar_0, ... (or var, std), or keep those of samples."
        )
    return {SAMPLES: table.values}


def _ordered(kind: str, found: list[tuple[int, int]], table: Table, label: str) -> NDArray[np.float64]:
    """The columns of one kind by their numbers."""
    found = sorted(found)
    if not _numbered(found):
        numbers = [number for number, _ in found]
        raise InputError(f"{label}: the columns of {short(kind)} are numbered {short(numbers)}: number them 0, 1, 2, ...")
    return np.ascontiguousarray(table.values[:, [place for _, place in found]])


def _numbered(found: list[tuple[int, int]]) -> bool:
    """Whether columns are one without a number, or numbered from 0 or 1 on."""
    numbers = sorted(number for number, _ in found)
    return numbers in ([-1], list(range(len(found))), list(range(1, len(found) + 1)))
