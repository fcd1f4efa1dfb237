"""Write a report as files in one folder: report.json, report.csv, report.html, report-estimates.png and so on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from klprobe.estimation.report import Report
from klprobe.rendering import figures
from klprobe.rendering.html import page
from klprobe.types import InputError


def save(report: Report, out: Path) -> list[Path]:
    """Write every file of the report into the folder `out`, which is made when it is not there.

    Each file appears whole or not at all. The data come first, so that they are there even if a figure fails. Figures of an
    older report that this one does not have are removed, so that nobody reads them as part of it.

    Returns:
        The files, report.json first.
    Raises:
        InputError: `out` cannot be written to; the message names it and the reason.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = [write_whole(out / name, content) for name, content in _contents(report)]
        for path in (out / name for plot in figures.NAMES for name in _names(plot)):
            if path not in written:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write the report into {out}: {error}. Give --out another folder.") from error
    return written


def _contents(report: Report) -> Iterator[tuple[str, bytes]]:
    yield "report.json", report.to_json().encode()
    yield "report.csv", report.to_pandas().to_csv(index=False, lineterminator="\n").encode()
    plots = figures.draw(report)
    for plot in plots:
        yield from zip(_names(plot.name), (plot.png, plot.svg), strict=True)
    yield "report.html", page(report, plots).encode(errors="replace")  # a file's name may hold bytes that are not text


def _names(plot: str) -> tuple[str, str]:
    return f"report-{plot}.png", f"report-{plot}.svg"


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that it appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
