import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily, MultivariateNormal, Normal

from klprobe.distributions import marginals
from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior, standard_normal
from tests.brute import kl_on_the_line


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


def one_latent(mean, std):
    return DiagonalGaussian(torch.as_tensor(mean)[:, None], std=torch.as_tensor(std)[:, None])


@pytest.mark.parametrize("share_of_far", [0.005, 0.02])
@pytest.mark.parametrize("std", [1e-7, 0.1])
def test_an_outlier_or_a_small_cluster_far_away_is_seen(share_of_far, std):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=200) * 0.05
    mean[: round(200 * share_of_far)] += 200.0
    spread = np.full(200, std)
    assert dimensionwise_kl(one_latent(mean, spread), standard_normal(1))[0][0] == pytest.approx(
        kl_on_the_line(mean, spread), abs=1e-5
    )


def test_narrow_posteriors_have_log_n_less_entropy_than_one():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=1000)
    expected = float(0.5 * (1e-14 + mean**2 - 1).mean() - math.log(1e-7) - math.log(1000))
    assert dimensionwise_kl(one_latent(mean, np.full(1000, 1e-7)), standard_normal(1))[0][0] == pytest.approx(
        expected, abs=1e-5
    )


def test_ties_are_one_component_of_more_mass():
    mean, std = np.repeat([0.0, 1.0, 3.0], [700, 299, 1]), np.full(1000, 1e-4)
    expected = kl_on_the_line(np.array([0.0, 1.0, 3.0]), np.full(3, 1e-4), weight=np.array([0.7, 0.299, 0.001]))
    assert dimensionwise_kl(one_latent(mean, std), standard_normal(1))[0][0] == pytest.approx(expected, abs=1e-5)


def test_weights_are_what_repeated_rows_are():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(3000, 2)), rng.uniform(0.05, 1, (3000, 2))
    times = rng.integers(0, 4, 3000)
    repeated = DiagonalGaussian(
        *map(torch.from_numpy, [np.repeat(mean, times, 0)]), std=torch.from_numpy(np.repeat(std, times, 0))
    )
    whole, _ = dimensionwise_kl(repeated, standard_normal(2))
    q = DiagonalGaussian(torch.from_numpy(mean), std=torch.from_numpy(std))
    weighted, _ = dimensionwise_kl(q, standard_normal(2), weights=torch.from_numpy(times) * 7.0)
    assert weighted == pytest.approx(whole, abs=1e-8)


def test_large_sets_in_bins_agree_with_their_components_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    std = np.exp(rng.normal(size=(20_000, 3)) * 0.5 + np.array([-3, -1, 0]))
    q = DiagonalGaussian(torch.from_numpy(rng.normal(size=(20_000, 3)) * 3), logvar=torch.from_numpy(2 * np.log(std)).float())
    prior = Independent(Normal(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([2.0, 1.0, 3.0])), 1)
    by_bins, reason = dimensionwise_kl(q, prior)
    monkeypatch.setattr(marginals, "PER_PANEL", math.inf)
    one_by_one, _ = dimensionwise_kl(q, prior)
    assert reason is None
    assert by_bins == pytest.approx(one_by_one, abs=1e-8)
    assert by_bins != one_by_one  # so two ways were gone


def test_full_covariances_have_gaussian_marginals():
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(50, 3, generator=g, dtype=torch.float64)
    tril = torch.randn(50, 3, 3, generator=g, dtype=torch.float64).tril(-1) + 0.3 * torch.eye(3).double()
    values, _ = dimensionwise_kl(as_posterior(MultivariateNormal(mean, scale_tril=tril)), standard_normal(3))
    std = (tril @ tril.mT).diagonal(dim1=-2, dim2=-1).sqrt()
    for d in range(3):
        assert values[d] == pytest.approx(kl_on_the_line(mean[:, d].numpy(), std[:, d].numpy()), abs=1e-5)


def test_of_too_many_latents_a_random_choice_is_computed_and_the_reason_says_so(monkeypatch):
    assert marginals.MOST_LATENTS == 4096
    monkeypatch.setattr(marginals, "MOST_LATENTS", 40)
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 50, generator=g, dtype=torch.float64)
    values, reason = dimensionwise_kl(DiagonalGaussian(mean, std=torch.ones(3, 50)), standard_normal(50))
    known = [d for d, value in enumerate(values) if not math.isnan(value)]
    assert len(known) == 40
    assert max(known) > 40
    assert "40 of 50" in reason
    for d in known:
        assert values[d] == pytest.approx(kl_on_the_line(mean[:, d].numpy(), np.ones(3)), abs=1e-5)


def test_what_cannot_be_defined_has_a_reason():
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(torch.zeros(2, 2), torch.ones(2, 2)), 1))
    assert "factorise" in dimensionwise_kl(column(20, 0, 1.0), mixture)[1]
    laplace = as_posterior(Independent(Laplace(torch.zeros(5, 2), torch.ones(5, 2)), 1))
    assert "mean and standard deviation" in dimensionwise_kl(laplace, standard_normal(2))[1]
