"""The command line: exit codes, streams and words, in process (`main(argv)`) and as a real program."""

import contextlib
import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import klprobe
from klprobe import registry
from klprobe.cli import estimate as command
from klprobe.cli import main
from klprobe.types import Check

N, D = 40, 3
FAST = ["--methods", "monte-carlo", "--num-samples", "50"]
PROGRAM = [sys.executable, "-m", "klprobe"]


def gaussians(seed: int = 0, num_points: int = N) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"mean": draw.normal(size=(num_points, D)), "logvar": draw.normal(-1, 0.3, size=(num_points, D))}


@pytest.fixture
def checkpoint(tmp_path):
    np.savez(tmp_path / "q.npz", **gaussians())
    return tmp_path / "q.npz"


def estimate(checkpoint, *flags) -> int:
    return main(["estimate", "--checkpoint", str(checkpoint), *map(str, flags)])


def refused(capsys, code: int, *words: str) -> str:
    """Exit code 2, nothing on stdout, one line on stderr that says these words."""
    out, err = capsys.readouterr()
    assert code == 2, out + err
    assert out == ""
    assert err.startswith("klprobe: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    return err


# ---- the program itself


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command_and_exit_code(capsys, flag):
    assert main([flag]) == 0
    out = capsys.readouterr().out
    for word in ("estimate", "demo", "train", "list", "--version", "0 an answer", "2 the input", "3 a check", "130"):
        assert word in out


def test_help_answers_within_a_second():
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


def test_version_is_the_packages_and_python_m_is_the_same_program(capsys):
    assert main(["--version"]) == 0
    here = capsys.readouterr().out
    assert here == f"klprobe {klprobe.__version__}\n"
    assert subprocess.run([*PROGRAM, "--version"], check=True, capture_output=True, text=True).stdout == here


def test_unknown_commands_are_refused_with_the_nearest(capsys):
    refused(capsys, main(["estimat"]), "'estimat'", "Did you mean 'estimate'?")
    refused(capsys, main([]), "give a command")


def test_list_shows_each_name_with_one_line(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for kind in registry.KINDS:
        for name in registry.names(kind):
            here = [line for line in lines if line.split()[:1] == [name]]
            assert len(here) == sum(name in registry.names(other) for other in registry.KINDS)
            assert all(len(line.split()) > 3 for line in here)
    assert max(map(len, lines)) <= 160


def test_a_reader_of_stdout_that_leaves_early_is_no_error(checkpoint, tmp_path):
    program = [*PROGRAM, "estimate", "--checkpoint", checkpoint, *FAST, "--json", "--out", tmp_path / "out"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        err = run.stderr.read()
        assert run.wait() == 0, err
    assert err == f"klprobe: report written to {tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "report.json").is_file()


# ---- klprobe estimate: answers


def test_an_answer_goes_to_stdout_and_the_exit_code_is_0(checkpoint, capsys):
    assert estimate(checkpoint, *FAST) == 0
    out, err = capsys.readouterr()
    assert "monte-carlo" in out
    assert err == ""


def test_json_is_the_document_and_nothing_else(checkpoint, capsys):
    assert estimate(checkpoint, *FAST, "--json", "--seed", 3) == 0
    out, err = capsys.readouterr()
    document = json.loads(out, parse_constant=pytest.fail)
    assert err == ""
    assert document["schema"] == "klprobe.report/1"
    assert (document["num_points"], document["latent_dim"]) == (N, D)
    provenance = document["provenance"]
    assert provenance["seed"] == 3
    assert provenance["device"] == "cpu"
    assert provenance["settings"]["monte-carlo"]["num_samples"] == 50
    assert provenance["command"][:2] == ["klprobe", "estimate"]
    assert provenance["sha256"]


def test_hyphens_and_underscores_are_interchangeable_in_flags_and_names(checkpoint, capsys):
    documents = []
    for flags in (
        FAST,
        ["--methods", "monte_carlo", "--num_samples", "50"],
        ["--methods=monte-carlo", "--monte_carlo.num-samples=50"],
    ):
        assert estimate(checkpoint, *flags, "--json") == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert len({json.dumps([e["value"] for e in document["estimates"]]) for document in documents}) == 1


def test_out_receives_document_table_page_and_figures(checkpoint, tmp_path, capsys):
    out = tmp_path / "deep" / "folder"
    assert estimate(checkpoint, *FAST, "--json", "--out", out) == 0
    document = json.loads(capsys.readouterr().out)
    assert json.loads((out / "report.json").read_text()) == document
    written = {file.name for file in out.rglob("*")}
    assert {"report.csv", "report.html"} <= written
    assert {file.suffix for file in out.rglob("*")} >= {".png", ".svg"}


def test_tolerance_keeps_drawing_until_the_error_is_below_it(checkpoint, capsys):
    assert estimate(checkpoint, *FAST, "--tolerance", 0.002, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    (kl,) = [e for e in document["estimates"] if e["method"] == "monte-carlo" and e["bound"] == "exact"]
    assert kl["std_error"] <= 0.002


@pytest.mark.parametrize(
    ("spec", "mean", "scale"), [("normal", 0, 1), ("normal:scale=2.0", 0, 2), ("normal:mean=1,2,3:scale=0.5", [1, 2, 3], 0.5)]
)
def test_the_prior_is_the_one_that_was_asked_for(checkpoint, capsys, spec, mean, scale):
    assert estimate(checkpoint, *FAST, "--json", "--prior", spec) == 0
    q, p = gaussians(), np.asarray(mean)
    ratio = np.exp(q["logvar"]) / scale**2
    expected = 0.5 * (ratio - 1 - np.log(ratio) + (q["mean"] - p) ** 2 / scale**2).sum(1).mean()
    assert json.loads(capsys.readouterr().out)["average_kl"]["value"] == pytest.approx(expected, rel=1e-9)


def test_an_encoder_that_can_only_be_sampled_goes_to_the_methods_that_allow_it(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", samples=gaussians(num_points=200)["mean"])
    assert estimate(tmp_path / "s.npz", "--methods", "gmm", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {e["method"] for e in document["estimates"]} == {"gmm"}
    assert document["average_kl"]["value"] is None
    assert document["average_kl"]["reason"]


# ---- klprobe estimate: checks and interruptions


@pytest.mark.parametrize(("severity", "code"), [("error", 3), ("warning", 0)])
def test_a_failed_check_of_severity_error_gives_3_and_still_prints(checkpoint, capsys, monkeypatch, severity, code):
    def estimate_and_fail(posterior, prior, **settings):
        report = klprobe.estimate(posterior, prior, **settings)
        return dataclasses.replace(report, checks=(Check("forced", severity, False, "made to fail"),))

    monkeypatch.setattr(command, "estimate", estimate_and_fail)
    assert estimate(checkpoint, *FAST) == code
    assert "made to fail" in capsys.readouterr().out


def on_a_terminal(program, interrupt_at: str = ""):
    """Run with stderr on a terminal; Ctrl-C once the terminal shows the word. Exit code, stdout, what the terminal saw."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    seen = ""
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as run:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(ours, 4096):
                seen += chunk.decode(errors="replace")
                if interrupt_at and interrupt_at in seen:
                    run.send_signal(signal.SIGINT)
                    interrupt_at = ""
        out = run.stdout.read()
    os.close(ours)
    return run.returncode, out, seen


def test_on_a_terminal_stderr_shows_progress_and_stdout_has_the_same_answer(tmp_path, capsys):
    np.savez(tmp_path / "q.npz", **gaussians(num_points=2000))
    flags = ["--methods", "monte-carlo", "--num-samples", "20000", "--json"]
    code, out, seen = on_a_terminal([*PROGRAM, "estimate", "--checkpoint", tmp_path / "q.npz", *flags])
    assert code == 0, seen
    for word in ("all methods", "monte-carlo", "left", "nats"):
        assert word in seen
    assert estimate(tmp_path / "q.npz", *flags) == 0
    here, err = capsys.readouterr()
    assert err == ""
    assert [e["value"] for e in json.loads(out)["estimates"]] == [e["value"] for e in json.loads(here)["estimates"]]


def test_ctrl_c_prints_and_writes_what_there_is(tmp_path):
    np.savez(tmp_path / "q.npz", **gaussians(num_points=5000))
    endless = ["--num-samples", "100000000", "--monte-carlo.max-samples", "100000000"]
    flags = ["--methods", "monte-carlo", "gmm", *endless, "--json", "--out", tmp_path / "out"]
    program = [*PROGRAM, "estimate", "--checkpoint", tmp_path / "q.npz", *flags]
    code, out, seen = on_a_terminal(program, interrupt_at="monte-carlo")
    assert code == 0, seen
    assert "Traceback" not in seen
    document = json.loads(out)
    assert {e["method"] for e in document["estimates"]} == {"closed-form"}
    assert {n["method"] for n in document["not_done"]} == {"monte-carlo", "gmm"}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == document


def test_ctrl_c_before_any_answer_gives_130(checkpoint, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("klprobe.cli.source.load", stop)
    assert estimate(checkpoint) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "klprobe: stopped before there was an answer.\n"


# ---- klprobe estimate: bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "gmm"], ["--method", "did you mean --methods?"]),
        (["--maf.flow", "3"], ["--maf.flow", "did you mean --maf.flows?"]),
        (["--seed", "one"], ["--seed", "'one'"]),
        (["--split", "half"], ["'half'", "train", "test", "all"]),
        (["--seed"], ["--seed", "Missing value"]),
        (["stray"], ["stray"]),
        (["--methods"], ["--methods", "at least one"]),
        (["--methods", "monte-karlo"], ["'monte-karlo'", "Did you mean 'monte-carlo'?"]),
        (["--num-samples", "0"], ["num_samples", "0"]),
        (["--num-samples", "-5"], ["num_samples", "-5"]),
        (["--tolerance", "0"], ["tolerance", "0"]),
        (["--data", "digits"], ["q.npz", "not an encoder", "--data"]),
        (["--split", "test"], ["q.npz", "--split test", "split='test'"]),
        (["--prior", "norml"], ["'norml'", "Did you mean 'normal'?"]),
        (["--prior", "normal:scale=0"], ["positive", "0"]),
        (["--prior", "normal:scale=two"], ["scale", "finite number"]),
        (["--prior", "normal:scale=nan"], ["scale", "finite number"]),
        (["--prior", "normal:width=2"], ["width", "mean and scale"]),
        (["--prior", "normal:mean=1,2"], ["mean has 2 values", "D = 3"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_flags_are_refused_and_nothing_is_written(checkpoint, tmp_path, capsys, flags, words):
    refused(capsys, estimate(checkpoint, *flags, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_cuda_is_refused_where_there_is_none(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(capsys, estimate(checkpoint, "--device", "cuda"), "--device cuda", "--device cpu")


def test_a_checkpoint_is_needed(capsys):
    refused(capsys, main(["estimate"]), "--checkpoint")
    refused(capsys, main(["estimate", "--chekpoint", "q.npz"]), "did you mean --checkpoint?")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"mean": np.full((9, 2), np.nan), "std": np.ones((9, 2))}, ["'mean'", "18 values", "[0, 0]"]),
        ({"mean": np.ones((9, 2)), "var": -np.ones((9, 2))}, ["'var'", "negative"]),
        ({"mean": np.ones((9, 2)), "std": np.ones((9, 3))}, ["mean (9, 2)", "std (9, 3)"]),
        ({"mean": np.ones((1, 2)), "std": np.ones((1, 2))}, ["N = 1"]),
        ({"mean": np.ones((9, 2)), "std": np.ones((9, 2)), "logvar": np.ones((9, 2))}, ["logvar and std"]),
        ({"mean": np.ones((9, 2, 4, 4)), "std": np.ones((9, 2, 4, 4))}, ["reshape"]),
    ],
    ids=["nan", "negative", "shapes", "one point", "two spreads", "images"],
)
def test_bad_arrays_are_refused_and_nothing_is_written(tmp_path, capsys, tensors, words):
    np.savez(tmp_path / "bad.npz", **tensors)
    refused(capsys, estimate(tmp_path / "bad.npz", "--out", tmp_path / "out"), "bad.npz", *words)
    assert not (tmp_path / "out").exists()


def test_bad_files_are_refused_by_the_program_too(tmp_path):
    (tmp_path / "q.npz").write_bytes(b"PK\x03\x04 and no more")
    run = subprocess.run([*PROGRAM, "estimate", "--checkpoint", tmp_path / "q.npz"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("klprobe: q.npz is damaged or cut short")
    assert run.stderr.count("\n") == 1


def test_a_method_that_the_input_does_not_allow_gives_no_answer(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", samples=gaussians()["mean"])
    refused(capsys, estimate(tmp_path / "s.npz", "--methods", "monte-carlo"), "monte-carlo")


@pytest.mark.parametrize("where", ["file", "below a file", "/proc/klprobe"])
def test_an_unwritable_out_is_found_before_anything_is_computed(checkpoint, tmp_path, capsys, monkeypatch, where):
    monkeypatch.setattr("klprobe.cli.source.load", lambda *_: pytest.fail("it computed first"))
    out = {"file": checkpoint, "below a file": checkpoint / "out"}.get(where, where)
    refused(capsys, estimate(checkpoint, "--out", out), "--out", str(out), "cannot be written")


# ---- klprobe train


def test_a_trained_checkpoint_is_estimated_on_the_data_it_remembers(tmp_path, capsys):
    flags = ["--dataset", "digits", "--steps", "30", "--latent-dim", "4", "--out", str(tmp_path), "--device", "cpu"]
    assert main(["train", "vae", *flags]) == 0
    path = tmp_path / "checkpoint.safetensors"
    assert capsys.readouterr().out == f"{path}\n"
    for split, points in (("all", 1797), ("test", 355)):
        assert estimate(path, *FAST, "--json", "--split", split) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["num_points"], document["latent_dim"]) == (points, 4)
        assert (document["provenance"]["split"], document["provenance"]["trained_on"]) == (split, "train")


def test_ctrl_c_while_training_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("klprobe.cli.train.train", stop)
    flags = ["--dataset", "digits", "--steps", "5", "--out", str(tmp_path)]
    assert main(["train", "vae", *flags]) == 130
    assert "--resume" in capsys.readouterr().err


def test_training_resumes_where_it_stopped(tmp_path, capsys):
    flags = ["--dataset", "digits", "--latent-dim", "2", "--width", "8", "--out", str(tmp_path), "--device", "cpu"]
    assert main(["train", "vae", *flags, "--steps", "5"]) == 0
    assert main(["train", "vae", *flags, "--steps", "9", "--resume"]) == 0
    capsys.readouterr()
    refused(capsys, main(["train", "vae", *flags, "--steps", "7", "--resume"]), "9")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name of a system", "vae"]),
        (["vaee"], ["'vaee'", "Did you mean 'vae'?"]),
        (["vae"], ["--dataset", "--steps", "--out"]),
        (["vae", "--dataset", "digit", "--steps", "1", "--out", "OUT"], ["'digit'", "Did you mean 'digits'?"]),
        (["vae", "--dataset", "digits", "--steps", "0", "--out", "OUT"], ["steps = 0"]),
        (
            ["vae", "--dataset", "mnist", "--steps", "1", "--out", "OUT", "--data-root", "nowhere"],
            ["mnist", "nowhere", "--data-root"],
        ),
        (["vae", "--dataset", "digits", "--steps", "1", "--out", "OUT", "--latentdim", "3"], ["did you mean --latent-dim?"]),
        (["vae", "--dataset", "digits", "--steps", "1", "--out", "OUT", "--batch-size", "1"], ["batch_size", "1"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_training_refuses_what_it_cannot_do_and_writes_nothing(tmp_path, capsys, arguments, words):
    out = tmp_path / "out"
    refused(capsys, main(["train", *[str(out) if a == "OUT" else a for a in arguments]]), *words)
    assert not out.exists()


def test_the_help_of_every_command_lists_its_flags(capsys):
    for arguments, flags in {
        ("estimate",): [
            "--checkpoint",
            "--methods",
            "--prior",
            "--monte-carlo.num-samples",
            "--out",
            "klprobe estimate --checkpoint",
        ],
        ("demo",): ["--methods", "--json"],
        ("train",): ["vae"],
        ("train", "vae"): ["--dataset", "--beta", "--resume"],
        ("list",): ["--help"],
    }.items():
        assert main([*arguments, "--help"]) == 0
        out = capsys.readouterr().out
        for flag in flags:
            assert flag in out


def test_help_is_short_and_shows_a_methods_settings_when_it_is_named(capsys):
    assert main(["estimate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--monte-carlo.max-samples" not in out
    assert len(out.splitlines()) < 100
    assert main(["estimate", "--help", "monte_carlo", "gmm"]) == 0
    out = capsys.readouterr().out
    for flag in ("--monte-carlo.num-samples", "--gmm."):
        assert flag in out
    assert "--maf." not in out
    refused(capsys, main(["estimate", "--help", "mfa"]), "'mfa'", "Did you mean 'maf'?")


# ---- klprobe demo


def test_the_demo_runs_without_any_file_of_the_users(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *FAST, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_points"] == 1797
    assert document["provenance"]["trained_on"] == "train"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_demo_takes_less_than_a_minute(capsys):
    started = time.perf_counter()
    assert main(["demo", "--json"]) == 0
    assert time.perf_counter() - started < 60
    methods = {e["method"] for e in json.loads(capsys.readouterr().out)["estimates"]}
    assert methods == {"closed-form", "monte-carlo", "classifier", "gmm", "maf", "lstm"}
