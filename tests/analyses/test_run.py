"""The runner as a command: killed in the midst and started again it gives the records of a run without a break."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analyses import run
from analyses.machinery.plan import PLAN, jobs_of, read_plan

ROOT = Path(__file__).parents[2]
TINY = '[[part]]\nitem = "dmvi.table_1_steps"\nquestion = "What of the average KL?"\n'


@pytest.fixture
def start(tmp_path):
    """Starts the runner on a tiny plan, with runs and records in folders of a name."""
    (tmp_path / "plan.toml").write_text(TINY)

    def of(name, *flags):
        command = [sys.executable, "-m", "analyses.run", "--preset", "tiny", "--plan", tmp_path / "plan.toml"]
        return subprocess.Popen(
            [*command, "--out", tmp_path / name, *flags],
            cwd=ROOT,
            env=os.environ | {"KLPROBE_RUNS": str(tmp_path / name / "runs"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return of


def found(folder):
    """Cells and results, without what depends on the clock."""
    lines = (folder / "dmvi" / "records" / "table_1_steps.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        for kept in record["result"].values():
            for estimate in kept["estimates"]:
                estimate[6:] = []  # seconds
    return [(record["cell"], record["result"], record["failed"]) for record in records]


def test_a_runner_that_is_killed_in_the_midst_and_started_again_gives_the_bits_of_one_that_was_not(start, tmp_path):
    """Killed with its worker, once, when the longer training has begun to go on from the shorter one."""
    whole = start("whole")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    killed = start("killed")
    until = time.monotonic() + 300
    while not (longer := list((tmp_path / "killed" / "runs").glob("*-400.unfinished"))) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert longer
    assert len(found(tmp_path / "killed")) == 1
    again = start("killed")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "The plan is done." in said
    assert "from step 250 of 400" in said
    assert found(tmp_path / "killed") == found(tmp_path / "whole")


def test_a_runner_that_is_told_to_stop_says_so_and_leaves_its_worker_to_stop_at_a_checkpoint(start, tmp_path):
    runner = start("stopped")
    first = runner.stdout.readline()
    os.kill(runner.pid, signal.SIGTERM)
    said = first + runner.communicate(timeout=300)[0]
    assert runner.returncode == 128 + signal.SIGTERM
    assert "stopping at the next checkpoints" in said
    assert "Stopped: run it again to go on" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hours", "0"], "--hours must be above 0; got 0."),
        (["--hours", "nan"], "--hours must be above 0; got nan."),
        (["--jobs", "0"], "--jobs must be at least 1; got 0."),
        (["--plan", "no-such.toml"], "no-such.toml is no plan"),
        (["--device", "cuda"], "torch finds no CUDA device here"),
    ],
)
def test_flags_that_cannot_be_used_are_refused_in_a_line(flags, said, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("KLPROBE_DEVICE", "cpu")
    with pytest.raises(SystemExit) as stop:
        run.main(["--preset", "tiny", *flags])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[part", "is no plan"),
        ("", "is no plan"),
        ('[[part]]\nitem = "dmvi.table_99"', "names the item 'dmvi.table_99', which is none of dmvi.table_1, "),
        ('[[part]]\nitem = "dmvi.settings"', "names the item 'dmvi.settings', which is none of"),
        ('[[part]]\nitem = "dmvi.table_2"\nonly = { table = [9] }', "no cell of dmvi.table_2 has"),
    ],
)
def test_a_plan_that_is_none_is_refused_in_a_line(text, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KLPROBE_DEVICE", "cpu")
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        run.main(["--preset", "paper", "--plan", str(tmp_path / "plan.toml"), "--list"])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_plan_holds_what_is_asked_of_it():
    parts = {part.module: part for part in read_plan("paper")}
    assert next(iter(parts)) == "dmvi.table_1_steps"
    looked_at = {(cell["latents"], cell["model"]["steps"]) for cell in parts["dmvi.table_1_steps"].cells}
    assert looked_at == {(latents, steps) for latents in (50, 100) for steps in (1500, 5000, 15_000, 50_000, 100_000)}
    assert {cell["lambda"] for cell in parts["dmvi.table_4"].cells} == {0, 1, 2, 10}
    assert {cell["model"]["steps"] for cell in parts["dmvi.table_4"].cells} == {100_000}
    assert {cell["table"] for cell in parts["dmvi.table_2"].cells} == {2}
    seeds = {(cell["dim"], cell["seed"]) for cell in parts["dmvi.synthetic_seeds"].cells}
    assert seeds == {(d, s) for d, n in ((1, 10), (10, 10), (100, 10), (1000, 3)) for s in range(n)}
    jobs = jobs_of(list(parts.values()))
    assert len({job.name for job in jobs}) == len(jobs)


def test_every_part_of_the_plan_has_cells_in_every_preset_and_a_question():
    for preset in ("tiny", "quick", "paper"):
        for part in read_plan(preset):
            assert part.question.endswith("?")
            assert part.cells or preset != "paper"
    assert PLAN.parent == ROOT / "analyses"


def test_the_list_shows_every_part_and_runs_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KLPROBE_DEVICE", "cpu")
    assert run.main(["--preset", "paper", "--list", "--jobs", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for part in read_plan("paper"):
        assert part.question in said
        assert f"{part.module}: 0 of " in said
    assert not list(tmp_path.iterdir())
