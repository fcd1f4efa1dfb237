import pytest

from klprobe.cli import main
from klprobe.runtime.records import read_records

TINY = [
    "--dims",
    "1",
    "2",
    "--seeds",
    "2",
    "--steps",
    "30",
    "--classifier-layers",
    "1",
    "--classifier-width",
    "8",
    "--logged",
    "3",
]
TINY += ["--log-draws", "50", "--device", "cpu"]


@pytest.mark.parametrize("experiment", ["estimate", "minimize"])
def test_runs_print_a_table_and_keep_records_and_a_figure_and_are_not_run_again(experiment, tmp_path, capsys):
    assert main(["synthetic", experiment, *TINY, "--out", str(tmp_path)]) == 0
    assert "true KL" in capsys.readouterr().out
    records = read_records(tmp_path / "synthetic.jsonl")
    kinds = {"estimate"} if experiment == "estimate" else {"estimate", "minimize"}
    assert {(r["experiment"], r["dim"], r["seed"]) for r in records} == {
        (k, d, s) for k in kinds for d in (1, 2) for s in (0, 1)
    }
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".png", ".svg"}
    assert main(["synthetic", experiment, *TINY, "--out", str(tmp_path)]) == 0
    assert len(read_records(tmp_path / "synthetic.jsonl")) == len(records)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "estimate, minimize"),
        (["maximize"], "'maximize'"),
        (["estimate", "--dims", "0"], "d = 0"),
        (["estimate", "--seeds", "0"], "--seeds must be at least 1"),
        (["minimize", "--dims", "4", "--features", "3"], "k = 3"),
        (["estimate", "--steps", "0"], "steps must be at least 1"),
        (["estimate", "--classifier-lr", "-1"], "classifier-lr"),
        (["estimate", "--preset", "huge"], "preset"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, said, capsys):
    assert main(["synthetic", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


WILD = ["--dims", "2", "--seeds", "1", "--steps", "50", "--classifier-lr", "1e38", "--log-draws", "50", "--device", "cpu"]


def test_an_estimation_that_diverges_is_an_error_with_step_and_remedy_and_is_recorded(tmp_path, capsys):
    assert main(["synthetic", "estimate", *WILD, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "diverged at step" in said
    assert "--classifier-lr below 1e+38" in said
    (record,) = read_records(tmp_path / "synthetic.jsonl")
    assert record["diverged"]["step"] <= 50


@pytest.mark.parametrize(("lr", "warned"), [("1e6", True), ("3e-3", False)])
def test_a_classifier_that_is_worse_than_a_coin_on_fresh_draws_is_said_to_be(lr, warned, capsys):
    assert main(["synthetic", "estimate", *TINY, "--classifier-lr", lr, "--steps", "300"]) == 0
    assert ("worse than a coin" in capsys.readouterr().out) == warned


def test_a_minimisation_that_diverges_is_a_result(tmp_path, capsys):
    assert main(["synthetic", "minimize", *WILD, "--out", str(tmp_path)]) == 0
    assert "1 of 1" in capsys.readouterr().out
    ended = {r["experiment"]: r["diverged"] for r in read_records(tmp_path / "synthetic.jsonl")}
    assert ended["minimize"]["step"] <= 50
    assert ended["minimize"]["reason"]
