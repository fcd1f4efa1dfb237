"""The only functions that print: every line on stdout and stderr goes through them, with control characters escaped.

A file's name, or text in a file, may hold any characters, and `klprobe.printable.visible` escapes the harmful ones. No other
file of this package prints; what rich draws (`klprobe.rendering.terminal`, `klprobe.cli.progress`) is made visible there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from klprobe.printable import visible
from klprobe.rendering.wording import PLAIN

LONGEST = 2000
"""Largest number of characters of a message on stderr, since a name in a file may be as long as the file."""


def say(message: str) -> None:
    """Print one line on stderr, after the program's name."""
    cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 4 :]}"
    print("klprobe:", _shown(cut, sys.stderr), file=sys.stderr, flush=True)


def answer(*lines: object) -> None:
    """Print lines on stdout, each of which stays one line whatever it holds."""
    emit(lambda: print("\n".join(_shown(str(line), sys.stdout) for line in lines)))


def answer_json(document: str) -> None:
    """Print a JSON document, in which `klprobe.estimation.report.as_json` has escaped control characters."""
    emit(lambda: print(document))


def emit(write: Callable[[], Any]) -> None:
    """Print the answer; when its reader has ended, go on, so that the files are written."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()


def silence_stdout() -> None:
    """Discard the rest of stdout, because its reader has ended, as in `klprobe list | head -1`."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _shown(line: str, stream: TextIO) -> str:
    """Convert the line for the stream: where it is not UTF-8, plain signs for mathematical ones, and escapes for the rest."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    if encoding.lower().replace("-", "") != "utf8":
        line = line.translate(PLAIN)
    return visible(line).encode(encoding, "backslashreplace").decode(encoding)
