import math

import numpy as np
import pytest
import torch

from klprobe.distributions.statistics import clustered_mean, coinciding, point_mean, together, visits


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


def test_products_within_clusters_are_those_of_all_points_in_the_mean_over_the_draws():
    """A slow double loop over all points against the mean of 2,000 draws' answers, within 4 of its standard errors."""
    rng = np.random.default_rng(0)
    n, clusters = 60, np.repeat(np.arange(12), 5)
    means = rng.normal(size=12)[clusters] + 0.5 * rng.normal(size=n)
    centred = means - means.mean()
    truth = sum(centred[i] * centred[j] for i in range(n) for j in range(n) if i != j and clusters[i] == clusters[j]) / n
    every = np.arange(n)
    assert together(means, every, clusters) == pytest.approx(truth)
    found = []
    for _ in range(2000):
        points = rng.permutation(n)[:40]
        found.append(together(means[points] + rng.normal(size=40), points, clusters))
    # centring on the draws' own mean takes off about the variance of that mean, cluster sizes at a time
    slack = 5 * (1 + centred.var()) / 40
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / math.sqrt(2000) + slack


def test_the_variance_of_a_weighted_mean_over_clusters_is_found_from_coinciding_draws():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(15), 4)
    weights = rng.random(60) + 0.1
    share, means = weights / weights.sum(), rng.normal(size=60)
    centred = share * (means - share @ means)
    truth = sum(centred[clusters == c].sum() ** 2 for c in range(15))
    found = []
    for _ in range(1000):
        points = rng.choice(60, 500, p=share)
        found.append(coinciding(means[points] + rng.normal(size=500), clusters[points]))
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / math.sqrt(1000) + 4 / 500**1.0 * truth


@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_of_a_clustered_mean_is_honest(weighted):
    """z-scores over 500 data sets: their variance is 1 within 4 sqrt(2 / 500), and a t-tail."""
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(500):
        clusters = np.repeat(np.arange(50), 6)
        values = rng.normal(size=50)[clusters] + 0.3 * rng.normal(size=300)
        weights = torch.from_numpy(np.exp(0.5 * rng.normal(size=300))) if weighted else None
        mean = clustered_mean(torch.from_numpy(values), weights, torch.from_numpy(clusters))
        scores.append(mean.value / mean.std_error)
    assert abs(np.mean(scores)) < 4 / math.sqrt(500)
    assert 0.75 < np.var(scores) < 1.35


def test_the_mean_of_points_that_are_alone_and_weigh_the_same_is_the_plain_one():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = clustered_mean(values, None, None)
    assert plain == (float(values.mean()), float(values.std()) / math.sqrt(50))
    assert clustered_mean(values, torch.ones(50), torch.arange(50)) == pytest.approx(plain)
