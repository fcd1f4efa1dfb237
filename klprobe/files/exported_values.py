"""Small parsers for the positions of a JSON document, each of which checks a value from a file and builds it anew.

A parser takes whatever `json.loads` gives and either returns a value that it made itself, or raises `Refused`. Nothing passes
through unseen: a record has exactly the keys it lists, a list has a greatest length, a number has bounds, a text is ASCII and
matches a pattern from end to end.
"""

from __future__ import annotations

import keyword
import math
import re
import reprlib
from collections.abc import Callable
from typing import Any

import torch

Parser = Callable[[Any], Any]

LONGEST_NAME = 300
"""Largest number of letters of a name; torch joins the names of nested modules into one."""
LONGEST_LIST = 100_000
"""Largest number of nodes of a graph, or of entries of a table."""
TAKEN = frozenset(dir(torch.nn.Module()))
"""Names that a weight may not have, because it would hide an attribute that torch needs; torch makes no such weight."""
GENERATED = frozenset({"torch", "self", "math", "_operator", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"})
"""Names that torch's generated source uses itself."""


class Refused(Exception):
    """A position holds a value of another type. This is no ValueError, which readers of archives would take for damage."""


def shown(value: Any) -> str:
    """Write a value for a message: short, on one line, in ASCII."""
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value):,}"
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()


def _inside(place: object, error: Refused) -> Refused:
    return Refused(f"{place}: {error}")


def emptied(anew: Any) -> Parser:
    """A parser that gives torch this value, whatever the file says, for text that nothing is computed from."""
    return lambda value: anew


def optional(parser: Parser) -> Parser:
    """A parser of null, or of whatever the given parser takes."""
    return lambda value: None if value is None else parser(value)


def boolean(value: Any) -> bool:
    """True or false."""
    return bool(one_of(True, False)(value))


def integer(least: int, most: int) -> Parser:
    """A whole number between bounds, both included."""

    def parse(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Refused(f"{shown(value)} is no whole number from {least} to {most}")
        return value

    return parse


def number(value: Any) -> float | str:
    """A real number; the infinite ones, which mask attention, and NaN as torch spells them."""
    if type(value) is str:
        return str(one_of("Infinity", "-Infinity", "NaN")(value))
    if type(value) is int and abs(value) < 1 << 64:
        return float(value)
    if type(value) is float:
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    raise Refused(f"{shown(value)} is no number")


def finite(value: Any) -> float:
    """A real number that is not infinite."""
    parsed = number(value)
    if isinstance(parsed, str):
        raise Refused(f"{parsed} is not finite")
    return parsed


def one_of(*choices: str | int | bool) -> Parser:
    """One of a few values, as it stands here and not as it stands in the file."""

    def parse(value: Any) -> str | int | bool:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        wanted = " or ".join(map(str, choices)) if 0 < len(choices) < 5 else "a value that it may have"
        raise Refused(f"{shown(value)} is not {wanted}")

    return parse


def matching(pattern: str, what: str, longest: int = LONGEST_NAME) -> Parser:
    """ASCII text that matches from end to end."""
    compiled = re.compile(pattern, re.ASCII)

    def parse(value: Any) -> str:
        if type(value) is not str or len(value) > longest or not compiled.fullmatch(value):
            raise Refused(f"{shown(value)} is no {what}")
        return value

    return parse


_word = matching(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", "plain name")
_part = matching(r"(?!__)[A-Za-z0-9_]+", "plain name")
argument_name = matching(r"(?:(?!__)[A-Za-z_][A-Za-z0-9_]*)?", "name of an argument")
"""Name of an argument, which torch compares with those of the operator, such as `from`; empty for an unnamed one."""
label = matching(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_ ./-]*", "plain key")
"""Key of a dict that an encoder returns: never part of generated source."""
_AXES = r"(?:[A-Za-z ]|\.\.\.)*"
equation = matching(f"{_AXES}(?:,{_AXES})*(?:->{_AXES})?", "mode or equation of an operator")


def identifier(value: Any) -> str:
    """Name of a node or of an argument: torch writes it into Python source."""
    name = str(_word(value))
    if keyword.iskeyword(name) or name in GENERATED:
        raise Refused(f"{shown(name)} is no plain name")
    return name


def weight_name(value: Any) -> str:
    """Name of a parameter, buffer or constant: parts joined by dots, each an attribute of a module that torch makes.

    Torch gets all of them under a module of their own, so that none can replace an attribute of the program itself.
    """
    if type(value) is not str or len(value) > LONGEST_NAME:
        raise Refused(f"{shown(value)} is no name of a weight")
    parts = [_part(part) for part in value.split(".")]
    if any(keyword.iskeyword(part) or part in TAKEN for part in parts):
        raise Refused(f"{shown(value)} is no name of a weight")
    return ".".join(["weights", *parts])


def listed(parser: Parser, most: int = LONGEST_LIST) -> Parser:
    """A list of which every element has the same type."""

    def parse(value: Any) -> list[Any]:
        if type(value) is not list or len(value) > most:
            raise Refused(f"{shown(value)} is no list of at most {most:,}")
        anew = []
        for place, inner in enumerate(value):
            try:
                anew.append(parser(inner))
            except Refused as error:
                raise _inside(place, error) from None
        return anew

    return parse


def mapped(key: Parser, parser: Parser) -> Parser:
    """A table from keys of one type to values of one type."""

    def parse(value: Any) -> dict[Any, Any]:
        if type(value) is not dict or len(value) > LONGEST_LIST:
            raise Refused(f"{shown(value)} is no table")
        anew = {}
        for name, inner in value.items():
            try:
                anew[key(name)] = parser(inner)
            except Refused as error:
                raise _inside(shown(name), error) from None
        return anew

    return parse


def record(required: dict[str, Parser], left_out: dict[str, Parser] | None = None) -> Parser:
    """A table with these keys, each of its own type, and perhaps those of `left_out`; with no other key."""
    known = {**required, **(left_out or {})}

    def parse(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Refused(f"{shown(value)} is no record of {', '.join(required)}")
        for name in (required.keys() - value.keys()) | (value.keys() - known.keys()):
            raise Refused(f"{shown(name)} {'is missing' if name in known else 'is unknown to klprobe'}")
        anew = {}
        for name, parser in known.items():
            if name not in value:
                continue
            try:
                anew[name] = parser(value[name])
            except Refused as error:
                raise _inside(name, error) from None
        return anew

    return parse


def union(variants: dict[str, Parser]) -> Parser:
    """A table with a single key, which says of what type the value is."""
    records = {tag: record({tag: parser}) for tag, parser in variants.items()}

    def parse(value: Any) -> dict[str, Any]:
        tag = next(iter(value), None) if type(value) is dict and len(value) == 1 else None
        if tag not in records:
            raise Refused(f"{shown(value)} is none of {', '.join(records)}")
        return dict(records[tag](value))

    return parse
