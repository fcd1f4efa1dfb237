import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily, Normal

from klprobe.distributions.clusters import with_rows
from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior, standard_normal
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimators.closed_form import ClosedForm


def run(posterior, prior, **settings):
    found = ClosedForm(**settings).estimate(posterior, prior, generator=torch.Generator().manual_seed(0))
    return {(e.quantity, e.target, e.bound): e for e in found}


def test_average_kl_and_its_bounds_are_the_formula():
    problem = linear_gaussian_encoder(4, 200, 0.4, generator=torch.Generator().manual_seed(0))
    mean, std = problem.posterior.rows(slice(None))
    each = (0.5 * (std**2 + mean**2 - 1) - std.log()).sum(1)
    found = run(problem.posterior, problem.prior)
    average = found["average-kl", "population", "exact"]
    assert average.value == pytest.approx(float(each.mean()), rel=1e-12)
    assert average.std_error == pytest.approx(float(each.std()) / math.sqrt(200), rel=1e-12)
    assert found["kl", "empirical", "lower"].value == pytest.approx(float(each.mean()) - math.log(200), rel=1e-12)
    assert found["kl", "empirical", "upper"].std_error == 0.0
    assert ("kl", "population", "lower") not in found


def test_without_a_closed_form_draws_give_the_average_kl():
    """KL[Laplace(m, b) || N(0, 1)] = b^2 + m^2 / 2 - 1 - log(2b) + log(2 pi) / 2, which torch knows for one latent only."""
    b, mean = 0.7, torch.linspace(-1, 1, 100).double().reshape(50, 2)
    q = MixtureSameFamily(Categorical(torch.ones(50, 1)), Independent(Laplace(mean[:, None], b), 1))
    truth = 2 * (b * b - 1 - math.log(2 * b) + 0.5 * math.log(2 * math.pi)) + 0.5 * float(mean.square().sum(1).mean())
    estimate = run(q, standard_normal(2))["kl", "empirical", "upper"]
    assert estimate.std_error > 0
    assert abs(estimate.value - truth) <= 4 * estimate.std_error


@pytest.mark.parametrize("kind", ["formula", "draws"])
@pytest.mark.parametrize("weighted", [False, True])
def test_groups_and_weights_give_the_weighted_mean_and_the_error_over_groups(kind, weighted):
    """Against a slow sum over groups; by draws, whose own variance comes on top, within 4 standard errors and 15 %."""
    g = torch.Generator().manual_seed(0)
    groups = torch.arange(200) // 10
    mean = torch.randn(20, 2, generator=g, dtype=torch.float64)[groups] + 0.1 * torch.randn(200, 2, generator=g).double()
    weights = torch.exp(0.5 * torch.randn(200, generator=g, dtype=torch.float64)) if weighted else None
    if kind == "formula":
        plain = DiagonalGaussian(mean, std=torch.full_like(mean, 0.4))
    else:  # the same Gaussians in a form of which torch knows no divergence
        plain = as_posterior(
            MixtureSameFamily(Categorical(torch.ones(200, 1).double()), Independent(Normal(mean[:, None], 0.4), 1))
        )
    found = run(with_rows(plain, groups=groups, weights=weights), standard_normal(2), num_samples=20_000)
    each = (0.5 * (0.16 + mean.square() - 1) - math.log(0.4)).sum(1)
    share = torch.full((200,), 1 / 200, dtype=torch.float64) if weights is None else weights / weights.sum()
    average = float(share @ each)
    sums = torch.stack([(share * (each - average))[groups == k].sum() for k in range(20)])
    error = math.sqrt(float(sums.square().sum()) * 20 / 19)
    said = found["average-kl", "population", "exact"]
    of_draws = found["kl", "empirical", "upper"].std_error
    if kind == "formula":
        assert of_draws == 0
        assert said.value == pytest.approx(average, rel=1e-12)
        assert said.std_error == pytest.approx(error, rel=1e-9)
    else:
        assert abs(said.value - average) <= 4 * of_draws
        assert said.std_error == pytest.approx(math.hypot(error, of_draws), rel=0.15)
    ceiling = float(-torch.xlogy(share, share).sum())
    assert found["kl", "empirical", "lower"].value == pytest.approx(said.value - ceiling, rel=1e-9)
