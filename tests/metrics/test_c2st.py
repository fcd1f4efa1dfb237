import math

import pytest
import torch

from klprobe.metrics._shared import Features
from klprobe.metrics.c2st import C2ST
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


def test_the_same_seed_gives_the_same_scores():
    x, y = normal(100, 0), normal(100, 1, 0.3)
    assert run(x, y, 3) == run(x, y, 3)


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(InputError, match="at least 20 points"):
        run(normal(19, 0), normal(50, 1))
    with pytest.raises(InputError, match="nothing to tell apart"):
        run(torch.zeros(40, 2), torch.zeros(40, 2))
