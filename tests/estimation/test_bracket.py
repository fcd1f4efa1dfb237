"""The promise: the population bracket holds the true KL as often as its errors claim."""

import math

import pytest
import torch

import klprobe
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimators.classifier import Classifier
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.lstm import Lstm
from klprobe.estimators.maf import Maf
from klprobe.estimators.monte_carlo import MonteCarlo


def misses(dim, std, num_points, data_sets, methods):
    """How often the truth lies outside the 95 % interval, and outside [lower - 2 se, upper + 2 se]."""
    outside_interval = outside_bracket = 0
    for seed in range(data_sets):
        problem = linear_gaussian_encoder(dim, num_points, std, generator=torch.Generator().manual_seed(seed))
        bracket = klprobe.estimate(problem.posterior, problem.prior, methods=methods, seed=seed).brackets["population"]
        low, high = bracket.interval
        outside_interval += not low <= problem.population_kl <= high
        lower, upper = bracket.lower, bracket.upper
        below = problem.population_kl < lower.value - 2 * lower.std_error
        outside_bracket += below or problem.population_kl > upper.value + 2 * upper.std_error
    return outside_interval, outside_bracket


def most(data_sets, share):
    """Four binomial standard errors above what a share of misses gives."""
    return data_sets * share + 4 * math.sqrt(data_sets * share * (1 - share))


@pytest.mark.parametrize(("dim", "std"), [(2, 0.3), (10, 0.5), (32, 0.65)])
def test_the_exact_methods_bracket_the_population_kl_as_often_as_they_claim(dim, std):
    interval, bracket = misses(dim, std, 300, 30, [MonteCarlo(num_samples=400)])
    assert interval <= most(30, 0.05)
    assert bracket <= most(30, 0.05)


LEARNED = [
    MonteCarlo(num_samples=1000),
    Classifier(steps=600, num_samples=5000, num_prior_samples=50_000),
    Gmm(steps=300, components=10, num_samples=5000),
    Lstm(steps=150, num_samples=5000),
    Maf(steps=300, width=32, num_samples=5000),
]
"""Short fits: a bound holds however poor the fit, and many candidates are the chance to pick one that is too good."""


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "std"), [(2, 0.3), (10, 0.5), (32, 0.65)])
def test_all_methods_together_bracket_the_population_kl_as_often_as_they_claim(dim, std):
    interval, bracket = misses(dim, std, 1000, 25, LEARNED)
    assert interval <= most(25, 0.05)
    assert bracket <= most(25, 0.05)
