import math

import numpy as np
import pytest
import torch

from klprobe.statistics import cross_fit, point_mean, visits


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


def test_control_variates_keep_the_mean_and_take_their_part_of_the_variance():
    rng = np.random.default_rng(2)
    values, runs = [], 200
    subsets = [np.arange(0), np.arange(4)]
    for _ in range(runs):
        controls = rng.normal(size=(120, 4))
        target = 3.0 + controls @ [2.0, 0.0, -1.0, 0.5] + 0.3 * rng.normal(size=120)
        adjusted, _ = cross_fit(target[:, None], controls, np.zeros_like(controls), np.arange(120), subsets)
        values.append((adjusted.residuals.mean(), adjusted.residuals.std() / math.sqrt(120)))
    means, errors = np.array(values).T
    assert abs(means.mean() - 3.0) < 4 * means.std() / math.sqrt(runs)
    assert errors.mean() < 0.2 * math.sqrt(5.34 / 120)
    assert 0.8 < means.std() / errors.mean() < 1.25


def test_useless_control_variates_are_left_out():
    rng = np.random.default_rng(3)
    target, controls = rng.normal(size=(60, 1)), rng.normal(size=(60, 40))
    adjusted, _ = cross_fit(target, controls, controls * 0, np.arange(60), [np.arange(0), np.arange(40)])
    assert adjusted.residuals.std() <= target.std() * (1 + 1e-12)
