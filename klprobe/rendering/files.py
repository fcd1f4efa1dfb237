"""Write a report as files in one folder: report.json, report.csv, report.html, report-estimates.png and so on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from klprobe.estimation.report import Report
from klprobe.rendering import figures
from klprobe.rendering.html import page
from klprobe.runtime import interrupts
from klprobe.types import InputError, RunWarning


def save(report: Report, out: Path) -> list[Path]:
    """Write every file of the report into the folder `out`, which is made when it is not there.

    Figures of an older report that this one does not have are removed, so that nobody reads them as its own.

    Returns:
        The files, report.json first.
    Raises:
        InputError: `out` cannot be written to; the message names it and the reason.
    """
    return write_together(out, _contents(report), [name for plot in figures.NAMES for name in _names(plot)])


def _contents(report: Report) -> Iterator[tuple[str, bytes]]:
    yield "report.json", report.to_json().encode()
    yield "report.csv", report.to_pandas().to_csv(index=False, lineterminator="\n").encode()
    plots = _drawn(report)
    for plot in plots:
        yield from zip(_names(plot.name), (plot.png, plot.svg), strict=True)
    yield "report.html", page(report, plots).encode(errors="replace")  # a file's name may hold bytes that are not text


def _names(plot: str) -> tuple[str, str]:
    return f"report-{plot}.png", f"report-{plot}.svg"


def _drawn(report: Report) -> list[figures.Plot]:
    """The figures; a fault in drawing them is told, and does not cost the numbers."""
    try:
        return list(figures.draw(report))
    except Exception as error:  # whatever it is: a run of hours is worth more than a figure
        warnings.warn(f"the figures could not be drawn ({type(error).__name__}: {error}).", RunWarning, stacklevel=2)
        return []


def write_together(out: Path, contents: Iterable[tuple[str, bytes]], ours: Collection[str] = ()) -> list[Path]:
    """Write files into a folder so that they change together: all are written under other names first, then renamed.

    Ctrl-C before the first is renamed leaves the folder as it was; after that it waits until the last one is.

    Args:
        out: The folder, made where it is missing.
        contents: Names and contents.
        ours: Names of files of an older answer; those that `contents` does not have are removed.
    Returns:
        The files, in the order of `contents`.
    Raises:
        InputError: the folder cannot be written to; nothing in it has changed, unless a file could not be renamed.
    """
    written: list[tuple[Path, Path]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents:
            written.append((out / f".{name}.{os.getpid()}", out / name))
            written[-1][0].write_bytes(content)
        with interrupts.held_back(insist=False):
            for beside, path in written:
                beside.replace(path)
            for path in {out / name for name in ours} - {path for _, path in written}:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write into {out}: {error}. Give --out another folder.") from error
    finally:
        for beside, _ in written:
            beside.unlink(missing_ok=True)
    return [path for _, path in written]
