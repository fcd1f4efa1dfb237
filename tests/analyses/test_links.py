"""Pages lead somewhere: every link to a file of ours, and every command that starts an analysis."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "analyses").rglob("*.md"))]
SOURCES = [*PAGES, *sorted((ROOT / "analyses").rglob("*.py"))]
LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")
COMMAND = re.compile(r"python -m (analyses(?:\.[a-z]\w*)+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    missing = [link for link in LINK.findall(text) if not (page.parent / link.split("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_every_command_that_is_named_is_a_module(source):
    missing = [name for name in COMMAND.findall(source.read_text()) if importlib.util.find_spec(name) is None]
    assert not missing


def test_a_folder_of_items_shows_items():
    """Pages, figures and records lie in `results/`, and a folder has nothing else beside its modules."""
    for folder in (path for path in (ROOT / "analyses").iterdir() if (path / "__init__.py").is_file()):
        beside = {path.name for path in folder.iterdir() if path.suffix != ".py"} - {"__pycache__", "results"}
        assert not beside, folder.name
