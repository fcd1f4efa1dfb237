"""What README.md promises: its commands are the ones that run, its examples work, its tables are complete."""

import json
import pathlib
import re
import shlex
import subprocess
import tomllib

import numpy
import pytest

import klprobe
from klprobe import registry
from klprobe.cli.estimate import ESTIMATE_HELP
from klprobe.cli.estimate_flags import Source, parse_groups
from klprobe.formats import load

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = dict(re.findall(r"<!-- command: (\w+) -->\n```bash\n(.*?)\n```", README, re.DOTALL))


def test_a_stranger_reads_it_in_minutes():
    assert len(README.splitlines()) < 150


def test_both_commands_install_the_tested_versions_into_their_own_environment():
    assert set(COMMANDS) == {"demo", "tests"}
    for command in COMMANDS.values():
        assert command.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt ")
    assert COMMANDS["demo"].endswith(" && klprobe demo")
    assert COMMANDS["tests"].endswith(" && python -m pytest")


def test_ci_runs_the_test_command_as_it_stands_here():
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.splitlines()[-1] == 'bash -euo pipefail -c "$tests"'
    (extract,) = re.findall(r"^tests=\$\((.*)\)$", ci, re.MULTILINE)
    said = subprocess.run(["bash", "-c", extract], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.strip() == COMMANDS["tests"]


def test_every_dependency_is_constrained_to_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum((project["optional-dependencies"][extra] for extra in ("test", "dev")), project["dependencies"])
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact public versions, no paths"
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert {re.match(r"[\w-]+", requirement)[0].lower() for requirement in wanted} <= pinned


def test_the_python_example_prints_a_known_kl_beside_a_bracket_that_holds_it(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(block.splitlines()) <= 12
    names = {}
    exec(block, names)
    known, lower, upper = (float(number) for number in re.findall(r": (\d+\.\d+)", capsys.readouterr().out))
    sides = [getattr(names["report"].brackets["population"], side) for side in ("lower", "upper")]
    assert lower - 4 * sides[0].std_error < known < upper + 4 * sides[1].std_error
    assert len(names["table"]) > 1


def test_the_line_that_saves_a_posterior_makes_a_file_that_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"`(numpy\.savez\([^`]*\))`", README)
    exec(line, {"numpy": numpy, "mean": numpy.zeros((9, 2)), "logvar": numpy.zeros((9, 2))})
    assert load(tmp_path / "posterior.npz").posterior.batch_shape == (9,)


def test_the_table_of_systems_is_the_registry():
    section = README.split("## Systems")[1].split("\n## ")[0]
    rows = " ".join(line for line in section.splitlines() if line.startswith("| ") and "`" in line)
    assert set(re.findall(r"`([\w-]+)`", rows)) == set(registry.names("trainers"))


@pytest.mark.parametrize("row", re.findall(r"^\|.*\]\(analyses/.*\) \|$", README, re.MULTILINE))
def test_a_number_among_the_results_stands_on_the_page_that_it_links_to(row):
    (page,) = re.findall(r"\]\((analyses/[^)]*)\)", row)
    text = (ROOT / page).read_text()
    for number in re.findall(r"-?\d+\.\d+", row):
        assert number in text, number


@pytest.mark.parametrize("command", re.findall(r"klprobe estimate --[^`\n]*", README))
def test_the_estimate_commands_parse(command):
    source, _, _ = parse_groups(shlex.split(command)[2:], "klprobe estimate", ESTIMATE_HELP, Source)
    assert source.checkpoint


def test_the_table_of_methods_is_the_registry():
    section = README.split("## Methods")[1].split("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE))
    assert set(re.findall(r"`([\w-]+)`", first_cells)) == set(registry.names("estimators"))


def test_every_file_that_is_named_exists():
    """Outside of code blocks, where users' own files stand, and apart from what klprobe itself writes."""
    prose = re.sub(r"```.*?```|^\|.*$", "", README, flags=re.DOTALL | re.MULTILINE)
    written = {"report.html", "report.json", "report.csv", "posterior.npz", "prior.npz", "p.npz", ".npy", ".npz"}
    named = {word for word in re.findall(r"`([\w./-]+)`", prose) if re.search(r"/|\.\w", word) and "klprobe." not in word}
    assert [word for word in named - written if not (ROOT / word).exists()] == []
    assert "constraints.txt" in named


def test_every_command_that_is_named_is_one():
    commands = {path.stem for path in (ROOT / "klprobe" / "cli").glob("[a-z]*.py")}
    named = set(re.findall(r"(?:`|&& |^|-m )klprobe ([a-z]+)", README, re.MULTILINE))
    listed = README.split("Beside `estimate`:")[1].split("\n\n")[0]
    named |= set(re.findall(r"`([a-z]+)[ `]", listed.split("names everything")[0])) - {"klprobe"}
    assert {"demo", "estimate", "holes", "train", "list"} <= named <= commands


def test_every_flag_that_is_named_is_one():
    sources = "".join(path.read_text() for path in (ROOT / "klprobe" / "cli").glob("*.py"))
    known = {name.replace("_", "-") for name in re.findall(r"^    (\w+): ", sources, re.MULTILINE)}
    known |= set(re.findall(r"--([a-z][a-z-]*)", sources))
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", README))
    assert {"allow-pickle", "methods"} <= named <= known | {"help"}


def test_every_extra_that_is_named_is_one():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"`\[(\w+)\]`|\.\[(\w+)\]", README))
    assert {name for pair in named for name in pair if name} <= set(extras)
    assert len(named) > 4


def test_every_name_of_klprobe_that_is_named_exists():
    for name in set(re.findall(r"\bklprobe((?:\.[A-Za-z]\w*)+)\(?", README)) - {".lightning.TrackKL"}:
        found = klprobe
        for part in name.split(".")[1:]:
            found = getattr(found, part)
    assert "`klprobe.lightning.TrackKL`" in README
    assert "class TrackKL(" in (ROOT / "klprobe" / "estimation" / "lightning.py").read_text()


def test_what_is_not_python_is_installed_with_it():
    """Every such file of the package is one that pyproject.toml names, so that `pip install .` has pages, demo and types."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert list(said) == ["klprobe"]
    package = ROOT / "klprobe"
    installed = {path for pattern in said["klprobe"] for path in package.glob(pattern)}
    others = {path for path in package.rglob("*.*") if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert others <= installed
    assert {path.suffix for path in others} == {".jinja", ".safetensors", ".typed"}


def test_the_speed_ratios_are_those_of_the_last_record():
    """One digit below ten, none above; the first row is the random workload, the second the span over the trained encoders."""
    record = json.loads((ROOT / "analyses/ours/results/records/monte_carlo.jsonl").read_text().splitlines()[-1])
    ratios = {}
    for row in record["table"]:
        ratios.setdefault(row["method"], []).append((row["workload"] == "random", row["over_klprobe"]))

    def times(value):
        return f"{value:.0f}x" if value >= 10 else f"{value:.1f}x"

    order = ("MixtureSameFamily", "broadcasting (m, N, D)", "KeOps LazyTensor")
    first = [times(next(ratio for random, ratio in ratios[name] if random)) for name in order]
    others = [[ratio for random, ratio in ratios[name] if not random] for name in order]
    assert f"| random, D = 50 | {' | '.join(first)} |" in README
    assert f"D = 10 | {' | '.join(f'{times(min(some))} to {times(max(some))}' for some in others)} |" in README
    assert record["date"][:10] in README
