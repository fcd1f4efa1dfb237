"""The folder is the registry: a name on the command line is the name of a file.

`klprobe/estimators/monte_carlo.py` is `monte-carlo`; `-` and `_` are interchangeable. A file says what it offers in
`__all__`, whose first entry is the thing itself (a class or function; its docstring's first line describes it).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

from klprobe.printable import nearest, short
from klprobe.types import InputError

KINDS = ("estimators", "formats", "trainers", "datasets", "metrics")
LONGEST_TYPO = 40
"""Largest number of letters of a name for which the nearest known one is suggested; longer ones are no typing errors."""
Settings = TypeVar("Settings")


@cache
def names(kind: str) -> tuple[str, ...]:
    """List the command-line names of one kind, sorted, without importing any of them."""
    spec = find_spec(f"klprobe.{kind}")
    if kind not in KINDS or spec is None or spec.submodule_search_locations is None:
        raise InputError(f"Unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    found = (m.name for m in pkgutil.iter_modules(spec.submodule_search_locations))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


RENAMED: dict[tuple[str, str], str] = {}
"""From (kind, former name) to today's name: for one release a former name is taken, with a warning, and then it goes."""


def load(kind: str, name: str) -> Any:
    """Load the class or function in the file of that name.

    Raises:
        InputError: there is no such file, or the name is not text; the message lists the known names and the nearest.
    """
    known = names(kind)
    if not isinstance(name, str):  # the name may come from a file, and be of any type
        raise InputError(f"A name in {kind} is text; got {short(name)}. Known: {', '.join(known)}.")
    wanted = name.replace("_", "-")
    if (today := RENAMED.get((kind, wanted))) is not None:
        warnings.warn(
            f"{wanted!r} is now called {today!r}; the old name goes with the next release.", FutureWarning, stacklevel=2
        )
        wanted = today
    if wanted not in known:
        near = nearest(wanted, known) if len(wanted) <= LONGEST_TYPO else None
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"Unknown name {short(name)} in {kind}; known: {', '.join(known)}.{hint}")
    module = importlib.import_module(f"klprobe.{kind}.{wanted.replace('-', '_')}")
    return getattr(module, module.__all__[0])


def create(kind: str, spec: str) -> Any:
    """Make an instance of the dataclass that `load` gives, with the settings in the name: `celeba:size=128:strict`.

    A setting without a value is a switch turned on; `-` and `_` are interchangeable, and the order is free.

    Raises:
        InputError: there is no such file or setting, or a value has another type; the message lists the known ones.
    """
    if not isinstance(spec, str):
        load(kind, spec)  # raises InputError for a name that is not text
    name, *given = spec.split(":")
    thing = load(kind, name)
    defaults = {field.name: field.default for field in dataclasses.fields(thing)}
    settings: dict[str, Any] = {}
    for part in given:
        key, equals, text = part.partition("=")
        key = key.replace("-", "_")
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise InputError(
                f"{short(spec)}: {name} has no setting {short(key)}; its settings: {known}. Write {name}:setting=value."
            )
        settings[key] = _value(text if equals else "true", type(defaults[key]), f"{short(spec)}: {key}")
    return thing(**settings)


def _value(text: str, kind: type, label: str) -> Any:
    """Convert the text to a switch, a whole number, a number or a string."""
    try:
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise InputError(f"{label} takes {wanted}; got {short(text)}.") from error


def name_of(instance: Any) -> str:
    """Command-line name of an instance, which is that of the file of its class."""
    return type(instance).__module__.rpartition(".")[2].replace("_", "-")


def with_preset(instance: Settings, numbers: Mapping[str, Any]) -> Settings:
    """Copy the dataclass instance with a preset's values in place of all defaults."""
    settings: Any = instance
    untouched = {field.name for field in dataclasses.fields(settings) if getattr(settings, field.name) == field.default}
    return dataclasses.replace(settings, **{name: value for name, value in numbers.items() if name in untouched})


def spec(instance: Any) -> str:
    """Write the text from which `create` makes this instance, without settings that have their default values."""
    parts = [name_of(instance)]
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if value != field.default:
            parts.append(field.name if value is True else f"{field.name}={str(value).lower() if value is False else value}")
    return ":".join(parts)


def describe(kind: str, name: str) -> str:
    """First line of the docstring of the class or function in the file of that name."""
    return (load(kind, name).__doc__ or "").strip().split("\n")[0]
