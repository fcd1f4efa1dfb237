import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily

from klprobe.distributions.posteriors import standard_normal
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
