import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from klprobe.losses import bernoulli_nll, gaussian_kl
from klprobe.types import InputError


def test_bernoulli_nll_is_that_of_torch_summed_over_pixels_averaged_over_the_batch(generator):
    logits = 3 * torch.randn(7, 2, 5, 5, generator=generator, dtype=torch.float64)
    x = (torch.rand(7, 2, 5, 5, generator=generator) < 0.3).double()
    truth = -Independent(Bernoulli(logits=logits), 3).log_prob(x).mean()
    torch.testing.assert_close(bernoulli_nll(logits, x), truth, rtol=1e-12, atol=0)


def test_bernoulli_nll_takes_grey_levels_as_probabilities():
    x = torch.full((1, 1), 0.25, dtype=torch.float64)
    truth = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(bernoulli_nll(torch.logit(x), x).item(), truth, rtol=1e-12, atol=0)


def test_bernoulli_nll_stays_finite_for_extreme_logits():
    logits = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
    assert bernoulli_nll(logits, torch.tensor([[0.0, 1.0]], dtype=torch.float64)) == 2e4
    assert bernoulli_nll(logits, torch.tensor([[1.0, 0.0]], dtype=torch.float64)) == 0


@pytest.mark.parametrize("value", [-0.1, 255.0])
def test_bernoulli_nll_refuses_data_outside_the_unit_interval(value):
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        bernoulli_nll(torch.zeros(2, 1), torch.tensor([[0.5], [value]]))


def test_gaussian_kl_is_that_of_torch_averaged_over_the_batch(generator):
    mean, logvar = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    q = Independent(Normal(mean, torch.exp(0.5 * logvar)), 1)
    p = Independent(Normal(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)), 1)
    torch.testing.assert_close(gaussian_kl(mean, logvar), kl_divergence(q, p).mean(), rtol=1e-12, atol=0)


def test_gaussian_kl_is_zero_at_the_prior_and_only_there():
    zeros = torch.zeros(3, 2, dtype=torch.float64)
    assert gaussian_kl(zeros, zeros) == 0
    assert gaussian_kl(zeros + 0.1, zeros) > 0
    assert gaussian_kl(zeros, zeros + 0.1) > 0
