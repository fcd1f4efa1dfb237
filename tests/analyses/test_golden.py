"""Golden numbers: whatever differs is found, nothing that is a number is left out but times and places, no case is lost."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analyses import golden
from analyses.machinery.golden_cases import Case

CASES = {"estimate/a": {"report.value": repr(0.1), "report.error": repr(0.2)}, "train/b": {"loss": repr(3)}}


def written(path, cases):
    path.write_text(json.dumps({"cases": cases}))
    return str(path)


def changed(case, **values):
    return CASES | {case: CASES[case] | values}


@pytest.mark.parametrize(
    ("after", "code", "said"),
    [
        (CASES, 0, "0 cases are missing, 0 keys differ"),
        (changed("train/b", loss=repr(math.nextafter(3.0, 4.0))), 1, "train/b loss: 3 -> 3.0000000000000004"),
        (CASES | {"train/b": {}}, 1, "train/b loss: 3 -> missing"),
        (changed("train/b", more=repr(1)), 1, "train/b more: missing -> 1"),
        ({"estimate/a": CASES["estimate/a"]}, 2, "train/b: only before"),
        (CASES | {"holes": {}}, 2, "holes: only after"),
    ],
)
def test_compare_finds_a_last_bit_a_missing_key_and_a_missing_case(after, code, said, tmp_path, capsys):
    files = [written(tmp_path / "a.json", CASES), written(tmp_path / "b.json", after)]
    assert golden.main(["--compare", *files]) == code
    lines = capsys.readouterr().out.splitlines()
    assert said in lines
    assert len(lines) == (1 if code == 0 else 2)


def test_a_file_that_is_none_of_ours_is_refused_in_a_line(tmp_path, capsys):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(SystemExit) as stop:
        golden.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")])
    assert stop.value.code == 2
    assert "--compare needs two files of --out" in capsys.readouterr().err.splitlines()[-1]


def test_numbers_leave_out_times_commit_versions_and_paths_and_nothing_else():
    document = {
        "value": 0.1 + 0.2,
        "seconds": 1.5,
        "rows": [{"n": 3, "ok": True, "cpu_seconds": 2.0, "date": 20261128}, {"nothing": None, "nan": math.nan}],
        "method": "maf",
        "advice": "12 words",
        "provenance": {
            "commit": 12,
            "versions": {"torch": 2.4},
            "command": ["klprobe", 1],
            "input": [1],
            "path": 7,
            "seed": 0,
            "fit_seconds": 4.0,
            "date_of_birth": 5,
            "device": "cpu",
        },
    }
    assert dict(golden.numbers(document)) == {
        "value": "0.30000000000000004",
        "rows[0].n": "3",
        "rows[0].ok": "True",
        "rows[1].nan": "nan",
        "method": "'maf'",
        "provenance.seed": "0",
        "provenance.date_of_birth": "5",
    }


def test_every_file_that_holds_numbers_is_read_to_the_last_bit(tmp_path):
    value = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)

    def leave(nudge):
        (tmp_path / "metrics.csv").write_text(f"step,seconds,loss\n1,{nudge},{0.1 + nudge}\n")
        (tmp_path / "runs.jsonl").write_text(json.dumps({"kl": 1.0 + nudge, "cpu_seconds": nudge}) + "\n")
        (tmp_path / "page.html").write_text(str(nudge))
        save_file({"w": value if nudge == 0 else value.nextafter(value + 1)}, tmp_path / "checkpoint.safetensors")
        np.savez(tmp_path / "codes.npz", z=np.full(3, 1.0 + nudge))
        Image.fromarray(np.full((2, 2), 7 + (nudge > 0), dtype=np.uint8)).save(tmp_path / "picture.png")
        return golden.of_folder(tmp_path)

    before, again, after = leave(0.0), leave(0.0), leave(2.0**-52)
    assert before == again
    assert {key for key in before if before[key] != after[key]} == {
        "metrics.csv[0].loss",
        "runs.jsonl[0].kl",
        "checkpoint.safetensors.w",
        "codes.npz.z",
        "picture.png",
    }
    assert before.keys() - {key for key in before if before[key] != after[key]} == {"metrics.csv[0].step"}


@pytest.mark.parametrize(
    ("stdout", "said"),
    [("nothing to see\n", "no number"), ('{"kl": 1, "all": [{"not_done": [{"method": "maf"}]}]}', "not done")],
)
def test_a_case_without_numbers_or_with_a_method_that_gave_none_fails(stdout, said, tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "run_command", lambda *_: (0, stdout))
    with pytest.raises(golden.Failed, match=said):
        golden.run_case(Case("estimate/a", ("estimate",)), tmp_path, tmp_path)


def test_a_failed_case_fails_the_run_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(golden, "make_inputs", lambda _: None)
    monkeypatch.setattr(golden, "listed", lambda *_: ([], []))
    monkeypatch.setattr(golden, "first_cases", lambda *_: [Case("good", ("good",)), Case("bad", ("bad",))])
    monkeypatch.setattr(golden, "later_cases", lambda: [])

    def answer(words, *_):
        if words == ["bad"]:
            raise golden.Failed("bad gave exit code 2: klprobe: unusable")
        return 0, '{"kl": 1.5}'

    monkeypatch.setattr(golden, "run_command", answer)
    assert golden.main(["--out", str(tmp_path / "out.json")]) == 1
    said = capsys.readouterr()
    assert "bad: 0 s, FAILED: bad gave exit code 2: klprobe: unusable" in said.err
    assert "1 cases failed: bad" in said.err
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["cases"] == {"good": {"exit[0]": "0", "stdout[0].kl": "1.5"}}
    assert document["total"] in said.out
    assert document["hashes"]["good"] in said.out
