"""The program `klprobe`: one file per command; parsing, printing and exit codes happen in this package and nowhere else.

Nothing heavy is imported before a command needs it, so that `klprobe --help` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

import klprobe
from klprobe.cli.layout import paragraphs, table
from klprobe.cli.output import answer, open_streams, say, silence
from klprobe.printable import nearest, short
from klprobe.runtime import heartbeat, interrupts, kernels
from klprobe.types import InputError, RunWarning

__all__ = ["main"]

ANSWERED, UNUSABLE, CHECK_FAILED, INTERRUPTED = 0, 2, 3, 130
COMMANDS = {
    "demo": "Estimate the KL of the small VAE that comes with the package, on its data; needs no flags and no network.",
    "estimate": "Estimate KL[q(z)||p(z)] of a trained encoder: klprobe estimate --checkpoint PATH",
    "holes": "Find where the prior draws codes that no data point encodes to: klprobe holes --checkpoint PATH",
    "train": "Train a published system: klprobe train vae --dataset mnist --steps 10000 --out DIR",
    "sample": "Write a picture of samples of a trained system: klprobe sample --checkpoint PATH",
    "reconstruct": "Write a picture of data and their reconstructions: klprobe reconstruct --checkpoint PATH",
    "evaluate": "Measure the sample quality of a trained system: klprobe evaluate --checkpoint PATH --metrics fid ms-ssim",
    "compare": "Compare the KL and the sample quality of several checkpoints: klprobe compare PATH PATH",
    "synthetic": "Test a classifier on Gaussians whose KL is known: klprobe synthetic estimate, or minimize",
    "data": "List, download or show data sets: klprobe data list, or fetch NAME, or show NAME",
    "selftest": "Hold this machine's kernels, threads and GPU against known KLs; needs no flags and no network.",
    "list": "List the methods, systems, data sets, checkpoint formats and metrics, one line each.",
}
MORE = {"klprobe COMMAND --help": "show the flags of a command", "klprobe --version": "show the version"}
EXIT_CODES = """Exit codes: 0 an answer was given; 2 the input was unusable; 3 a check of the answer failed; 130 stopped by
Ctrl-C, SIGTERM or SIGHUP before there was an answer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 0 an answer, 2 unusable input, 3 a failed check, 130 Ctrl-C before any answer.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    open_streams()
    kernels.choose()
    code = _run(argv)
    if heartbeat.any_lost():  # the farewell between processes, at the interpreter's end, would wait for the lost one
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def _run(argv: Sequence[str] | None) -> int:
    """What went wrong is one line on stderr and an exit code."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a command here, and its module hides the builtin
    try:
        with interrupts.as_ctrl_c(), warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # libraries' warnings are not for the reader of an answer
            warnings.simplefilter("always", RunWarning)
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            return _dispatch(arguments)
    except BrokenPipeError:
        silence(sys.stdout)
        return ANSWERED
    except (InputError, OSError, MemoryError) as error:
        what = "out of memory" if isinstance(error, MemoryError) else str(error)
        say(" ".join(part.strip(" ") for part in what.split("\n") if part))  # some libraries say it in several lines
        return UNUSABLE
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped before there was an answer.")
        return INTERRUPTED
    except SystemExit as stop:  # a command's --help
        return stop.code if isinstance(stop.code, int) else ANSWERED


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help", "help"):
        about = paragraphs(str(klprobe.__doc__).split("\n\n")[0])
        answer(*about, "", "usage: klprobe COMMAND [flags]", "", *table(COMMANDS.items()))
        answer("", *table(MORE.items()), "", *paragraphs(EXIT_CODES))
        return ANSWERED
    if command == "--version":
        answer(f"klprobe {klprobe.__version__}")
        return ANSWERED
    if command not in COMMANDS:
        near = nearest(command, COMMANDS)
        hint = f" Did you mean {near!r}?" if near else ""
        given = f"unknown command {short(command)}" if command else "give a command"
        raise InputError(f"{given}: {', '.join(COMMANDS)}.{hint} See klprobe --help.")
    run = importlib.import_module(f"klprobe.cli.{command}").run
    return int(run(arguments[1:]))
