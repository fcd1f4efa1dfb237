import math

import pytest
import torch

from klprobe.metrics import Features
from klprobe.metrics._two_samples import TwoSamples
from klprobe.metrics.c2st import C2ST
from klprobe.metrics.c2st_latents import C2STLatents
from klprobe.types import InputError


def run(x, y, seed=0, **settings):
    scores = C2ST(**settings).measure(Features(x, "a net"), Features(y, "a net"), torch.Generator().manual_seed(seed))
    return {score.quantity: score for score in scores}


def normal(n, seed, shift=0.0, scale=1.0, dim=2):
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_for_equal_distributions_the_p_value_is_uniform():
    """Kolmogorov and Smirnov's statistic of 100 p-values stays below 1.95 / 10 with probability 99.9 %."""
    values = [
        run(normal(60, 2 * s), normal(60, 2 * s + 1), s, classifier="linear", permutations=199)["c2st-p-value"].value
        for s in range(100)
    ]
    p = torch.tensor(values).sort().values
    steps = torch.arange(101) / 100
    assert max((steps[1:] - p).max(), (p - steps[:-1]).max()) < 0.195


def test_a_linear_judge_reaches_the_best_accuracy_on_shifted_normals():
    """Bayes: Phi(shift / 2), shift = 1 in each of two dimensions, apart by sqrt 2."""
    found = run(normal(3000, 0, 1.0), normal(3000, 1), classifier="linear")["c2st-accuracy"]
    best = 0.5 * (1 + math.erf(math.sqrt(2) / 2 / math.sqrt(2)))
    assert abs(found.value - best) < 4 * found.std_error
    assert found.better == "lower"


def test_only_the_mlp_sees_a_difference_of_spread():
    x, y = normal(800, 0, scale=2.0), normal(800, 1)
    assert run(x, y)["c2st-accuracy"].value > 0.6
    assert run(x, y)["c2st-p-value"].value == 1 / 1000
    assert run(x, y, classifier="linear")["c2st-accuracy"].value < 0.58


@pytest.mark.parametrize(("classifier", "scale", "shift"), [("linear", 1.0, 0.5), ("mlp", 2.0, 0.0)])
def test_the_error_holds_what_points_and_fits_vary_by(classifier, scale, shift):
    """An mlp sees the spread of 100 points in some fits only. 40 sets: a relative error of 11 %, hence 0.6 to 1.4."""
    found = [
        run(normal(200, 2 * s, shift, scale), normal(200, 2 * s + 1), s, classifier=classifier, permutations=9)["c2st-accuracy"]
        for s in range(40)
    ]
    spread = torch.tensor([score.value for score in found]).std()
    error = torch.tensor([score.std_error for score in found]).square().mean().sqrt()
    assert 0.6 < spread / error < 1.4


def test_the_p_values_error_is_that_of_its_permutations():
    """Over seeds of the permutations alone: as many as said, within a factor of 1.5 (50 seeds: 10 %)."""
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3))
    judge = TwoSamples("linear", 1, 1, 99, 60)
    values = torch.tensor([judge._p_value(logits, 30, torch.Generator().manual_seed(s)) for s in range(50)])
    p = float(values.mean())
    assert 1 / 1.5 < float(values.std()) / math.sqrt(p * (1 - p) / 99) < 1.5


def test_codes_are_told_from_the_prior_as_features_from_data():
    """Equal laws: within 4 errors of 0.5; a mean moved by 1 in each of two latents: Bayes, as above."""
    best = 0.5 * (1 + math.erf(math.sqrt(2) / 2 / math.sqrt(2)))
    for shift, expected in ((0.0, 0.5), (1.0, best)):
        codes, prior = normal(1000, 0, shift), normal(1000, 1)
        accuracy, p = C2STLatents(classifier="linear").measure(codes, prior, torch.Generator().manual_seed(0))
        assert abs(accuracy.value - expected) < 4 * accuracy.std_error
        assert (p.value < 0.01) == (shift > 0)
        assert accuracy.details["held_out"] == 2000
    for codes, prior in ((normal(19, 0), normal(99, 0)), (normal(99, 0), normal(99, 0, dim=3))):
        with pytest.raises(InputError, match="at least 20 codes"):
            C2STLatents().measure(codes, prior, torch.Generator())


def test_the_same_seed_gives_the_same_scores():
    x, y = normal(100, 0), normal(100, 1, 0.3)
    assert run(x, y, 3) == run(x, y, 3)


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(InputError, match="at least 20 points"):
        run(normal(19, 0), normal(50, 1))
    with pytest.raises(InputError, match="nothing to tell apart"):
        run(torch.zeros(40, 2), torch.zeros(40, 2))
