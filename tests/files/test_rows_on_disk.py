"""Rows that are read when they are asked for are those of the tensor, and a cut file is a sentence, never a signal."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import klprobe
from klprobe.cli import main
from klprobe.files import npy, rows_on_disk
from klprobe.files.rows_on_disk import RowsOnDisk, rows_of
from klprobe.formats import Request, load
from klprobe.types import InputError

N, D = 500, 3


@pytest.fixture
def large(monkeypatch):
    """Every file is large beside the memory."""
    monkeypatch.setattr(npy, "most_read", lambda: 0)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mean.npy", rng.normal(size=(N, D)).astype("f4"))
    np.save(tmp_path / "logvar.npy", rng.uniform(-3, 0, (N, D)).astype("f4"))
    return tmp_path


@pytest.fixture
def pair(folder, large):
    return rows_of(folder / "mean.npy", "mean.npy"), torch.from_numpy(np.load(folder / "mean.npy"))


INDICES = {
    "one row": 7,
    "the last row": -1,
    "all": slice(None),
    "a span": slice(3, 99),
    "beyond the end": slice(490, 9999),
    "nothing": slice(5, 5),
    "every third": slice(None, None, 3),
    "backwards from the end": slice(-4, None),
    "a column": (slice(2, 30), 1),
    "some columns": (slice(None), slice(0, 2)),
    "in any order": torch.tensor([400, 3, 3, -1, 17, 2, 499]),
    "none": torch.zeros(0, dtype=torch.int64),
    "a table of rows": torch.tensor([[1, 2], [3, 4]]),
    "a mask": torch.arange(N) % 7 == 0,
    "a list": [5, 1],
    "an ellipsis": (..., 1),
}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("gap", [0, 1 << 14])
def test_an_index_gives_the_rows_of_the_tensor(name, gap, pair, monkeypatch):
    monkeypatch.setattr(rows_on_disk, "GAP", gap)
    monkeypatch.setattr(rows_on_disk, "AT_ONCE", 100)
    rows, tensor = pair
    assert isinstance(rows, RowsOnDisk)
    assert torch.equal(rows[INDICES[name]], tensor[INDICES[name]])


def test_it_says_of_itself_and_does_what_the_tensor_does(pair):
    rows, tensor = pair
    for fact in ("shape", "dtype", "device", "ndim"):
        assert getattr(rows, fact) == getattr(tensor, fact)
    for ask in ("dim", "numel", "is_floating_point", "is_complex", "__len__"):
        assert getattr(rows, ask)() == getattr(tensor, ask)()
    assert torch.equal(rows.double().square(), tensor.double().square())
    assert torch.equal(torch.cat([rows, rows]), torch.cat([tensor, tensor]))
    with pytest.raises(IndexError):
        rows[torch.tensor([N])]
    with pytest.raises(AttributeError):
        _ = rows.no_such_thing


def test_rows_that_are_asked_for_are_the_only_ones_that_are_read(pair, monkeypatch):
    rows, _ = pair
    monkeypatch.setattr(rows_on_disk, "GAP", 0)
    spans = []
    read = RowsOnDisk._span
    monkeypatch.setattr(RowsOnDisk, "_span", lambda self, a, b: spans.append((a, b)) or read(self, a, b))
    _ = rows[torch.tensor([9, 400, 8, 3])]
    _ = rows[20:30]
    assert spans == [(3, 4), (8, 10), (400, 401), (20, 30)]


def test_small_files_and_those_whose_rows_do_not_lie_together_are_none(folder, monkeypatch):
    assert rows_of(folder / "mean.npy", "mean.npy") is None
    monkeypatch.setattr(npy, "most_read", lambda: 0)
    assert rows_of(folder / "mean.npy", "mean.npy", kinds="u") is None
    for array in (
        np.asfortranarray(np.ones((4, 3))),
        np.ones((4, 3), ">f4"),
        np.ones(4),
        np.ones((0, 3)),
        np.ones((4, 3), int),
    ):
        np.save(folder / "x.npy", array)
        assert rows_of(folder / "x.npy", "x.npy") is None


def numbers(report):
    return [(e.method, e.quantity, e.value, e.std_error) for e in report.estimates], report.dimensionwise_kl, report.radius


def test_an_estimate_is_the_same_to_the_bit_and_never_reads_all_rows_at_once(folder, monkeypatch):
    methods = ["monte-carlo", "knn"]
    known = numbers(klprobe.estimate(load(folder, Request()).posterior, methods=methods))
    monkeypatch.setattr(npy, "most_read", lambda: 0)
    posterior = load(folder, Request()).posterior
    assert isinstance(posterior.mean, RowsOnDisk)
    monkeypatch.setattr(RowsOnDisk, "whole", lambda self: pytest.fail("all rows are read"))
    assert numbers(klprobe.estimate(posterior, methods=methods)) == known


def test_a_file_that_is_cut_is_named_with_the_first_row_that_is_gone(folder, large):
    rows = rows_of(folder / "mean.npy", "q/mean.npy")
    os.truncate(folder / "mean.npy", 128 + 100 * D * 4 + 1)
    assert len(rows[:100]) == 100
    with pytest.raises(InputError, match=r"q/mean\.npy was cut while it was read: row 100 of 500 is gone"):
        _ = rows[90:200]


CUT = """
import os, sys
from klprobe.files import npy
from klprobe.distributions import inspection
from klprobe.estimation import run
npy.most_read = lambda: 0
check = run.check_posterior
def cut(posterior):
    os.truncate(sys.argv[1] + "/mean.npy", 1000)
    return check(posterior)
run.check_posterior = cut
from klprobe.cli import main
sys.exit(main(["estimate", "--checkpoint", sys.argv[1], "--methods", "monte-carlo"]))
"""


def test_the_command_ends_with_a_sentence_and_exit_code_2(folder):
    done = subprocess.run([sys.executable, "-c", CUT, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "mean.npy was cut while it was read" in done.stderr
    assert done.stderr.count("\n") == 1


def test_data_for_an_encoder_are_read_by_rows_and_channels_still_come_first(tmp_path, large):
    from klprobe.formats._inputs import open_inputs

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    inputs = open_inputs(Request(data=str(tmp_path / "x.npy")), "encoder.pt")
    assert "channels last, turned to (C, H, W) = (3, 8, 8)" in inputs.notes[0]
    assert torch.equal(inputs.fetch(1, 4), torch.from_numpy(pixels).movedim(-1, 1)[1:4])


def test_a_folder_on_disk_gives_the_answer_of_the_command(folder, large, capsys):
    assert main(["estimate", "--checkpoint", str(folder), "--methods", "closed-form"]) in (0, 3)
    assert "nats" in capsys.readouterr().out
