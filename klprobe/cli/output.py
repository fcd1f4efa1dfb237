"""The one way to the terminal: every word on stdout and stderr goes through here, as characters that show themselves.

A file's name, and what a file says of itself, may hold anything; `klprobe.printable.visible` takes its power away. No other
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
"""Characters of a message on stderr, at most: a name out of a file may be as long as the file."""


def say(message: str) -> None:
    """One line on stderr, after the program's name."""
    cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 4 :]}"
    print("klprobe:", _shown(cut, sys.stderr), file=sys.stderr, flush=True)


def answer(*lines: object) -> None:
    """Lines on stdout, each of them one line whatever it holds."""
    emit(lambda: print("\n".join(_shown(str(line), sys.stdout) for line in lines)))


def answer_json(document: str) -> None:
    """A JSON document, whose strings escape by JSON's own rules what must not be seen (`klprobe.estimation.report.as_json`)."""
    emit(lambda: print(document))


def emit(write: Callable[[], Any]) -> None:
    """Print the answer; that its reader has gone away is no reason to stop short of the files."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()


def silence_stdout() -> None:
    """Send what is left of stdout nowhere: its reader has gone, as in `klprobe list | head -1`."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _shown(line: str, stream: TextIO) -> str:
    """The line as the stream can show it: plain signs for mathematical ones where it is not UTF-8, escapes for the rest."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    if encoding.lower().replace("-", "") != "utf8":
        line = line.translate(PLAIN)
    return visible(line).encode(encoding, "backslashreplace").decode(encoding)
