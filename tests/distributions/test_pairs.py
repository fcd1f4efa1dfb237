import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch.distributions import Independent, MultivariateNormal, Normal

from klprobe.distributions import pairs
from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.pairs import pairwise_kl
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior, standard_normal
from klprobe.distributions.priors import mixture


def gaussian(covariance, num_points, std, generator):
    """Points whose population's q(z) is N(0, covariance), and the KL of that from N(0, I)."""
    covariance = torch.tensor(covariance, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance - std**2 * torch.eye(len(covariance)))
    mean = torch.randn(num_points, len(covariance), generator=generator, dtype=torch.float64) @ root.T
    return DiagonalGaussian(mean, std=torch.full_like(mean, std))


def kl(covariance):
    return 0.5 * (np.trace(covariance) - len(covariance) - math.log(np.linalg.det(covariance)))


def test_pairs_of_a_gaussian_have_the_kl_of_its_covariance(generator):
    """N = 20,000 points leave 0.01 nats of noise; a cell of a quarter loses less than a tenth of that."""
    covariance = np.array([[0.8, 0.5, 0.0], [0.5, 0.9, 0.0], [0.0, 0.0, 1.4]])
    found, _ = pairwise_kl(gaussian(covariance, 20_000, 0.3, generator), standard_normal(3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float(found.kl[i, j]) == pytest.approx(kl(covariance[np.ix_([i, j], [i, j])]), abs=0.01)
    assert float(found.dependence[0, 1]) == pytest.approx(-0.5 * math.log(1 - 0.25 / 0.72), abs=0.01)
    assert float(found.dependence[0, 2]) < 0.002
    assert [pair[:2] for pair in found.ranked()] == [(0, 1), (0, 2), (1, 2)]
    assert found.ranked()[0][2:] == (float(found.kl[0, 1]), float(found.dependence[0, 1]))


def test_it_is_the_sum_over_cells_of_brute_force(generator):
    mean = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    std = 0.05 + torch.rand(50, 2, generator=generator, dtype=torch.float64)
    edges = np.concatenate([[-np.inf], np.arange(-pairs.REACH, pairs.REACH + 0.01, pairs.STEP), [np.inf]])
    cells = [np.diff(ndtr((edges - mean[:, d, None].numpy()) / std[:, d, None].numpy()), axis=1) for d in range(2)]
    mass = np.einsum("ni,nj->ij", *cells) / 50
    prior = np.diff(ndtr(edges))
    expected = np.sum(mass[mass > 0] * np.log(mass[mass > 0] / np.outer(prior, prior)[mass > 0]))
    found, _ = pairwise_kl(DiagonalGaussian(mean, std=std), standard_normal(2))
    assert float(found.kl[0, 1]) == pytest.approx(expected, rel=1e-4)  # float32 products


def test_cells_only_lose(generator):
    q = gaussian([[0.8, 0.5], [0.5, 0.9]], 500, 0.1, generator)
    found, _ = pairwise_kl(q, standard_normal(2))
    alone, _ = dimensionwise_kl(q, standard_normal(2))
    for d in range(2):
        assert 0.5 * alone[d] < float(found.kl[d, d]) < alone[d] + 1e-5


def test_posteriors_narrower_than_any_cell_and_codes_beyond_the_last_are_no_trouble():
    mean = torch.tensor([[100.0, 0.0], [-100.0, 0.0]], dtype=torch.float64)
    found, _ = pairwise_kl(DiagonalGaussian(mean, std=torch.full_like(mean, 1e-8)), standard_normal(2))
    assert torch.isfinite(found.kl).all()
    assert float(found.kl[0, 1]) > 10
    assert float(found.dependence[0, 1]) == pytest.approx(0, abs=1e-6)


def test_moving_and_scaling_both_changes_nothing(generator):
    q = gaussian([[0.8, 0.5], [0.5, 0.9]], 300, 0.3, generator)
    mean, std = q.rows(slice(None))
    scale, shift = torch.tensor([3.0, 0.2], dtype=torch.float64), torch.tensor([1.0, -5.0], dtype=torch.float64)
    moved = pairwise_kl(DiagonalGaussian(mean * scale + shift, std=std * scale), Independent(Normal(shift, scale), 1))[0]
    torch.testing.assert_close(moved.kl, pairwise_kl(q, standard_normal(2))[0].kl, rtol=1e-5, atol=1e-7)


def test_of_many_latents_those_that_differ_most_are_paired(generator, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_LATENTS", 2)
    mean = torch.randn(400, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 0.1, 1.0, 3.0])
    found, _ = pairwise_kl(DiagonalGaussian(mean, std=torch.full_like(mean, 0.2)), standard_normal(4))
    assert found.latents.tolist() == [1, 3]
    assert [pair[:2] for pair in found.ranked()] == [(1, 3)]


def test_what_has_no_cells_says_why(generator):
    z = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    q = DiagonalGaussian(z, std=torch.ones_like(z))
    full = as_posterior(MultivariateNormal(z, torch.eye(2, dtype=torch.float64)))
    for posterior, prior, word in (
        (SampleOnly(z), standard_normal(2), "mean and standard deviation"),
        (full, standard_normal(2), "mean and standard deviation"),
        (q, mixture(q), "factorise"),
        (DiagonalGaussian(z[:, :1], std=torch.ones(30, 1)), standard_normal(1), "one latent"),
    ):
        found, reason = pairwise_kl(posterior, prior)
        assert found is None
        assert word in reason
