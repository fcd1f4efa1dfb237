"""Check settings of a dataclass that come from a file: every value against its field's type, before it is used."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from klprobe.files.construction import LARGEST_SIZE
from klprobe.types import InputError

NO_SIZES = ("decay_steps",)
"""Settings that are whole numbers, but not the size of anything."""


def check_settings(kind: type[Any], given: Any, label: str) -> dict[str, Any]:
    """Return the settings if each is a field of the dataclass `kind` and has its type; fields may be missing.

    Raises:
        InputError: a setting is anything else; the message starts with the label, and names the setting.
    """
    hints = {field.name: hint for field in dataclasses.fields(kind) for hint in [typing.get_type_hints(kind)[field.name]]}
    if not isinstance(given, dict):
        raise InputError(f"{label} is not a list of settings by name: it is damaged.")
    for name, value in given.items():
        if name not in hints:
            raise InputError(f"{label} has {name[:40]!r}, which {kind.__name__} of this version does not know: update klprobe.")
        if not fits(value, hints[name]):
            raise InputError(f"{label}: {name} is {repr(value)[:40]}, which no such setting can be: it is damaged.")
        if type(value) is int and abs(value) > LARGEST_SIZE and name not in NO_SIZES:
            raise InputError(f"{label}: {name} is {repr(value)[:40]}, beyond every network: it is damaged.")
    return given


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has this type; a whole number counts as a number too."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(hint))
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in typing.get_args(hint))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= 1e300 and math.isfinite(value)
    return type(value) is (hint if isinstance(hint, type) else None)
