import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior, standard_normal


def column(n, seed, std):
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return DiagonalGaussian(mean, std=std * (0.5 + torch.rand(n, 2, generator=g, dtype=torch.float64)))


@pytest.mark.parametrize("std", [0.05, 0.4, 3.0])
def test_quadrature_matches_scipy_on_small_mixtures(std):
    q = column(20, 0, std)
    values, _ = dimensionwise_kl(q, standard_normal(2))
    mean, spread = (t.numpy() for t in q.rows(slice(None)))
    for d in range(2):

        def term(z, d=d):
            density = np.exp(-0.5 * ((z - mean[:, d]) / spread[:, d]) ** 2) / (spread[:, d] * math.sqrt(2 * math.pi))
            total = density.mean()
            return 0.0 if total == 0 else total * (math.log(total) + 0.5 * z * z + 0.5 * math.log(2 * math.pi))

        edges = np.linspace((mean - 9 * spread)[:, d].min(), (mean + 9 * spread)[:, d].max(), 200)
        expected = sum(quad(term, a, b)[0] for a, b in itertools.pairwise(edges))
        assert values[d] == pytest.approx(expected, abs=2e-5)


def test_islands_give_the_value_of_separate_components():
    mean = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None].repeat(1, 2)
    q = DiagonalGaussian(mean, std=torch.full_like(mean, 1e-3))
    expected = float((0.5 * (1e-6 + mean[:, 0] ** 2 - 1) - math.log(1e-3)).mean()) - math.log(40)
    assert dimensionwise_kl(q, standard_normal(2))[0] == pytest.approx((expected, expected), abs=2e-5)


def test_a_collapsed_latent_has_no_divergence():
    q = DiagonalGaussian(torch.zeros(50, 2).double(), std=torch.ones(50, 2).double())
    assert dimensionwise_kl(q, standard_normal(2))[0] == pytest.approx((0.0, 0.0), abs=1e-6)


def test_what_cannot_be_resolved_or_defined_has_a_reason():
    mean = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    narrow = DiagonalGaussian(mean, std=torch.full_like(mean, 1e-7))
    assert "too narrow" in dimensionwise_kl(narrow, standard_normal(1))[1]
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(torch.zeros(2, 2), torch.ones(2, 2)), 1))
    assert "factorise" in dimensionwise_kl(column(20, 0, 1.0), mixture)[1]
    full = as_posterior(MultivariateNormal(torch.zeros(5, 2), torch.eye(2)))
    assert "mean and standard deviation" in dimensionwise_kl(full, standard_normal(2))[1]
