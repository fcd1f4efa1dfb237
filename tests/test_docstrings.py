"""Docstrings and the entries of their `Args` say what a thing is or does, and never begin in the middle of a sentence."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "klprobe"
FILES = sorted(ROOT.rglob("*.py"))
SCRAP = re.compile(r"Of ")
ENTRY = re.compile(r"^ +[a-z_*][\w, *]*: (.*)$", re.MULTILINE)


def texts(tree: ast.AST) -> list[str]:
    """All docstrings of modules, classes and functions, and the strings below the fields of a class or module."""
    found = []
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                found += [statement.value.value] if isinstance(statement.value.value, str) else []
    return found


def scraps(source: str) -> list[str]:
    """Docstrings, and entries of arguments, that begin with Of."""
    docs = texts(ast.parse(source))
    entries = [entry for doc in docs for entry in ENTRY.findall(doc)]
    return [text for text in docs + entries if SCRAP.match(text)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_docstring_and_no_entry_of_an_argument_begins_with_of(file):
    assert not scraps(file.read_text())


def test_the_check_finds_both():
    source = 'def f(x):\n    """Of x.\n\n    Args:\n        x: Of y.\n    """\n\n\nN = 3\n"""Of points."""\n'
    assert len(scraps(source)) == 3
