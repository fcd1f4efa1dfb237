"""What `klprobe holes` says and writes: words that follow the numbers, strict JSON, a page that asks for nothing."""

import dataclasses
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from klprobe.distributions.posteriors import DiagonalGaussian, standard_normal
from klprobe.estimation.holes import find_holes
from klprobe.rendering import holes as report
from klprobe.rendering.holes_figures import NAMES, draw_holes, embed
from klprobe.types import InputError, Quantity


def found(dim):
    generator = torch.Generator().manual_seed(0)
    mean = 0.7 * torch.randn(200, dim, generator=generator, dtype=torch.float64)
    posterior = DiagonalGaussian(mean, std=torch.full_like(mean, 0.3))
    return find_holes(posterior, standard_normal(dim), num_samples=300, generator=generator)


@pytest.fixture(scope="module")
def holes():
    return found(5)


def with_share(holes, value, error):
    return dataclasses.replace(holes, share=Quantity(value, error))


@pytest.mark.parametrize(
    ("share", "error", "start", "words"),
    [
        (0.132, 0.009, "There are holes", "13 start"),
        (0.036, 0.004, "There are holes", "3.6 times as many"),
        (0.018, 0.004, "No holes are found", "as a perfect match would"),
        (0.002, 0.001, "No holes are found", "fewer than a perfect match"),
        (0.0, 0.001, "No holes are found", "fewer than a perfect match"),
    ],
)
def test_the_answer_follows_the_share_and_its_error(holes, share, error, start, words):
    said = report.answer(with_share(holes, share, error))
    assert said.startswith(start)
    assert words in said


def test_the_document_is_strict_json_with_everything_ranked(holes):
    document = report.document(holes, {"seed": 0})
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["schema"] == "klprobe.holes/1"
    assert again["share"] == {"value": holes.share.value, "std_error": holes.share.std_error}
    gaps = [row["log_p"] - row["log_q"] for row in again["deepest_holes"]]
    assert gaps == sorted(gaps, reverse=True)
    assert len({row["point"] for row in again["most_crowded_codes"]}) == len(again["most_crowded_codes"]) == report.RANKED
    assert [pair["kl"] for pair in again["pairwise_kl"]] == sorted((p["kl"] for p in again["pairwise_kl"]), reverse=True)
    assert not any(name.endswith("_reason") for name in again)


def test_what_is_not_known_has_its_reason(holes):
    partial = dataclasses.replace(
        holes, dimensionwise_kl=None, dimensionwise_kl_reason="no formula", pairs=None, pairs_reason="no cells"
    )
    document = report.document(partial, {})
    assert document["pairwise_kl"] is None
    assert document["pairwise_kl_reason"] == "no cells"
    assert ("one latent", "not known (no formula)") in report.latents(partial)
    assert [plot.name for plot in draw_holes(partial)] == ["densities", "planes", "radius"]


def test_the_arrays_hold_the_ranked_codes(holes):
    arrays = np.load(io.BytesIO(report.arrays(holes)), allow_pickle=False)
    assert arrays["hole_z"].shape == (report.RANKED, 5)
    gap = arrays["hole_log_p"] - arrays["hole_log_q"]
    assert (np.diff(gap) <= 0).all()
    assert gap[0] <= float((holes.prior_draws.log_p - holes.prior_draws.log_q).max())
    assert arrays["crowded_points"].min() >= 0


class Addresses(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_the_files_are_written_and_the_page_asks_for_nothing(holes, tmp_path):
    images = torch.rand(9, 16, generator=torch.Generator().manual_seed(0))
    plots = draw_holes(holes, {"codes": images, "holes": images[:2]}, embed(holes, 0))
    assert tuple(plot.name for plot in plots) == NAMES
    content = report.document(holes, {"seed": 0})
    report.save(holes, "<model>.npz", content, plots, tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"holes.json", "holes.npz", "holes.html"} | {f"holes-{n}.{kind}" for n in NAMES for kind in ("png", "svg")}
    page = (tmp_path / "out" / "holes.html").read_text()
    addresses = Addresses()
    addresses.feed(page)
    assert all(address.startswith("data:") for address in addresses.found)
    assert "&lt;model&gt;.npz" in page
    assert report.answer(holes) in page
    report.save(holes, "model.npz", content, plots[:1], tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"holes-densities.png"}


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_few_latents_are_drawn_too(dim):
    plots = {plot.name: plot for plot in draw_holes(found(dim), {"points of the plane": torch.zeros(5, 2)})}
    assert ("planes" in plots) == ("pairs" in plots) == (dim > 1)
    for plot in plots.values():
        plot.figure.draw_without_rendering()
        drawn, (width, height) = plot.figure.get_tightbbox(), plot.figure.get_size_inches()
        assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.01, plot.name


def test_a_folder_that_cannot_be_written_to_is_refused(holes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="another folder"):
        report.save(holes, "q", report.document(holes, {}), (), tmp_path / "file")


def test_where_points_do_not_overlap_the_answer_says_so_and_counts_what_the_decoder_has_not_seen(holes):
    apart = dataclasses.replace(
        holes, share=Quantity(None, None, "the points do not overlap"), trained_share=Quantity(1.0, 0.001)
    )
    assert report.answer(apart).startswith("The points do not overlap. Of 100 samples decoded from the prior, 100 start")
    assert report.has_holes(apart)
    assert next(iter(report.shares(apart).values())) == "not known"
    assert report.document(apart, {})["share"] == {
        "value": None,
        "std_error": None,
        "reason": "the points do not overlap",
    }
