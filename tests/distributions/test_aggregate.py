"""The aggregate posterior as a Distribution, against torch's MixtureSameFamily and slow loops."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Cauchy,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TanhTransform,
    TransformedDistribution,
)

import klprobe
from klprobe.distributions.aggregate import MOST_LATENTS, AggregatePosterior
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.types import CapabilityError, InputError

N, D = 300, 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(seed=0):
    mean = torch.randn(N, D, generator=rng(seed), dtype=torch.float64)
    return mean, 0.2 + torch.rand(N, D, generator=rng(seed + 1), dtype=torch.float64)


def scale_tril(seed=0):
    return torch.tril(0.3 * torch.randn(N, D, D, generator=rng(seed), dtype=torch.float64), -1) + torch.diag_embed(
        parameters(seed)[1]
    )


FAMILIES = {
    "diagonal": lambda: Independent(Normal(*parameters()), 1),
    "full": lambda: MultivariateNormal(parameters()[0], scale_tril=scale_tril()),
    "low rank": lambda: LowRankMultivariateNormal(parameters()[0], scale_tril()[:, :, :1], parameters()[1]),
    "Student-t": lambda: Independent(StudentT(5.0, *parameters()), 1),
}


def mixture(family):
    """The same by torch, with its (M, N, D) tensors."""
    return MixtureSameFamily(Categorical(torch.ones(N, dtype=torch.float64)), family)


@pytest.mark.parametrize("name", FAMILIES)
def test_log_density_is_that_of_torchs_mixture_for_codes_of_any_shape(name):
    family = FAMILIES[name]()
    z = torch.randn(2, 5, D, generator=rng(3), dtype=torch.float64)
    found = AggregatePosterior(family).log_prob(z)
    torch.testing.assert_close(found, mixture(family).log_prob(z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(AggregatePosterior(family).log_prob(z[0, 0]), found[0, 0], rtol=1e-12, atol=1e-12)
    assert AggregatePosterior(family).log_prob(z.float()).dtype == torch.float64


def brute_force(q, z, left_out):
    everything = torch.stack([q.log_prob(row.expand(N, D)) for row in z])
    for row, indices in zip(everything, left_out, strict=True):
        row[[i for i in indices if i >= 0]] = -math.inf
    left = torch.tensor([N - len({i for i in indices if i >= 0}) for indices in left_out])
    return everything.logsumexp(1) - left.double().log()


@pytest.mark.parametrize("name", FAMILIES)
def test_components_left_out_are_missing_from_sum_and_count(name):
    family = FAMILIES[name]()
    aggregate = AggregatePosterior(family)
    z, own = aggregate.draw(40, generator=rng(4))
    pairs = torch.stack([own, torch.arange(40)], 1)
    pairs[::3, 1], pairs[1::3, 1] = -1, own[1::3]  # one alone, and the same one twice
    for indices in (own, pairs, torch.full((40, 2), -1)):
        expected = brute_force(family, z, indices.reshape(40, -1).tolist())
        torch.testing.assert_close(aggregate.leave_one_out_log_prob(z, indices), expected, rtol=1e-9, atol=1e-9)
    shaped = aggregate.leave_one_out_log_prob(z.reshape(8, 5, D), own.reshape(8, 5))
    torch.testing.assert_close(shaped.flatten(), aggregate.leave_one_out_log_prob(z, own), rtol=0, atol=0)


def test_its_mass_is_one_with_and_without_a_component():
    q = DiagonalGaussian(torch.tensor([[-1.0], [0.5], [3.0]]), std=torch.tensor([[0.3], [1.0], [0.1]]))
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    aggregate = AggregatePosterior(q)
    for log_density in (aggregate.log_prob(grid), aggregate.leave_one_out_log_prob(grid, torch.full((len(grid),), 1))):
        assert abs(float(torch.trapezoid(log_density.exp(), grid[:, 0])) - 1) < 1e-8


@pytest.mark.parametrize("name", FAMILIES)
def test_moments_are_those_of_torchs_mixture_and_of_the_law_of_total_covariance(name):
    family = FAMILIES[name]()
    aggregate, expected = AggregatePosterior(family), mixture(family)
    torch.testing.assert_close(aggregate.mean, expected.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(aggregate.variance, expected.variance, rtol=1e-12, atol=1e-14)
    shifted = family.mean - family.mean.mean(0)
    within = family.covariance_matrix if hasattr(family, "covariance_matrix") else torch.diag_embed(family.variance)
    torch.testing.assert_close(aggregate.covariance, within.mean(0) + shifted.T @ shifted / N, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(aggregate.covariance.diagonal(), aggregate.variance, rtol=1e-12, atol=1e-14)


def test_moments_of_many_far_points_lose_no_digits():
    mean = 1e6 + torch.randn(20_000, 2, generator=rng(5), dtype=torch.float64)
    aggregate = AggregatePosterior(DiagonalGaussian(mean, std=torch.full_like(mean, 0.5)))
    torch.testing.assert_close(aggregate.variance, mean.var(0, correction=0) + 0.25, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        aggregate.covariance, mean.T.cov(correction=0) + 0.25 * torch.eye(2).double(), rtol=1e-9, atol=1e-9
    )


def test_draws_are_of_the_components_that_they_name():
    mean, _ = parameters()
    aggregate = AggregatePosterior(DiagonalGaussian(mean, std=torch.full((N, D), 1e-6)))
    z, indices = aggregate.draw(2000, generator=rng(6))
    assert z.dtype == torch.float64
    assert float((z - mean[indices]).abs().max()) < 1e-4
    counts = indices.bincount(minlength=N).double()
    chi_square = float(((counts - 2000 / N).square() / (2000 / N)).sum())
    assert abs(chi_square - (N - 1)) < 4 * math.sqrt(2 * (N - 1)), "components are not drawn evenly"
    assert torch.equal(aggregate.draw(50, generator=rng(7))[0], aggregate.draw(50, generator=rng(7))[0])


def test_samples_have_the_shape_that_is_asked_for_and_the_moments_of_the_mixture():
    aggregate = AggregatePosterior(FAMILIES["diagonal"]())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert aggregate.sample().shape == (D,)
        assert aggregate.sample((2, 5)).shape == (2, 5, D)
        z = aggregate.sample((20_000,))
    error = (aggregate.variance / len(z)).sqrt()
    assert bool(((z.mean(0) - aggregate.mean).abs() < 4.5 * error).all())


def test_it_is_a_prior_like_any_other():
    """Against itself as prior the empirical KL is 0, whatever the draws."""
    posterior = FAMILIES["diagonal"]()
    report = klprobe.estimate(posterior, AggregatePosterior(posterior), methods=["monte-carlo"])
    upper = report.brackets["empirical"].upper
    assert abs(upper.value) <= 1e-9
    other = AggregatePosterior(Independent(Normal(*parameters(seed=20)), 1))
    report = klprobe.estimate(posterior, other, methods=["monte-carlo"])
    z, _ = AggregatePosterior(posterior).draw(20_000, generator=rng(8))
    ratios = AggregatePosterior(posterior).log_prob(z) - other.log_prob(z)
    found, error = report.brackets["empirical"].upper, float(ratios.std()) / math.sqrt(len(ratios))
    assert abs(found.value - float(ratios.mean())) < 4 * math.hypot(found.std_error, error)


def test_what_cannot_be_answered_is_refused_with_the_reason():
    aggregate = AggregatePosterior(FAMILIES["diagonal"]())
    z = torch.zeros(4, D, dtype=torch.float64)
    with pytest.raises(InputError, match="Codes of 3 latents"):
        aggregate.log_prob(torch.zeros(4, 2))
    with pytest.raises(InputError, match=r"z\.detach"):
        aggregate.log_prob(z.requires_grad_())
    z = z.detach()
    with pytest.raises(InputError, match="one index"):
        aggregate.leave_one_out_log_prob(z, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="0 to 299"):
        aggregate.leave_one_out_log_prob(z, torch.full((4,), N))
    with pytest.raises(InputError, match="All components"):
        AggregatePosterior(DiagonalGaussian(z[:2], std=z[:2] + 1)).leave_one_out_log_prob(z, torch.tensor([[0, 1]] * 4))
    with pytest.raises(CapabilityError, match="only gives samples"):
        AggregatePosterior(SampleOnly(z)).log_prob(z)
    wide = torch.zeros(2, MOST_LATENTS + 1)
    with pytest.raises(InputError, match="4,096"):
        _ = AggregatePosterior(DiagonalGaussian(wide, std=wide + 1)).covariance
    squashed = TransformedDistribution(Normal(*parameters()), [TanhTransform()])
    moments = AggregatePosterior(Independent(squashed, 1))
    with pytest.raises(CapabilityError, match="closed form"):
        _ = moments.mean
    with pytest.raises(InputError, match="batch shape"):
        AggregatePosterior(Normal(torch.zeros(3), 1.0))


def test_no_codes_give_no_densities():
    aggregate = AggregatePosterior(FAMILIES["diagonal"]())
    assert aggregate.log_prob(torch.empty(0, D)).shape == (0,)
    assert aggregate.leave_one_out_log_prob(torch.empty(0, D), torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_moments_that_do_not_exist_are_no_numbers():
    aggregate = AggregatePosterior(Independent(Cauchy(*parameters()), 1))
    assert bool(aggregate.mean.isnan().all())
    assert bool(aggregate.log_prob(torch.zeros(1, D)).isfinite().all())


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_weighted_densities_draws_and_moments_are_those_of_a_mixture_with_these_weights(kind):
    g = torch.Generator().manual_seed(5)
    mean, std = torch.randn(300, 3, generator=g).double(), torch.rand(300, 3, generator=g).double() + 0.05
    weights = torch.rand(300, generator=g).double() ** 4 + 1e-3
    law = torch.distributions.Normal if kind == "gaussian" else torch.distributions.Laplace
    aggregate = AggregatePosterior(Independent(law(mean, std), 1), weights=weights)
    share = weights / weights.sum()
    z, _ = aggregate.draw(4000, generator=g)
    terms = law(mean, std).log_prob(z[:, None, :]).sum(-1) + share.log()
    torch.testing.assert_close(aggregate.log_prob(z), terms.logsumexp(1), rtol=1e-12, atol=1e-9)
    without = torch.randint(300, (4000, 4), generator=g)
    kept = torch.ones(4000, 300, dtype=torch.float64).scatter_(1, without, 0.0)
    left_out = (terms + kept.log()).logsumexp(1) - (kept @ share).log()
    torch.testing.assert_close(aggregate.leave_one_out_log_prob(z, without), left_out, rtol=1e-12, atol=1e-9)
    centre = share @ mean
    inner = law(mean, std).variance
    torch.testing.assert_close(aggregate.mean, centre, rtol=1e-12, atol=1e-12)
    covariance = (share[:, None] * (mean - centre)).T @ (mean - centre) + (share @ inner).diag()
    torch.testing.assert_close(aggregate.covariance, covariance, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(aggregate.variance, covariance.diagonal(), rtol=1e-10, atol=1e-12)
    assert ((z.mean(0) - centre).abs() < 4 * (covariance.diagonal() / 4000).sqrt()).all()
    assert "weighted" in repr(aggregate)


def test_weights_of_another_length_or_sign_are_refused():
    q = Independent(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 1)
    for wrong in (torch.ones(3), torch.tensor([1.0, 0.0, 1.0, 1.0])):
        with pytest.raises(InputError, match="weights"):
            AggregatePosterior(q, weights=wrong)
