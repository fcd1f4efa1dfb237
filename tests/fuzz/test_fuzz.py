"""Harmed files of every format, through the program: no traceback, no code of the file run, 10 s and 1 GB at most.

Slow: thousands of each format. By hand: `python -m tests.fuzz.run --help`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.genuine import FORMATS
from tests.fuzz.run import Result, table

QUICK = ("npy", "npz", "safetensors", "settings", "metrics", "flow", "state-dict")
"""Formats that need no library beside torch, and take a tenth of a second a file."""


def fuzz(folder: Path, *flags: str) -> list[Result]:
    """What became of every run. In a process of its own, which forks: threads of other tests are not there."""
    results = folder / "results.jsonl"
    command = [sys.executable, "-m", "tests.fuzz.run", "--results", str(results), "--keep", str(folder / "bad"), *flags]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert results.exists(), done.stderr[-3000:]
    return [Result(*json.loads(line)) for line in results.read_text().splitlines()]


def assert_good(found: list[Result]) -> None:
    bad = [result for result in found if result.verdict]
    assert not bad, table(bad)


def test_a_handful_of_harmed_files_of_the_quick_formats_is_refused_or_answered(tmp_path):
    found = fuzz(tmp_path, "--formats", *QUICK, "--mutants", "5", "--variants", "2", "--seed", "0")
    assert_good(found)
    assert len(found) == len(QUICK) * (5 + 2)
    assert {result.status for result in found if result.index < 0} <= {0, 3}
    assert any(result.status == 2 for result in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands_of_harmed_files_of_a_format_are_refused_or_answered(tmp_path, name):
    for module in FORMATS[name].needs:
        pytest.importorskip(module)
    found = fuzz(tmp_path, "--formats", name, "--mutants", "2000", "--variants", "20", "--jobs", "2", "--seed", "1")
    assert_good(found)
    assert len(found) == 2020
