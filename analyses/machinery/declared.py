"""Which items there are: whatever stands in a file of a paper's folder as `ITEM`, or as `PAGE`; no list is kept by hand."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from analyses.machinery.cells import Item

FOLDERS = ("dmvi", "agan", "bms", "unify", "ours")
"""In the order in which they are shown; that every folder of items is here is tested."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """An item whose own script runs it and keeps its records, in a form of its own.

    Attributes:
        order, title, paper: As of an `Item`.
        commands: Modules in its folder; then or, between them.
        headline: What was found, or what says it from the records, with links.
        records: File in the folder's `results/records`, or why there is none.
    """

    order: int
    title: str
    paper: str
    commands: str
    headline: str | Callable[[], str]
    records: str


def declared() -> dict[str, Item | Page]:
    """Every item by its module, as `dmvi.table_1`: folder by folder, each by its order."""
    found: list[tuple[int, int, str, Item | Page]] = []
    for place, folder in enumerate(FOLDERS):
        package = importlib.import_module(f"analyses.{folder}")
        for module in pkgutil.iter_modules(package.__path__):
            names = vars(importlib.import_module(f"analyses.{folder}.{module.name}"))
            item = names.get("ITEM") or names.get("PAGE")
            if item is not None:
                found.append((place, item.order, f"{folder}.{module.name}", item))
    return {name: item for _, _, name, item in sorted(found, key=lambda one: one[:3])}


def items() -> dict[str, Item]:
    """Those that are made of cells, by module."""
    return {name: item for name, item in declared().items() if isinstance(item, Item)}
