"""Symbolic sizes of a `torch.export` file: torch evaluates their text as Python, so it is parsed here and written anew.

Grammar (what sympy calls srepr):

    size   = Symbol('s0', integer=True, ...) | Integer(2) | Rational(1, 2) | Float('0.5', precision=53) | true | false
           | FUNCTION(size, ...) | Pow(size, Integer(2))

Values stay small: a symbol counts as degree 1, products add degrees, and a power needs a symbol below and a small exponent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from klprobe.files.exported_values import Refused, matching, shown

LONGEST = 20_000
"""Largest number of letters of one expression."""
DEEPEST = 50
HIGHEST_DEGREE = 16
HIGHEST_EXPONENT = 8
SYMBOL = r"(?:s|u|zf|zuf)(?:0|[1-9][0-9]{0,5})"
"""Pattern of sizes and numbers that torch names itself, whether they come from an input or not."""
ASSUMPTIONS = frozenset(
    {"integer", "positive", "nonnegative", "negative", "zero", "nonzero", "real", "extended_real", "finite"}
)
NAMES = """
    Add Mul Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv ModularIndexing IntTrueDiv FloatTrueDiv ToFloat FloorToInt CeilToInt
    TruncToInt TruncToFloat RoundToInt Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not
"""
FUNCTIONS = frozenset(NAMES.split())
TOKEN = re.compile(r"\s*(?:('[^'\\]*')|([A-Za-z_][A-Za-z0-9_]*)|(-?[0-9]+)|([(),=]))", re.ASCII)

symbol_name = matching(SYMBOL, "symbolic size")
_decimal = matching(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?", "number")


class _Reader:
    """The tokens of one expression, taken one by one."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens = text, list(_tokens(text))
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.peek()
        if not token or (expected and token not in expected):
            raise Refused(f"{shown(self.text)} is no symbolic size")
        self.place += 1
        return token

    def quoted(self) -> str:
        token = self.take()
        if token[0] != "'":
            raise Refused(f"{shown(token)} is no quoted part of a symbolic size")
        return token[1:-1]

    def whole(self, least: int = -(1 << 63), most: int = (1 << 63) - 1) -> int:
        token = self.take()
        if not re.fullmatch(r"-?[0-9]{1,19}", token, re.ASCII) or not least <= int(token) <= most:
            raise Refused(f"{shown(token)} is no whole number of a symbolic size")
        return int(token)


def size(value: Any) -> str:
    """A symbolic size, written anew."""
    if type(value) is not str or len(value) > LONGEST:
        raise Refused("a symbolic size is no short text")
    return _anew(value)


def is_symbol(name: str) -> bool:
    """Whether a string is the name of one size, and nothing more."""
    return bool(re.fullmatch(SYMBOL, name, re.ASCII))


@lru_cache(maxsize=1000)
def _anew(value: str) -> str:
    reader = _Reader(value)
    text, _ = _size(reader, 0)
    if reader.peek():
        raise Refused(f"{shown(value)} is no symbolic size")
    return text


def _tokens(text: str) -> Iterator[str]:
    place, text = 0, text.rstrip(" ")
    while place < len(text):
        found = TOKEN.match(text, place)
        if not found:
            raise Refused(f"{shown(text)} is no symbolic size")
        yield found[found.lastindex or 0]
        place = found.end()


def _size(reader: _Reader, depth: int) -> tuple[str, int]:
    """One expression written anew, and its degree in the symbols."""
    name = reader.take()
    if depth > DEEPEST:
        raise Refused("a symbolic size is nested too deeply")
    if name in ("true", "false"):
        return name, 0
    reader.take("(")
    if name == "Symbol":
        return f"Symbol({_symbol(reader)})", 1
    if name in ("Integer", "Rational", "Float"):
        return f"{name}({_number(reader, name)})", 0
    if name == "Pow":
        return _power(reader, depth)
    if name not in FUNCTIONS:
        raise Refused(f"{shown(name)} is no function of symbolic sizes")
    inner = [_size(reader, depth + 1)]
    while reader.take(",", ")") == ",":
        inner.append(_size(reader, depth + 1))
    degrees = [degree for _, degree in inner]
    degree = sum(degrees) if name == "Mul" else max(degrees)
    if degree > HIGHEST_DEGREE:
        raise Refused("a symbolic size is a product of too many sizes")
    return f"{name}({', '.join(text for text, _ in inner)})", degree


def _symbol(reader: _Reader) -> str:
    parts = [repr(symbol_name(reader.quoted()))]
    while reader.take(",", ")") == ",":
        assumption = reader.take(*ASSUMPTIONS)
        reader.take("=")
        parts.append(f"{assumption}={reader.take('True', 'False')}")
    return ", ".join(parts)


def _number(reader: _Reader, kind: str) -> str:
    if kind == "Float":
        text = repr(_decimal(reader.quoted()))
        for expected in (",", "precision", "="):
            reader.take(expected)
        text += f", precision={reader.whole(1, 64)}"
    else:
        text = str(reader.whole())
        if kind == "Rational":
            reader.take(",")
            text += f", {reader.whole(least=1)}"
    reader.take(")")
    return text


def _power(reader: _Reader, depth: int) -> tuple[str, int]:
    base, degree = _size(reader, depth + 1)
    for expected in (",", "Integer", "("):
        reader.take(expected)
    exponent = reader.whole(-HIGHEST_EXPONENT, HIGHEST_EXPONENT)
    reader.take(")")
    reader.take(")")
    if not 0 < degree * max(abs(exponent), 1) <= HIGHEST_DEGREE:
        raise Refused("a power in a symbolic size is too high")
    return f"Pow({base}, Integer({exponent}))", degree * max(abs(exponent), 1)
