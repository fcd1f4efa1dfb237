"""Untrusted JSON, which has to be strict, shallow and small, so that it can be visited, printed and written again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from klprobe.files.plain import check_plain
from klprobe.types import InputError

LONGEST = 1 << 20
"""Largest number of letters of a document; settings of a network take a few thousand."""
DEEPEST = 32
"""Largest depth of nested lists and objects; settings have three."""


def parse(text: str, label: str) -> Any:
    """Read the value that the text holds.

    Raises:
        InputError: the text is not JSON, has NaN or infinity, a key twice or half a letter, or is too long or too deep.
    """
    if len(text) > LONGEST:
        raise InputError(f"{label} has {len(text):,} letters, more than the {LONGEST:,} that settings can take.")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        text.encode()
        _check(value)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{label} is not JSON that klprobe reads ({said[:200]}).") from error
    return value


def read(path: Path, label: str) -> Any:
    """Read the value that a file holds; InputError as for `parse`, OSError where there is no file."""
    check_plain(path, label)
    with path.open("rb") as file:
        content = file.read(4 * LONGEST + 1)
    try:
        return parse(content.decode(), label)
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is not text ({error}).") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is beyond every number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _check(value: Any, depth: int = 0) -> None:
    """Raise ValueError unless the value is shallow and each string in it can be written as UTF-8."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, inner in value.items():
            key.encode()
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
