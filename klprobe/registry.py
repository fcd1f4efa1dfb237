"""The folder is the registry: a name on the command line is the name of a file.

`klprobe/estimators/monte_carlo.py` is `monte-carlo`; `-` and `_` are interchangeable. A file says what it offers in
`__all__`, whose first entry is the thing itself (a class or function; its docstring's first line describes it).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.util import find_spec
from typing import Any

from klprobe.types import InputError

KINDS = ("estimators", "encoders", "trainers", "datasets", "metrics")


@cache
def names(kind: str) -> tuple[str, ...]:
    """Command-line names of one kind, sorted; imports none of them."""
    spec = find_spec(f"klprobe.{kind}")
    if kind not in KINDS or spec is None or spec.submodule_search_locations is None:
        raise InputError(f"Unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    found = (m.name for m in pkgutil.iter_modules(spec.submodule_search_locations))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


def load(kind: str, name: str) -> Any:
    """What the file of that name offers.

    Raises:
        InputError: no such file; the message lists the known names and the nearest.
    """
    wanted, known = name.replace("_", "-"), names(kind)
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"Unknown name {name!r} in {kind}; known: {', '.join(known)}.{hint}")
    module = importlib.import_module(f"klprobe.{kind}.{wanted.replace('-', '_')}")
    return getattr(module, module.__all__[0])


def describe(kind: str, name: str) -> str:
    """First line of the docstring of what `load` gives."""
    return (load(kind, name).__doc__ or "").strip().split("\n")[0]
