import math

import pytest
import torch

from klprobe.metrics import Features
from klprobe.metrics.inception_score import InceptionScore
from klprobe.types import CapabilityError, InputError


def logits(n, classes=4, seed=0, scale=2.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(given, **settings):
    (score,) = InceptionScore(**settings).measure(Features(torch.zeros(len(given), 1), "a net", given))
    return score


@pytest.mark.parametrize("splits", [1, 10])
def test_it_is_that_of_torchmetrics(splits):
    inception = pytest.importorskip("torchmetrics.image.inception")
    given = logits(500)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = inception.InceptionScore(feature=torch.nn.Identity(), splits=splits)
        theirs.update(given)
        torch.manual_seed(1)
        expected, _ = theirs.compute()
        torch.manual_seed(1)
        order = torch.randperm(len(given))
    assert run(given[order], splits=splits).value == pytest.approx(float(expected), rel=1e-6)


def test_sure_and_varied_gives_the_number_of_classes_and_sure_of_one_gives_one():
    certain = 1000 * torch.eye(4, dtype=torch.float64).repeat(5, 1)
    assert run(certain).value == pytest.approx(4)
    assert run(certain[:1].repeat(8, 1)).value == pytest.approx(1)
    assert run(torch.zeros(8, 4)).value == pytest.approx(1)


@pytest.mark.parametrize("start", [0, 500])
def test_the_error_is_the_spread_over_data_sets(start):
    """200 sets: their spread has a relative error of 5 %; the error is first-order, so 20 % are allowed."""
    found = [run(logits(300, seed=seed)) for seed in range(start, start + 200)]
    spread = torch.tensor([score.value for score in found]).std()
    error = torch.tensor([score.std_error for score in found]).mean()
    assert math.isclose(spread, error, rel_tol=0.2)


def test_what_has_no_score_is_refused():
    with pytest.raises(InputError, match="at least 2 classes"):
        run(torch.zeros(10, 1))
    with pytest.raises(InputError, match="3 samples for 2 splits"):
        run(torch.zeros(3, 4), splits=2)
    with pytest.raises(CapabilityError, match="no classes"):
        InceptionScore().measure(Features(torch.zeros(3, 1), "a net"))
