"""Show a report on one terminal screen: the answer first, then every estimate, then failures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from klprobe.estimation.report import Report
from klprobe.printable import visible
from klprobe.rendering import wording

VERDICT_STYLE = {
    "resolved": "bold green",
    "floor-limited": "bold yellow",
    "methods-disagree": "bold red",
    "impossible": "bold red",
}
WIDTH_WITHOUT_TERMINAL = 100
COLUMNS = {"method": "left", "quantity": "left", "of what": "left", "bound": "left", "nats": "right", "± error": "left"}
OPTIONAL_COLUMNS = ("seconds", "nats/dim")
"""Columns that are left out, the last one first, where the terminal is too narrow."""

Say = Callable[..., Text]


def print_report(report: Report, file: TextIO) -> None:
    """Print one screen of text; colours only on a terminal, plain ASCII where the stream's encoding is not UTF-8."""
    width = None if file.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    if file.isatty():
        console.print(render(report))
        return
    with console.capture() as text:
        console.print(render(report))
    file.writelines(f"{line.rstrip()}\n" for line in text.get().splitlines())


def render(report: Report) -> Screen:
    """Make a rich renderable that fits the width and the encoding of the console on which it is printed."""
    return Screen(report)


@dataclasses.dataclass(frozen=True)
class Screen:
    """A report that rich can print."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts of the screen, from the answer to the failures."""
        say = _say_ascii if options.ascii_only else _say
        yield from _answer(self.report, say)
        if self.report.estimates:
            yield Text()
            yield _fitting_table(self.report, say, console, options)
            shown = {e.quantity for e in wording.main_estimates(self.report)}
            hidden = sorted({e.quantity for e in self.report.estimates} - shown)
            note = f"; not shown here: {', '.join(hidden)}" if hidden else ""
            unsided = any(e.bound == "none" for e in wording.main_estimates(self.report))
            alone = " (bound none: of draws, not the fit)" if unsided else ""
            yield say(
                f"±: one standard error{alone}; *: an end of the bracket; intervals allow for all methods' errors{note}", "dim"
            )
        yield Text()
        yield say(wording.identity(self.report))
        if holes := wording.holes(self.report):
            yield say(holes)
        if codebook := wording.codebook(self.report):
            yield say(codebook)
        yield from _parts(self.report, say)
        yield from _failures(self.report, say)


def _say(text: str, style: str = "") -> Text:
    """Print one line of text; text from outside is never markup, never moves the cursor and never begins a line."""
    return Text(visible(text), style)


def _say_ascii(text: str, style: str = "") -> Text:
    return _say(wording.ascii_only(text), style)


def _answer(report: Report, say: Say) -> Iterator[Text | Padding]:
    yield say(wording.TITLE, "bold")
    yield say(wording.UNIT)
    yield say(f"Given: {wording.source(report)}.")
    yield Text()
    for target in wording.TARGETS:
        label = say(f"{target:<11} {wording.SYMBOL[target]:<10} ")
        yield Text.assemble(label, say(wording.headline(report, target), "bold"))
        said = Text("\n").join([say(wording.meaning(report, target)), say(wording.sides(report, target))])
        yield Padding(said, (0, 0, 0, 12))
    yield Text()
    verdict = say(f"Verdict: {report.verdict}", VERDICT_STYLE[report.verdict])
    yield Text.assemble(verdict, say(f" - {wording.VERDICT_MEANING[report.verdict]}"))
    yield Padding(say(report.advice), (0, 0, 0, 2))


def _fitting_table(report: Report, say: Say, console: Console, options: ConsoleOptions) -> Table:
    """Make the table with as many of the optional columns as fit into the width."""
    for count in range(len(OPTIONAL_COLUMNS), 0, -1):
        table = _table(report, say, OPTIONAL_COLUMNS[:count])
        if Measurement.get(console, options.update(max_width=10_000), table).maximum <= options.max_width:
            return table
    return _table(report, say, ())


def _table(report: Report, say: Say, optional: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name, justify in [*COLUMNS.items(), *((name, "right") for name in optional)]:
        table.add_column(say(name), justify=justify, overflow="fold")  # type: ignore[arg-type]
    previous: str | None = None
    for e in wording.main_estimates(report):
        number = wording.number(e.value, e.std_error)
        first = e.method != previous  # the time is that of the whole method, and is shown once
        extra = {"seconds": f"{e.seconds:.1f}" if first else "", "nats/dim": wording.number(e.value / report.latent_dim).value}
        cells = [
            e.method if first else "",
            e.quantity,
            e.target,
            wording.BOUND_NAME[e.bound] + (" *" if wording.sets_bracket(report, e) else ""),
            number.value,
            f"± {number.error}" if number.error else "",
            *(extra[name] for name in optional),
        ]
        table.add_row(*(say(cell) for cell in cells))
        previous = e.method
    return table


def _parts(report: Report, say: Say) -> Iterator[Text | Table]:
    """Make the table by part, where there are parts."""
    if not report.parts:
        return
    yield Text()
    yield say(wording.PARTS_TITLE, "bold")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in wording.PARTS_COLUMNS:
        table.add_column(say(name))
    for row in wording.parts(report):
        table.add_row(*map(say, row))
    yield table
    yield say(wording.parts_note(report), "dim")
    yield Text()


def _failures(report: Report, say: Say) -> Iterator[Text | Padding]:
    failed = [check for check in report.checks if not check.passed]
    if report.checks and not failed:
        yield say(f"Checks: all {len(report.checks)} passed.")
    if failed:
        numbers = [(sum(check.severity == kind for check in failed), kind) for kind in ("error", "warning", "unknown")]
        count = [f"{n} {kind}{'s' if n > 1 and kind != 'unknown' else ''}" for n, kind in numbers if n]
        yield say(f"Checks: {' and '.join(count)}; {len(report.checks) - len(failed)} passed", "bold")
    for check in sorted(failed, key=lambda check: check.severity):
        style = "bold red" if check.severity == "error" else "yellow"
        yield Padding(Text.assemble(say(check.severity, style), say(f" {check.name}: {check.message}")), (0, 0, 0, 2))
    for title, entries in wording.missing(report).items():
        if entries:
            yield say(title, "bold")
        for name, reason in entries:
            yield Padding(say(f"{name}: {reason}"), (0, 0, 0, 2))
