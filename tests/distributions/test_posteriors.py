import math

import pytest
import torch
from torch.distributions import Categorical, Gamma, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

import klprobe
from klprobe.distributions.posteriors import (
    DiagonalGaussian,
    SampleOnly,
    TorchPosterior,
    as_posterior,
    check_prior,
    conditional_kl,
    sample_prior,
    standard_normal,
)
from klprobe.types import CapabilityError, InputError


def gaussian(n=7, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64), torch.rand(n, d, generator=g, dtype=torch.float64) + 0.1


def full_covariance(n=7, d=3):
    mean, std = gaussian(n, d)
    tril = torch.diag_embed(std) + torch.tril(torch.full((d, d), 0.3, dtype=torch.float64), -1)
    return MultivariateNormal(mean, scale_tril=tril)


def mixture_posterior(n=7, d=3):
    mean, std = gaussian(n * 2, d)
    parts = Independent(Normal(mean.reshape(n, 2, d), std.reshape(n, 2, d)), 1)
    return MixtureSameFamily(Categorical(logits=torch.zeros(n, 2, dtype=torch.float64)), parts)


@pytest.mark.parametrize("name", ["logvar", "var", "std"])
def test_each_spread_gives_the_density_of_torch(name):
    mean, std = gaussian()
    spread = {"logvar": 2 * std.log(), "var": std**2, "std": std}[name]
    q, reference = DiagonalGaussian(mean, **{name: spread}), Independent(Normal(mean, std), 1)
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z), rtol=1e-12, atol=1e-12)
    indices = torch.tensor([3, 3, 0])
    expected = Independent(Normal(mean[indices], std[indices]), 1).log_prob(z[:3])
    torch.testing.assert_close(q.log_prob_at(z[:3], indices), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [full_covariance, mixture_posterior])
def test_any_torch_distribution_is_evaluated_point_by_point(make):
    distribution = make()
    q = as_posterior(distribution)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    every = torch.stack([distribution.log_prob(row.expand(7, 3)) for row in z])
    torch.testing.assert_close(q.log_prob_matrix(z, torch.arange(7)), every, rtol=1e-12, atol=1e-12)
    indices = torch.tensor([6, 0, 2, 2, 5])
    torch.testing.assert_close(q.log_prob_at(z, indices), every[torch.arange(5), indices], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: Independent(Normal(*gaussian()), 1), full_covariance, mixture_posterior])
def test_draws_at_a_point_have_its_mean_and_the_same_seed_gives_the_same_bits(make):
    distribution = make()
    q, indices = as_posterior(distribution), torch.full((4000,), 3)
    first, again = (q.sample_at(indices, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    error = distribution.variance[3].sqrt() / math.sqrt(4000)
    assert ((first.mean(0) - distribution.mean[3]).abs() <= 4.5 * error).all()


def test_a_selection_is_the_posterior_of_those_points():
    indices = torch.tensor([4, 1])
    for q in (DiagonalGaussian(gaussian()[0], std=gaussian()[1]), as_posterior(full_covariance())):
        z = torch.zeros(2, 3, dtype=torch.float64)
        torch.testing.assert_close(q.select(indices).log_prob_at(z, torch.tensor([0, 1])), q.log_prob_at(z, indices))


def test_average_kl_matches_torch_for_diagonal_and_full_covariance():
    mean, std = gaussian()
    prior = Independent(Normal(torch.full((3,), 0.4, dtype=torch.float64), torch.full((3,), 1.7, dtype=torch.float64)), 1)
    diagonal = conditional_kl(DiagonalGaussian(mean, std=std), prior)
    torch.testing.assert_close(diagonal, kl_divergence(Normal(mean, std), prior.base_dist).sum(1), rtol=1e-12, atol=1e-12)
    full = MultivariateNormal(prior.base_dist.loc, scale_tril=torch.diag(prior.base_dist.scale))
    expected = kl_divergence(full_covariance(), full)
    torch.testing.assert_close(conditional_kl(as_posterior(full_covariance()), prior), expected, rtol=1e-12, atol=1e-12)
    assert conditional_kl(as_posterior(mixture_posterior()), prior) is None


def test_a_prior_draw_follows_the_prior_and_its_generator():
    prior = Independent(Gamma(torch.full((2,), 3.0), torch.full((2,), 2.0)), 1)
    draws, again = (sample_prior(prior, 4000, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(draws, again)
    assert ((draws.mean(0) - 1.5).abs() < 4.5 * math.sqrt(0.75 / 4000)).all()


def test_samples_alone_can_be_drawn_and_not_evaluated():
    samples = gaussian()[0].float()
    q = SampleOnly(samples)
    assert torch.equal(q.sample_at(torch.tensor([2, 2]), torch.Generator()), samples[[2, 2]].double())
    with pytest.raises(CapabilityError, match="samples"):
        q.log_prob_at(samples, torch.arange(7))


def test_parameters_in_float32_are_evaluated_in_float64():
    mean, std = gaussian()
    q = as_posterior(MultivariateNormal(mean.float(), scale_tril=torch.diag_embed(std).float()))
    assert isinstance(q, TorchPosterior)
    assert q.log_prob_at(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0])).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagonalGaussian(torch.zeros(3, 2)), "exactly one of"),
        (lambda: DiagonalGaussian(torch.zeros(3, 2), std=torch.ones(3, 2), var=torch.ones(3, 2)), "exactly one of"),
        (lambda: DiagonalGaussian(torch.zeros(3, 2), std=torch.ones(2, 3)), r"\(3, 2\) and \(2, 3\)"),
        (lambda: DiagonalGaussian(torch.zeros(1, 2), std=torch.ones(1, 2)), "N = 1"),
        (lambda: DiagonalGaussian(torch.zeros(4, 0), std=torch.ones(4, 0)), "D = 0"),
        (lambda: as_posterior(Normal(torch.zeros(4, 2), torch.ones(4, 2))), r"Independent\(Normal"),
        (lambda: check_prior(as_posterior(full_covariance()), standard_normal(4)), "3 latents"),
    ],
)
def test_unusable_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_of_few_bits_give_the_report_of_the_same_numbers_in_float64(kind):
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(200, 2, generator=generator).to(kind), torch.full((200, 2), 0.5).to(kind)
    found = []
    for dtype in (kind, torch.float64):
        q = Independent(Normal(mean.to(dtype), std.to(dtype)), 1)
        found.append([(e.method, e.quantity, e.value) for e in klprobe.estimate(q, methods=["monte-carlo", "knn"]).estimates])
    assert found[0] == found[1]
