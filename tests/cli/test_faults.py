"""A run loses nothing: whatever happens to terminal, disk or process, what was computed is there or can be taken up."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from klprobe.cli import main
from klprobe.estimation.report import Report
from klprobe.rendering import files
from klprobe.types import InputError

PROGRAM = [sys.executable, "-m", "klprobe"]
QUICK = ["--methods", "monte-carlo", "--num-samples", "200"]
ENDLESS = ["--methods", "monte-carlo", "--num-samples", "100000000", "--monte-carlo.max-samples", "100000000"]


@pytest.fixture
def posterior(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "q.npz", mean=rng.normal(size=(300, 2)), logvar=rng.normal(size=(300, 2)) - 2)
    return tmp_path / "q.npz"


def shell(line, **variables):
    """Exit code and stderr of a shell's line, in which $K stands for the program."""
    environment = os.environ | {"K": f"{sys.executable} -m klprobe"} | {k: str(v) for k, v in variables.items()}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("where", [">&-", ">/dev/full", "2>&-", "2>/dev/full", ">&- 2>&-", "| true"])
def test_whatever_becomes_of_the_terminal_the_files_are_written_and_the_exit_code_is_the_answers(where, posterior, tmp_path):
    line = f"set -o pipefail; $K estimate --checkpoint $Q {' '.join(QUICK)} --out $OUT {where}"
    code, _, err = shell(line, Q=posterior, OUT=tmp_path / "out")
    assert code == 0
    assert "Traceback" not in err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_points"] == 300


def test_an_answer_that_reaches_nobody_is_no_success(posterior):
    code, _, err = shell(f"$K estimate --checkpoint $Q {' '.join(QUICK)} --json >/dev/full", Q=posterior)
    assert code == 2
    assert err == "klprobe: The answer could not be printed: No space left on device. Send it to a place that has room.\n"


def stopped_by(number, command, ready, timeout=60.0):
    """Start, send the signal once `ready()` holds, and return the exit code and stderr."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        begun = time.monotonic()
        while not ready() and run.poll() is None and time.monotonic() - begun < timeout:
            time.sleep(0.02)
        run.send_signal(number)
        try:
            out, err = run.communicate(timeout=timeout)
        finally:
            run.kill()  # where it did not stop
        return run.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_signal_that_asks_to_stop_reports_what_is_done_and_says_how_to_continue(number, posterior, tmp_path):
    out = tmp_path / "out"
    # monte-carlo is quick; the fit after it is not, and is what the signal meets
    command = [*PROGRAM, "estimate", "--checkpoint", posterior, "--out", out, "--methods", "monte-carlo", "maf"]
    command += ["--num-samples", "200", "--maf.steps", "1000000"]
    partial = out / "monte-carlo.partial.npz"

    def ready():
        return partial.exists() and time.time() - partial.stat().st_mtime > 1.5

    code, printed, err = stopped_by(number, command, ready)
    assert code == 0
    assert "--resume continues" in err
    assert "monte-carlo" in printed
    document = json.loads((out / "report.json").read_text())
    assert {e["method"] for e in document["estimates"]} >= {"monte-carlo"}
    assert [m["method"] for m in document["not_done"]] == ["maf"]
    assert partial.exists()


def test_a_signal_that_is_ignored_stays_ignored(posterior, tmp_path):
    line = (
        "trap '' HUP; $K estimate --checkpoint $Q --methods monte-carlo --num-samples 20000 & sleep 1.5; kill -HUP $!; wait $!"
    )
    code, out, _ = shell(line, Q=posterior)
    assert code == 0
    assert "interrupted" not in out


@pytest.fixture
def report(posterior, capsys):
    import torch

    import klprobe

    with np.load(posterior) as q:
        normal = torch.distributions.Normal(torch.from_numpy(q["mean"]), torch.from_numpy(np.exp(q["logvar"] / 2)))
    return klprobe.estimate(torch.distributions.Independent(normal, 1), methods=["closed-form"])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_report_that_cannot_be_finished_leaves_the_older_one_whole(fault, report, tmp_path, monkeypatch):
    files.save(report, tmp_path)
    before = contents(tmp_path)
    write = pathlib.Path.write_bytes

    def fails(path, content):
        if ".html" in path.name:
            raise fault
        return write(path, content)

    monkeypatch.setattr(pathlib.Path, "write_bytes", fails)
    with pytest.raises((KeyboardInterrupt, InputError)):
        files.save(report, tmp_path)
    assert contents(tmp_path) == before


def test_ctrl_c_among_the_renames_waits_for_the_last_of_them(report, tmp_path, monkeypatch):
    replace, renamed = pathlib.Path.replace, []

    def stop(path, target):
        renamed.append(target.name)
        if len(renamed) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return replace(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        files.save(report, tmp_path / "out")
    assert {"report.json", "report.csv", "report.html"} <= set(renamed) == set(contents(tmp_path / "out"))


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_numbers(report, tmp_path, monkeypatch):
    monkeypatch.setattr(files.figures, "draw", lambda report: 1 / 0)
    with pytest.warns(UserWarning, match=r"figures could not be drawn \(ZeroDivisionError"):
        files.save(report, tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {"report.json", "report.csv", "report.html"}


def test_ctrl_c_while_files_are_written_prints_the_answer_all_the_same(posterior, tmp_path, monkeypatch, capsys):
    def stop(report: Report, out):
        raise KeyboardInterrupt

    monkeypatch.setattr("klprobe.cli.estimate.save", stop)
    out = tmp_path / "out"
    assert main(["estimate", "--checkpoint", str(posterior), *QUICK, "--out", str(out)]) == 130
    printed, err = capsys.readouterr()
    assert "monte-carlo" in printed
    assert "all of them are of this answer, or all as they were" in err
    assert (out / "monte-carlo.partial.npz").exists()  # the draws are not lost with the report


def test_a_disk_that_fills_up_is_told_and_the_run_goes_on(posterior, tmp_path, monkeypatch, capsys):
    def full(file, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert main(["estimate", "--checkpoint", str(posterior), *QUICK, "--out", str(tmp_path / "out"), "--json"]) == 0
    printed, err = capsys.readouterr()
    assert "could not be saved" in err
    assert "No space left on device" in err
    assert {e["method"] for e in json.loads(printed)["estimates"]} == {"closed-form", "monte-carlo"}
    assert "monte-carlo.partial.npz.writing" not in contents(tmp_path / "out")


TRAIN = ["train", "vae", "--dataset", "ring", "--latent-dim", "2", "--width", "8", "--device", "cpu"]


@pytest.mark.parametrize("command", ["train", "estimate"])
def test_a_second_process_in_one_folder_is_refused_and_a_dead_one_is_none(command, posterior, tmp_path, capsys):
    out = tmp_path / "out"
    flags = TRAIN if command == "train" else ["estimate", "--checkpoint", str(posterior)]
    long, short = (["--steps", "10000000"], ["--steps", "2"]) if command == "train" else (ENDLESS, QUICK)
    with subprocess.Popen([*PROGRAM, *flags, *long, "--out", out], stderr=subprocess.DEVNULL) as run:
        while not (out / ".klprobe.lock").exists():
            time.sleep(0.05)
            assert run.poll() is None
        assert main([*flags, *short, "--out", str(out)]) == 2
        assert f"Another klprobe process writes into {out} now" in capsys.readouterr().err
        run.kill()
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    assert main([*flags, *short, "--out", str(out)]) == 0
    assert not (out / ".klprobe.lock").exists()


def test_training_that_is_refused_at_its_first_step_leaves_nothing_behind(tmp_path, capsys):
    out = tmp_path / "made" / "too"
    assert main([*TRAIN, "--visible", "bernoulli", "--steps", "5", "--out", str(out)]) == 2
    assert "Bernoulli pixels need values in [0, 1]" in capsys.readouterr().err
    assert not out.parent.exists()


def test_the_visible_distribution_follows_the_data(tmp_path, capsys):
    from klprobe.training.checkpoint import load_checkpoint

    for data, visible in (("ring", "laplace"), ("digits", "bernoulli")):
        out = tmp_path / data
        assert main(["train", "vae", "--dataset", data, "--steps", "2", "--pictures-every", "0", "--out", str(out)]) == 0
        assert load_checkpoint(out / "checkpoint.safetensors").algorithm.visible == visible


def test_draws_are_not_taken_up_when_any_row_of_the_posterior_has_changed(posterior, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("klprobe.cli.estimate.save", lambda report, out: [][0])  # a crash before the report is there
    out = tmp_path / "out"
    flags = ["estimate", "--checkpoint", str(posterior), "--out", str(out), "--num-samples", "200", "--json"]
    with pytest.raises(IndexError):
        main([*flags, "--methods", "monte-carlo"])
    monkeypatch.undo()
    with np.load(posterior) as kept:
        arrays = dict(kept)
    arrays["mean"][-1, -1] += 1e-6
    np.savez(posterior, **arrays)
    capsys.readouterr()
    assert main([*flags, "--methods", "monte-carlo", "knn", "--resume"]) == 2  # whatever the other methods could say
    out_, err = capsys.readouterr()
    assert out_ == ""
    assert "belongs to another run: posterior and prior was" in err


@pytest.mark.parametrize("flags", [["--out", ""], ["--out="], ["--prior", ""]])
def test_an_empty_value_is_refused(flags, posterior, capsys):
    assert main(["estimate", "--checkpoint", str(posterior), *QUICK, *flags]) == 2
    assert "without a value" in capsys.readouterr().err
