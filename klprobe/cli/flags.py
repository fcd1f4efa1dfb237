"""Make flags from dataclasses, through tyro; an error is one line, which names the nearest flag."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from klprobe.cli.field_help import registry
from klprobe.cli.layout import paragraphs
from klprobe.cli.output import answer
from klprobe.printable import nearest
from klprobe.types import InputError

T = TypeVar("T")
MARKERS = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
FLAG = re.compile(r"--[a-z][\w.-]*")
WRONG_TYPE = re.compile(
    r"Error parsing (--\S+): no type matching (?:\{None\}\|)?(\S+) could be instantiated from \[(.*?)\](?:\. |\.?$)"
)
WRONG_CHOICE = re.compile(r"[Ii]nvalid choice '(.*?)' for argument '(--\S+)'\. Expected one of (\(.*?\))")
TYPES = {"INT": "a whole number", "FLOAT": "a number"}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def parse(kind: type[T], arguments: Sequence[str], *, prog: str) -> T:
    """Make an instance of the dataclass `kind` from command-line flags; `-` and `_` are interchangeable.

    Raises:
        InputError: a flag is unknown (the message names the nearest), or a value is missing or wrong.
        SystemExit: after `--help`.
    """
    for flag, value in itertools.pairwise(["", *arguments]):
        if not value or (value.startswith("--") and value.endswith("=")):
            raise InputError(
                f"{flag if value == '' else value[:-1]} is given without a value: give one, or leave the flag out."
            )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return _cli(kind, prog, arguments)
    except SystemExit as stop:
        if stop.code != 2:
            answer(*paragraphs(kind.__doc__ or ""), "")
            _cli(kind, prog, arguments)  # this prints the flags, and exits
            raise
    known = _known_flags(kind, prog)
    for token in arguments:
        name = token.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            near = nearest(name, sorted(known), cutoff=0.5)
            hint = f", did you mean {near}?" if near else "."
            raise InputError(f"unknown flag {name}{hint} See {prog} --help.")
    raise InputError(f"{_first_section(said)} See {prog} --help.")


def _cli(kind: type[T], prog: str, arguments: Sequence[str]) -> T:
    """Parse the arguments by tyro, which prints the help of the flags; `parse` prints the description."""
    with registry():
        return tyro.cli(kind, prog=prog, args=arguments, config=MARKERS, description="")


def _known_flags(kind: type, prog: str) -> set[str]:
    """List the flags that the help shows."""
    printed = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
        _cli(kind, prog, ["--help"])
    return {flag for line in _lines(printed) for flag in FLAG.findall(line.split("  ")[0])}


def _first_section(printed: io.StringIO) -> str:
    """Read tyro's message between its title and the next rule, as one line; its box depends on the encoding."""
    title, *lines = _lines(printed)
    sections = [
        " ".join(group) for is_rule, group in itertools.groupby(lines, lambda line: set(line) <= set("─-")) if not is_rule
    ]
    said = sections[0].partition(" Argument helptext")[0]
    if wrong := WRONG_TYPE.match(said):
        return f"{wrong[1]} takes {TYPES.get(wrong[2], wrong[2])}; got {wrong[3]}."
    if "Required" in title:
        return f"needed and not given: {', '.join(FLAG.findall(said))}."
    if choice := WRONG_CHOICE.match(said):
        near = nearest(choice[1], re.findall(r"'([^']+)'", choice[3]))
        hint = f", did you mean {near}?" if near else "."
        return f"{choice[2]} is one of {choice[3].strip('()')}; got {choice[1]!r}{hint}"
    if "Unrecognized" in title:
        return f"not understood: {said.partition(':')[2].strip()}."
    return said.removesuffix(".") + "."


def _lines(printed: io.StringIO) -> list[str]:
    """Split a text into lines that are not empty, without colours and the sides of the box."""
    lines = [line.strip("│╭╮╰╯ ") for line in ANSI.sub("", printed.getvalue()).splitlines()]
    return [line for line in lines if line]
