"""The only functions that print: every line on stdout and stderr goes through them, with control characters escaped.

A file's name, or text in a file, may hold any characters, and `klprobe.printable.visible` escapes the harmful ones. No other
file of this package prints; what rich draws (`klprobe.rendering.terminal`, `klprobe.cli.progress`) is made visible there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from klprobe.printable import visible
from klprobe.rendering.wording import PLAIN
from klprobe.types import InputError

LONGEST = 2000
"""Largest number of characters of a message on stderr, since a name in a file may be as long as the file."""


def open_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr streams that lead nowhere.

    Else the first files that it opens would take their places, and receive what is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 -- it stays open as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def say(message: str) -> None:
    """Print one line on stderr, after the program's name; where stderr takes no more, nobody can be told."""
    cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 4 :]}"
    try:
        print("klprobe:", _shown(cut, sys.stderr), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def answer(*lines: object) -> None:
    """Print lines on stdout, each of which stays one line whatever it holds."""
    emit(lambda: print("\n".join(_shown(str(line), sys.stdout) for line in lines)))


def answer_json(document: str) -> None:
    """Print a JSON document, in which `klprobe.estimation.report.as_json` has escaped control characters."""
    emit(lambda: print(document))


def emit(write: Callable[[], Any]) -> None:
    """Print the answer. That its reader has ended, as in `klprobe list | head -1`, is not an error.

    Raises:
        InputError: stdout takes no more, as on a full disk.
    """
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        raise InputError(f"The answer could not be printed: {error.strerror}. Send it to a place that has room.") from error


def give(show: Callable[[], None], write: Callable[[Path], object], out: Path | None, what: str) -> None:
    """Files first, then the terminal: neither is lost for the other's sake.

    Args:
        show: Prints the answer.
        write: Writes its files into a folder.
        out: The folder; None where no files are wanted.
        what: Said on stderr once the files are there, as "report".
    Raises:
        InputError: the files could not be written; or there are none, and the answer could not be printed.
        KeyboardInterrupt: the user stopped the writing; the answer was printed all the same.
    """
    failure: BaseException | None = None
    try:
        if out is not None:
            write(out)
    except InputError as error:
        failure = error
    except KeyboardInterrupt:
        failure = KeyboardInterrupt(
            "stopped while files were being written: all of them are of this answer, or all as they were."
        )
    try:
        show()
    except InputError as error:
        if out is None or failure is not None:
            raise
        say(str(error))
    if failure is not None:
        raise failure
    if out is not None:
        say(f"{what} written to {out}")


def silence(stream: TextIO) -> None:
    """Send what is left of the stream nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _shown(line: str, stream: TextIO) -> str:
    """Convert the line for the stream: where it is not UTF-8, plain signs for mathematical ones, and escapes for the rest."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    if encoding.lower().replace("-", "") != "utf8":
        line = line.translate(PLAIN)
    return visible(line).encode(encoding, "backslashreplace").decode(encoding)
