import itertools
import math

import numpy as np
import pytest

from klprobe.distributions.mixture_entropy import DENSITY_ERROR, clusters, evaluated, integral, integral_of_isolated
from tests.brute import mean_log_density


def integrated(mean, std, weight=None):
    weight = np.full(len(mean), 1 / len(mean)) if weight is None else weight
    level = np.floor(np.log2(std)).astype(int)
    octaves = [evaluated(int(k), *(part[level == k] for part in (mean, std, weight))) for k in np.unique(level)]
    return integral(octaves, float(weight.sum()), DENSITY_ERROR)


def entropy_of_one(std):
    return -0.5 * math.log(2 * math.pi * math.e) - math.log(std)


@pytest.mark.parametrize("std", [1e-12, 0.37, 1.0, 1e6])
def test_one_gaussian_has_its_closed_form_wherever_it_lies(std):
    for mean in (0.0, 17.3, -1e4 * std):
        found = integrated(np.full(2, mean), np.full(2, std))
        assert found.value == pytest.approx(entropy_of_one(std), abs=1e-10)
        assert found.mass == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("distance", [0.5, 1, 2, 3, 4, 5, 6, 8, 20])
@pytest.mark.parametrize("share", [0.5, 1e-3, 1e-9])
@pytest.mark.parametrize("wide", [1.0, 30.0, 1e9])
def test_two_gaussians_at_every_distance_and_their_bound_holds(distance, share, wide):
    mean, std, weight = np.array([0.0, 2.0 * distance]), np.array([1.0, wide]), np.array([1 - share, share])
    found = integrated(mean, std, weight)
    assert abs(found.value - mean_log_density(mean, std, weight)) <= found.error <= 1e-5


def test_the_narrowest_below_the_widest_with_nothing_between_or_something_elsewhere():
    """A panel of the widest that the next octave does not reach may still hold narrower ones."""
    for others in itertools.product((1e-5, 1e-3, 0.1), repeat=2):
        mean, std = np.array([0.0, 0.4, -0.7, 0.4001]), np.array([1.0, 1e-6, *others])
        found = integrated(mean, std)
        assert abs(found.value - mean_log_density(mean, std)) <= found.error <= 1e-5


def test_random_mixtures_of_all_scales_against_brute_force():
    rng = np.random.default_rng(0)
    for n in [2, 3, 10, 40] * 8:
        std = 10 ** rng.uniform(*np.sort(rng.uniform(-12, 6, 2)), n)
        mean = rng.normal(size=n) * 10 ** rng.uniform(-3, 3)
        std = np.maximum(std, 1e-13 * np.abs(mean))
        weight = np.maximum(rng.dirichlet(np.full(n, 0.5)), 1e-9)
        found, truth = integrated(mean, std, weight / weight.sum()), mean_log_density(mean, std, weight / weight.sum())
        assert abs(found.value - truth) <= found.error <= 1e-5


def test_mass_that_is_missed_makes_the_error_infinite():
    mean, std, weight = np.array([0.0, 1.0]), np.array([0.1, 0.1]), np.array([0.5, 0.5])
    assert math.isinf(integral([evaluated(-4, mean[:1], std[:1], weight[:1])], 1.0, DENSITY_ERROR).error)


def test_clusters_are_those_of_intervals_that_touch():
    mean, std = np.array([5.0, 0.0, 100.0, 6.0, 40.0]), np.array([1.0, 0.1, 0.1, 1.0, 0.1])
    order, starts = clusters(mean, std)
    assert [sorted(part.tolist()) for part in np.split(order, starts[1:])] == [[0, 1, 3], [4], [2]]


def test_isolated_components_add_up_in_closed_form():
    weight, std = np.array([0.2, 0.8]), np.array([1e-3, 1e-9])
    found = integral_of_isolated(std, weight)
    assert found.value == pytest.approx(mean_log_density(np.array([0.0, 1.0]), std, weight), abs=1e-9)
