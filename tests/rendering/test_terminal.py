"""The terminal's screen: complete, one screen tall, and readable on every stream."""

import io
import re

import pytest
from rich.console import Console

from klprobe.rendering.terminal import print_report, render


class Stream(io.TextIOWrapper):
    """A file of a given encoding that may be a terminal."""

    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def printed(report, **stream):
    file = Stream(**stream)
    print_report(report, file)
    return file.text()


def test_the_answer_comes_before_the_table_and_the_failures_after_it(report_of):
    text = printed(report_of("impossible"))
    order = [
        "population",
        "empirical",
        "Verdict: impossible",
        "method ",
        "average KL 5.140",
        "error mutual-information",
        "\n  warning",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_every_estimate_check_and_failure_is_on_the_screen(any_report):
    text = printed(any_report)
    flat = " ".join(text.split())
    for target in ("population", "empirical"):
        assert re.search(rf"^{target} +KL\[", text, re.M)
    for estimate in any_report.estimates:
        assert estimate.method in text
        assert estimate.quantity in text
    if "\x1b" not in any_report.advice:
        for check in any_report.checks:
            assert (f"{check.name}: {' '.join(check.message.split())}" in flat) == (not check.passed)
        for missing in any_report.not_done:
            assert f"{missing.method}: {missing.reason}" in flat


def test_a_full_report_fits_one_screen(any_report):
    lines = printed(any_report).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


def test_eighty_columns_hold_the_whole_table(report_of, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(report_of("floor_limited"))
    assert "nats/dim" in text
    assert "seconds" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_narrow_terminal_loses_columns_but_no_numbers(report_of, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    text = printed(report_of("floor_limited"))
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    joined = text.replace("\n", "")
    assert "-14.30" in joined or width == 20


def test_colours_appear_on_a_terminal_only(any_report):
    assert "\x1b[" in printed(any_report, terminal=True)
    assert "\x1b" not in printed(any_report)


def test_a_stream_without_unicode_gets_plain_ascii(any_report):
    assert "+-" in printed(any_report, encoding="ascii") or not any_report.estimates
    assert printed(any_report, encoding="latin-1").isascii()


def test_text_from_outside_is_neither_markup_nor_cursor_movement(report_of):
    text = printed(report_of("hostile"), terminal=True)
    assert "[red]x[/red]" in text
    assert "\x1b[31mx" not in text
    assert "\\x1b[31m" in text


def test_the_report_is_a_rich_renderable_for_any_console(report_of):
    console = Console(file=io.StringIO(), width=90)
    console.print(render(report_of("easy")))
    assert "Verdict: resolved" in console.file.getvalue()
