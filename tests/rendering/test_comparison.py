"""Checkpoints side by side: every number in its column, every dash with its reason, whole in a real browser."""

import csv
import json
from pathlib import Path

import pytest

from klprobe.evaluation.run import Evaluation, Row
from klprobe.metrics import Score
from klprobe.rendering import comparison
from klprobe.rendering.comparison import Compared
from klprobe.types import NotDone


def evaluation(value):
    row = Row("fid", Score("fid", value, 0.5, "lower", net="a net"), Score("fid", 1.0, 0.2, "lower", net="a net"))
    return Evaluation((row,), (NotDone("elbo", "dcgan has no encoder"),), ("grey images",), {}, {})


@pytest.fixture
def compared(report_of):
    return [
        Compared("vae", Path("a"), "test data of digits", report_of("easy"), evaluation(3.0)),
        Compared("<gan>", Path("b"), "test data of digits", None, evaluation(5.0), (NotDone("KL", "has no encoder"),)),
        Compared("samples", Path("c"), "test data of mnist", report_of("sample_only")),
    ]


def test_every_number_stands_in_its_checkpoints_column(compared):
    rows = {row[0]: row[1:] for row in comparison.table(compared)}
    assert comparison.columns(compared) == ("quantity", "vae", "<gan>", "samples", "real data", "better")
    assert rows["fid"] == ("3.00 ± 0.50", "5.00 ± 0.50", "-", "1.00 ± 0.20", "lower")
    assert rows["average KL"] == ("5.140 ± 0.011 nats", "-", "-", "-", "-")
    assert rows["verdict"][:2] == ("resolved", "-")
    assert "nats" in rows["KL[q||p], population"][0]


def test_every_dash_has_its_reason_and_different_data_are_said(compared):
    reasons = dict(comparison.missing(compared))
    assert reasons["<gan>, KL"] == "has no encoder"
    assert reasons["vae, elbo"] == "dcgan has no encoder"
    assert "gives samples only" in reasons["samples, average KL"]
    said = comparison.notes(compared)
    assert said[0] == "grey images"
    assert "different data (test data of digits, test data of mnist)" in said[-1]
    assert len(comparison.notes(compared[:2])) == 1


def test_labels_are_the_shortest_that_differ():
    labels = comparison.labels
    assert labels([Path("runs/vae/checkpoint.safetensors"), Path("runs/aae/checkpoint.safetensors")]) == ["vae", "aae"]
    assert labels([Path("a/x.npz"), Path("b/y.npz")]) == ["x.npz", "y.npz"]
    assert labels([Path("a/x.npz"), Path("b/x.npz"), Path("c/vae/checkpoint.safetensors")]) == ["a/x.npz", "b/x.npz", "c/vae"]
    assert labels([Path("x.npz"), Path("x.npz")]) == ["1: x.npz", "2: x.npz"]
    assert labels([Path("checkpoint.safetensors")]) == ["checkpoint.safetensors"]


def test_files_hold_every_number(compared, tmp_path):
    content = comparison.document(compared, {"seed": 0})
    comparison.save(compared, content, tmp_path)
    again = json.loads((tmp_path / "comparison.json").read_text())
    assert again["schema"] == "klprobe.comparison/1"
    assert again["checkpoints"][0]["report"]["schema"] == "klprobe.report/1"
    assert again["checkpoints"][1]["report"] is None
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    found = {(row["checkpoint"], row["quantity"]): row["value"] for row in rows}
    assert float(found["vae", "population-kl-upper"]) == pytest.approx(compared[0].report.brackets["population"].upper.value)
    assert float(found["<gan>", "fid"]) == 5
    assert "&lt;gan&gt;" in (tmp_path / "comparison.html").read_text()


def test_a_browser_loads_the_page(compared, in_browser):
    in_browser(comparison.page(compared, comparison.document(compared, {})), 0, 600)
