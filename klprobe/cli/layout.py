"""Break help texts into lines that fit the terminal."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable

ITEM = re.compile(r"klprobe |\d+\. ")
"""Beginning of a docstring's line that stays a line of its own: a command, or an item of a numbered list."""
NARROWEST = 40
"""Smallest number of columns of a help text, as in tyro, which draws the boxes of flags."""


def width() -> int:
    """Number of columns of the terminal, or of $COLUMNS."""
    return max(NARROWEST, shutil.get_terminal_size().columns)


def paragraphs(text: str) -> list[str]:
    """Break a docstring into lines of the terminal's width, whatever the line breaks of the source; keep paragraphs."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        blocks: list[str] = []
        for line in map(str.strip, paragraph.splitlines()):
            if blocks and not ITEM.match(line):
                blocks[-1] += f" {line}"
            else:
                blocks.append(line)
        if lines:
            lines.append("")
        for block in blocks:
            hanging = "    " if ITEM.match(block) else ""
            lines += textwrap.wrap(block, width(), subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
    return lines


def table(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Make one row for each name: the name, and its text in a column of its own."""
    rows = list(rows)
    column = max(len(name) for name, _ in rows) + 4
    return [
        line
        for name, text in rows
        for line in textwrap.wrap(
            text,
            width(),
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
