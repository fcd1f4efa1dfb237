"""The table, document and page of `klprobe evaluate`: every score with its error, whole in a real browser."""

import csv
import json

import pytest
import torch

from klprobe import registry
from klprobe.evaluation.run import Evaluation, Row
from klprobe.metrics import Score
from klprobe.rendering import evaluation as report
from klprobe.rendering.evaluation_figures import NAMES, draw_evaluation, nearest
from klprobe.types import InputError, NotDone, RadiusHistogram

SHAPE = {"means": [0.1, -0.2, 0.0], "covariance": [[1.0, 0.2, 0.0], [0.2, 0.9, 0.0], [0.0, 0.0, 1.1]]}
ROWS = (
    Row("fid", Score("fid", 22.51, 2.41, "lower", net="a net"), Score("fid", 3.82, 2.31, "lower", net="a net")),
    Row("fid", Score("fid-infinity", None, None, "lower", net="a net", reason="needs 130 samples")),
    Row("ms-ssim", *(Score("ms-ssim-diversity", v, 0.02, "closer") for v in (0.58, 0.78, 0.79))),
    Row("elbo", Score("elbo", -24.1, 0.12, "higher", "nats")),
    Row("latents", Score("mean-square", 0.01, None, "closer", details=SHAPE, reason="no error is known")),
    Row(
        "critic",
        *(Score("critic-distance", v, 0.1, "lower", details={"curves": [[[1, 0.5, v], [2, 0.9, v]]] * 2}) for v in (2, 1)),
    ),
)
FOUND = Evaluation(ROWS, (NotDone("modes", "<none> of digits"),), ("grey images",), {"fid": {"divisions": 10}}, {"fid": 1.0})
CONTENT = report.document(FOUND, {"seed": 0})


@pytest.fixture(scope="module")
def plots():
    x = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
    pairs = {name: {"samples": x, "others": x} for name in ("samples", "reconstructions", "neighbours")}
    radius = RadiusHistogram((0.0, 1.0, 2.0), (0.5, 0.5), (0.7, 0.3))
    return draw_evaluation(pairs, ROWS, radius)


def test_every_score_stands_with_its_error_beside_real_data():
    rows = {row[0]: row[1:] for row in report.table(FOUND)}
    assert rows["fid"] == ("22.5 ± 2.4", "3.8 ± 2.3", "-", "lower")
    assert rows["elbo"] == ("-24.10 ± 0.12 nats", "-", "-", "higher")
    assert rows["ms-ssim-diversity"] == ("0.580 ± 0.020", "0.780 ± 0.020", "0.790 ± 0.020", "closer")
    assert rows["fid-infinity"][0] == "-"
    assert report.cell(Score("modes", 8, None, "higher")) == "8"
    assert report.cell(Score("modes", 8, 0.0, "higher")) == "8 ± 0"
    assert report.cell(Score("modes", 8, 1e-66, "higher")) == "8 ± 0"
    assert report.cell(Score("modes", 8, 0.3, "higher")) == "8.00 ± 0.30"
    assert report.cell(Score("c2st-p-value", 0.25, None, "higher")) == "0.2500"
    assert report.missing(FOUND) == [("fid-infinity", "needs 130 samples"), ("modes", "<none> of digits")]
    assert report.nets(FOUND) == ["a net"]


def test_document_and_csv_hold_every_number():
    again = json.loads(json.dumps(CONTENT, allow_nan=False))
    assert again["schema"] == "klprobe.evaluation/1"
    assert again["rows"][0]["real"] == {"value": 3.82, "std_error": 2.31}
    assert again["rows"][1]["reason"] == "needs 130 samples"
    assert "reason" not in again["rows"][0]
    rows = list(csv.DictReader(report.as_csv(CONTENT).splitlines()))
    assert [row["quantity"] for row in rows] == [row.score.quantity for row in ROWS]
    assert float(rows[2]["noisy"]) == 0.79


def test_the_files_are_written_and_old_figures_go(plots, tmp_path):
    assert tuple(plot.name for plot in plots) == NAMES
    report.save(FOUND, "a <model>", CONTENT, plots, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"evaluation.{kind}" for kind in ("json", "csv", "html")} | {
        f"evaluation-{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    }
    text = (tmp_path / "evaluation.html").read_text()
    assert "a &lt;model&gt;" in text
    assert "&lt;none&gt; of digits" in text
    report.save(FOUND, "a model", CONTENT, plots[:1], tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"evaluation-samples.png"}
    with pytest.raises(InputError, match="another folder"):
        report.save(FOUND, "a model", CONTENT, (), tmp_path / "evaluation.html")


@pytest.mark.parametrize("width", [1000, 500])
def test_a_browser_loads_the_page_with_every_figure(plots, in_browser, width):
    in_browser(report.page(FOUND, "a <model>", CONTENT, plots), len(plots), width)


def test_the_nearest_training_points_are_the_nearest():
    digits = registry.load("datasets", "digits")().load("train")
    samples = digits.floats(torch.tensor([3, 700])) + 0.01
    torch.testing.assert_close(nearest(samples, digits), digits.floats(torch.tensor([3, 700])))


def test_points_of_the_plane_are_scattered_and_what_has_no_picture_is_left_out():
    (plot,) = draw_evaluation({"samples": {"a": torch.zeros(5, 2), "b": torch.ones(5, 2)}}, ())
    assert plot.figure.axes[0].get_xlabel()
    assert draw_evaluation({"samples": {"a": torch.zeros(5, 3)}}, ()) == ()
