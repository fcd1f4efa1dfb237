"""Samples whose maker is not here: what can be said of them beside data, and what cannot."""

import pytest
import torch

from klprobe.evaluation.evidence import Evidence
from klprobe.evaluation.feature_net import raw_values
from klprobe.evaluation.run import choose, evaluate
from klprobe.evaluation.samples import SamplesAlone, as_data_are
from klprobe.metrics._statistics import frechet_distance, moments
from klprobe.registry import create
from klprobe.training.data import Data
from klprobe.types import CapabilityError, InputError


def normal(n, seed, dim=3, scale=1.0):
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def judged(samples, data, names=("fid", "prdc"), training=None, **settings):
    settings = {"num_samples": 10_000, **settings}
    given = SamplesAlone(Data("a.npy", "all", samples))
    kept = None if training is None else Data("b.npy", "train", training)
    evidence = Evidence(given, Data("b.npy", "all", data), kept, create("datasets", "ring"), raw_values, **settings)
    return evaluate(choose(names), evidence)


def test_fid_is_that_of_all_samples_and_data_and_nothing_stands_in_their_place():
    x, y = normal(400, 0, scale=1.5), normal(400, 1)
    found = judged(x, y)
    rows = {row.score.quantity: row for row in found.rows}
    expected = frechet_distance(moments(x.double()), moments(y.double()))
    assert rows["fid"].score.value == pytest.approx(float(expected), rel=1e-9)
    assert all(row.real is None and row.noisy is None for row in found.rows)
    assert any("no data are set apart" in note for note in found.notes)


def test_data_that_are_set_apart_stand_in_the_samples_place():
    found = judged(normal(300, 0), normal(300, 1), training=normal(300, 2))
    assert all(row.real is not None for row in found.rows)


def test_sets_are_made_equal_in_size():
    found = judged(normal(120, 0), normal(900, 1), names=("prdc",))
    assert found.rows[0].score.details["samples"] == found.rows[0].score.details["data"] == 120
    with pytest.raises(InputError, match="at least 2 samples"):
        judged(normal(1, 0), normal(9, 1))


def test_what_needs_the_maker_says_so():
    names = ("elbo", "ivom", "latents", "c2st-latents", "own-accuracy", "accuracy")
    found = judged(normal(60, 0), normal(60, 1), names=names)
    assert not found.rows
    assert {missing.method for missing in found.not_done} == set(names)
    assert all("needs the system that made the samples" in missing.reason for missing in found.not_done)
    with pytest.raises(CapabilityError, match=r"a\.npy is samples alone"):
        SamplesAlone(Data("a.npy", "all", normal(3, 0))).need("anything")


@pytest.mark.parametrize(
    ("samples", "data"),
    [((0, 1), (0, 1)), ((-1, 1), (0, 1)), ((0, 255), (0, 1)), ((0, 1), (-1, 1)), ((0, 255), (-1, 1)), ((0, 1), (0, 255))],
)
def test_images_of_two_scales_are_compared_on_that_of_the_data(samples, data):
    unit = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    unit[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    (low, high), (start, end) = samples, data
    found, notes = as_data_are(low + (high - low) * unit, start + (end - start) * unit)
    assert torch.allclose(found, start + (end - start) * unit, atol=1e-5 * (end - start))
    assert bool(notes) == (samples != data)


def test_samples_of_no_known_range_are_not_cut_off_but_refused():
    unit = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="Of the samples, images lie in"):
        as_data_are(1000 * unit, unit)
    found = judged((1000 * unit), unit, names=("prdc",))
    assert "not a range that klprobe knows" in found.not_done[0].reason
