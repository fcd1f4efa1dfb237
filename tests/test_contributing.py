"""The examples of CONTRIBUTING.md work as they stand: written into a copy of the package, used, and held to the contracts."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from klprobe import cli

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"^`(klprobe/\w+/\w+\.py)`.*?\n\n```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
"""From the path of a new file to the file."""
ROWS = re.findall(r"(in|before) `(\w+)` of\s+`(tests/[\w/]+\.py)`:\n\n```(?:python|text)\n(.*?)```", TEXT, re.DOTALL)
"""What the contract tests ask for beside it: where, in or before which table of which file, and the lines."""
LONGEST = 50
"""Lines of an example."""
N, SHIFT = 400, 5.0
KNOWN = SHIFT**2 / 2 - np.log(2)
"""KL of half N(-5, 1) and half N(5, 1) from N(0, 1) in nats, to 1e-5: the two overlap in 3e-7 of their mass."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package and its tests, with the examples and their rows added."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("klprobe", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "analyses", "fuzz"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, text in EXAMPLES.items():
        assert not (folder / path).exists(), f"{path} is there already: the example needs another name"
        (folder / path).write_text(text)
    for where, table, path, lines in ROWS:
        before, start, after = re.split(rf"^({table} = [(\[{{]\n)", (folder / path).read_text(), maxsplit=1, flags=re.MULTILINE)
        (folder / path).write_text(before + (f"{start}{lines}" if where == "in" else f"{lines}\n\n{start}") + after)
    return folder


def run(house, *arguments, program="klprobe"):
    """Standard output of a command in a process of its own, which sees the copy."""
    environment = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def two_clouds():
    """Means and standard deviations of shape (N, 1) each: half of the points at -5, half at 5."""
    return SHIFT * np.where(np.arange(N) % 2, 1.0, -1.0)[:, None], np.ones((N, 1))


ROOMS = re.findall(r"^\| (`.*?`) \| (.*) \|$", TEXT.split("## Code map")[1].split("\n## ")[0], re.MULTILINE)
MANY_OF_A_KIND = ("estimators", "trainers", "datasets", "metrics", "formats")
"""Folders whose files `klprobe list` names."""


def test_the_code_map_names_every_room_and_no_other():
    named = sorted(name for cell, _ in ROOMS for name in re.findall(r"`(.*?)`", cell))
    there = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "klprobe").iterdir()}
    assert named == sorted(there - {"__pycache__/", "__init__.py", "py.typed"})


@pytest.mark.parametrize(("room", "text"), ROOMS, ids=[room for room, _ in ROOMS])
def test_the_code_map_names_every_file_of_a_room_and_no_other(room, text):
    folder = ROOT / "klprobe" / room.strip("`/")
    if room.count("`") > 2 or folder.name in MANY_OF_A_KIND or not (folder / "__init__.py").is_file():
        return
    commands = set(cli.COMMANDS) if folder.name == "cli" else set()
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`([a-z]\w*)`", text)) | commands == files


def test_every_path_that_is_named_exists():
    places = [ROOT, ROOT / "klprobe", ROOT / "analyses", ROOT / "analyses" / "machinery", ROOT / "analyses" / "ours"]
    places += [ROOT / "klprobe" / "files"]
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    named = set(re.findall(r"`([\w./-]+(?:/|\.(?:py|md|txt|toml)))`", prose)) - set(EXAMPLES) - {"utils.py"}
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    assert "klprobe/metrics/__init__.py" in named


def test_the_three_sentences_stand_first():
    assert re.findall(r"^(\d)\. .*\*\*", TEXT.split("## Code map")[0], re.MULTILINE) == ["1", "2", "3"]


def test_there_is_one_short_example_for_each_folder():
    assert sorted(path.split("/")[1] for path in EXAMPLES) == ["datasets", "estimators", "formats", "metrics", "trainers"]
    assert len(ROWS) == TEXT.count("```python") + TEXT.count("```text") - len(EXAMPLES) == 4
    for path, text in EXAMPLES.items():
        assert len(text.splitlines()) <= LONGEST, path


def test_the_list_shows_each_with_its_line(house):
    shown = run(house, "list")
    for path, text in EXAMPLES.items():
        line = re.search(r'^class .*?"""(.*?)$', text, re.MULTILINE | re.DOTALL)[1].removesuffix('"""')
        assert re.search(rf"^  {pathlib.Path(path).stem} +{re.escape(line)}$", shown, re.MULTILINE), path


def test_the_estimator_gives_a_kl_that_is_known_and_takes_its_flag(house, tmp_path):
    mean, std = two_clouds()
    np.savez(tmp_path / "q.npz", mean=mean, std=std)
    flags = ("--methods", "plain", "--plain.num-samples", "4000", "--json")
    said = json.loads(run(house, "estimate", "--checkpoint", tmp_path / "q.npz", *flags))
    (found,) = (e for e in said["estimates"] if e["method"] == "plain")
    assert found["num_samples"] == 4000
    assert found["std_error"] == pytest.approx(SHIFT / 4000**0.5, rel=0.1)  # log q/p is +-5 z and a constant
    assert abs(found["value"] - KNOWN) < 4 * found["std_error"]


def test_the_format_gives_the_numbers_in_its_file(house, tmp_path):
    """The average KL of unit normals at -5 and 5 from N(0, 1) is 25 / 2 nats, and half of that at 5 / sqrt 2."""
    for scale, right in ((1.0, 12.5), (0.5**0.5, 6.25)):
        mean, std = two_clouds()
        np.save(tmp_path / "q.npy", np.stack([scale * mean, std]))
        said = json.loads(run(house, "estimate", "--checkpoint", tmp_path / "q.npy", "--methods", "closed-form", "--json"))
        assert said["average_kl"]["value"] == pytest.approx(right, rel=1e-9)
        assert said["num_points"] == N


def test_the_data_set_is_listed_and_shown(house, tmp_path):
    assert re.search(r"^ *moons\b", run(house, "data", "list"), re.MULTILINE)
    run(house, "data", "show", "moons:noise=10", "--out", tmp_path / "moons.png")
    assert (tmp_path / "moons.png").read_bytes().startswith(b"\x89PNG")


def test_the_trainer_trains_and_the_metric_measures_what_it_made(house, tmp_path):
    """Twenty steps leave samples far from the ring: their energy distance is large beside that of training data."""
    flags = ("--dataset", "ring", "--latent-dim", "2", "--steps", "20", "--out", tmp_path)
    run(house, "train", "autoencoder", *flags)
    flags = ("--metrics", "energy", "--net", "values", "--json")
    said = json.loads(run(house, "evaluate", "--checkpoint", tmp_path / "checkpoint.safetensors", *flags))
    (row,) = said["rows"]
    assert (row["metric"], row["quantity"]) == ("energy", "energy")
    assert abs(row["real"]["value"]) < 5 * row["real"]["std_error"]
    assert row["value"] > 10 * row["std_error"] > 0


CONTRACTS = {
    "estimators": ("plain", "test_contracts.py", "test_truth.py"),
    "trainers": ("autoencoder", "test_contracts.py", "test_improvement.py"),
    "formats": ("stacked", "test_contracts.py"),
    "datasets": ("moons", "test_contracts.py"),
    "metrics": ("energy", "test_contracts.py"),
}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_the_example_keeps_the_contracts(kind, house):
    name, *files = CONTRACTS[kind]
    said = run(house, "-q", "-p", "no:cacheprovider", "-k", name, *(f"tests/{kind}/{file}" for file in files), program="pytest")
    assert re.search(r"^[1-9]\d* passed", said, re.MULTILINE), said
    assert not re.search(r"failed|error|skipped", said.splitlines()[-1]), said
