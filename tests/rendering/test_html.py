"""The page and the notebook fragment: self-contained, escaped, accessible, and whole in a real browser."""

import base64
import html.parser
import itertools
import json
import re

import pytest

from klprobe.printable import visible
from klprobe.rendering.html import fragment, page

VOID = {"meta", "link", "img", "br"}


class Reader(html.parser.HTMLParser):
    """Checks nesting while it collects tags and the text outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_page_and_fragment_are_well_formed_and_say_the_answer_first(any_report, plots_of, name):
    for text in (page(any_report, plots_of(name)), fragment(any_report, plots_of(name))):
        flat = " ".join(Reader(text).text.split())
        assert flat.index("population KL[q||p]") < flat.index(f"Verdict: {any_report.verdict}")
        for estimate in any_report.estimates:
            assert estimate.method in flat
        for missing in any_report.not_done:
            assert " ".join(visible(missing.reason, lines=True).split()) in flat


def test_nothing_in_the_page_points_outside_of_it(any_report, plots_of, name):
    text = page(any_report, plots_of(name))
    for tag, attrs in Reader(text).tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(", text)


def test_text_from_outside_stays_text(report_of):
    for text in (page(report_of("hostile"), ()), fragment(report_of("hostile"), ())):
        assert not Reader(text).all("script")
        assert "<script>alert(1)</script>" in Reader(text).text
        assert "{{7*7}}" in text


def test_every_figure_is_embedded_with_an_alternative_text(report_of, plots_of):
    plots = plots_of("floor_limited")
    images = Reader(page(report_of("floor_limited"), plots)).all("img")
    assert [image["alt"] for image in images] == [plot.alt for plot in plots]
    for image in images:
        assert base64.b64decode(image["src"].partition(",")[2]).lstrip().startswith(b"<?xml")


def test_headings_descend_one_level_at_a_time_and_tables_have_captions(any_report):
    reader = Reader(page(any_report, ()))
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert len(reader.all("caption")) == len(reader.all("table")) > 0
    assert reader.all("html") == [{"lang": "en"}]
    assert all("scope" in attrs for attrs in reader.all("th"))


def test_the_page_explains_every_bound_it_shows(report_of):
    text = Reader(page(report_of("floor_limited"), ())).text
    for meaning in ("the truth is this or more", "the truth is this or less", "all its uncertainty", "never enters a bracket"):
        assert text.count(meaning) == 1


def test_the_page_carries_the_document_to_download(report_of):
    report = report_of("infinite")
    (link,) = [a for a in Reader(page(report, ())).all("a") if "download" in a]
    assert json.loads(base64.b64decode(link["href"].partition(",")[2])) == report.to_dict()


def test_the_page_shows_what_each_method_recorded_but_not_its_curves(report_of):
    text = Reader(page(report_of("floor_limited"), ())).text
    assert "What maf recorded of itself" in text
    assert '"chosen_step": 3900' in text
    assert '"validation"' not in text


def test_a_fragment_keeps_its_styles_to_itself_and_stays_small(any_report, plots_of, name):
    text = fragment(any_report, plots_of(name))
    style = re.search(r"<style>(.*)</style>", text, re.S).group(1)
    selectors = [s.strip() for rule in re.findall(r"([^{}]+)\{", style) for s in rule.split(",")]
    assert selectors
    assert all(s.startswith(".klprobe-report") for s in selectors)
    assert not {"html", "head", "body", "main", "h1", "h2"} & {tag for tag, _ in Reader(text).tags}
    assert len(text) < 250_000


@pytest.mark.parametrize(("kind", "width"), [("floor_limited", 1000), ("hostile", 500)])
def test_a_browser_loads_every_figure_and_asks_for_nothing(report_of, plots_of, in_browser, kind, width):
    in_browser(page(report_of(kind), plots_of(kind)), len(plots_of(kind)), width)
