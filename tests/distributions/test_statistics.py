import math

import numpy as np
import pytest
import torch

from klprobe.distributions.statistics import point_mean, visits


def test_every_point_is_visited_once_and_any_prefix_holds_repeats():
    order = visits(1000, torch.Generator().manual_seed(0))
    assert set(order.tolist()) == set(range(1000))
    for length in (4, 40, 300, 1000):
        prefix = order[:length].tolist()
        assert 0 < length - len(set(prefix)) <= max(1, length // 3)


@pytest.mark.parametrize("num_draws", [60, 250, 900, 2700])
def test_the_variance_of_a_point_mean_is_honest_for_the_points_at_hand_and_for_the_population(num_draws):
    """z-scores over 400 runs: their variance is 1 within 4 standard errors of a variance, sqrt(2/400), and a t-tail."""
    rng = np.random.default_rng(1)
    n, runs, at_hand, population = 300, 400, [], []
    fixed = rng.normal(0, 1.5, n)
    for run in range(runs):
        generator = torch.Generator().manual_seed(run)
        order = torch.cat([visits(n, generator) for _ in range(math.ceil(num_draws / n))])[:num_draws].numpy()
        for means, truth, scores in ((fixed, fixed.mean(), at_hand), (rng.normal(0, 1.5, n), 0.0, population)):
            mean = point_mean(means[order] + rng.normal(0, 1.0, num_draws), order, n)
            extra = mean.between_variance / n if scores is population else 0.0
            scores.append((mean.value - truth) / math.sqrt(mean.conditional_variance + extra))
    for scores in (at_hand, population):
        assert abs(np.mean(scores)) < 4 / math.sqrt(runs)
        assert 0.7 < np.var(scores) < 1.35
