import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Laplace, Normal, kl_divergence

from klprobe.training.losses import (
    LOG_STD_FLOOR,
    bernoulli_nll,
    best_match,
    cosine_distance,
    empirical_kl,
    fake_loss,
    gaussian_kl,
    gaussian_nll,
    gradient_penalty,
    hinge_fake,
    hinge_real,
    importance_weights,
    imq_mmd,
    l1,
    laplace_nll,
    quantized_normal_nll,
    real_loss,
    reverse_kl,
    squared_error,
)
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


def test_l1_is_a_sum_over_values_and_a_mean_over_points():
    x = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    assert l1(x, torch.zeros(2, 1, 2)) == 1.5


def test_laplace_nll_is_that_of_torch(generator):
    centre, x = torch.randn(2, 7, 2, 3, 3, generator=generator, dtype=torch.float64)
    truth = -Independent(Laplace(centre, 0.3), 3).log_prob(x).mean()
    torch.testing.assert_close(laplace_nll(centre, x, 0.3), truth, rtol=1e-12, atol=0)


def test_quantized_normal_nll_is_the_density_of_dequantized_levels(generator):
    """By hand: y = 255 x + u in units of one level, a normal of mean 256 m and deviation 256 s."""
    x = torch.randint(256, (5, 4), generator=generator).double() / 255
    mean, log_std = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64)
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    raw = LOG_STD_FLOOR + torch.log(torch.expm1(log_std - LOG_STD_FLOOR))
    truth = -Independent(Normal(256 * mean, 256 * log_std.exp()), 1).log_prob(255 * x + u).mean()
    value = quantized_normal_nll(mean, raw, x, torch.Generator().manual_seed(3))
    torch.testing.assert_close(value, truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [2, 256])
def test_quantized_normal_nll_bounds_the_negative_log_probability_of_the_pixel(levels):
    """-log P(level) <= E_u -log p(level + u), by Jensen; 4000 values of u, 4 standard errors are far below the gap."""
    mean, std = 0.4, 0.3
    x = torch.full((4000, 1), 1 / (levels - 1), dtype=torch.float64)
    raw = LOG_STD_FLOOR + torch.log(torch.expm1(torch.tensor(math.log(std) - LOG_STD_FLOOR, dtype=torch.float64)))
    centre = torch.full_like(x, mean)
    bound = quantized_normal_nll(centre, raw.expand_as(x), x, torch.Generator().manual_seed(0), levels)
    normal = Normal(torch.tensor(mean, dtype=torch.float64), std)
    edges = torch.tensor([1 / levels, 2 / levels], dtype=torch.float64)
    exact = -(normal.cdf(edges[1]) - normal.cdf(edges[0])).log()
    assert bound >= exact - 0.02
    assert bound <= exact + 0.5


def test_adversarial_losses_are_their_formulas_and_safe_at_both_ends():
    logits = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    d = logits.sigmoid()
    torch.testing.assert_close(real_loss(logits), -d.log().mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(fake_loss(logits), -(1 - d).log().mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(reverse_kl(logits), (-d.log() + (1 - d).log()).mean(), rtol=1e-12, atol=0)
    for loss in (real_loss, fake_loss, reverse_kl):
        assert loss(torch.tensor([[1e5]])).isfinite()
        assert loss(torch.tensor([[-1e5]])).isfinite()


def test_reverse_kl_of_the_true_log_ratio_is_the_kl_of_fake_from_real(generator):
    """Fakes N(m, 1), real N(0, 1): logit = log real - log fake, and KL[fake||real] = m^2 / 2."""
    m, n = 1.5, 20_000
    z = m + torch.randn(n, 1, generator=generator, dtype=torch.float64)
    log_ratio = 0.5 * ((z - m).square() - z.square())
    assert abs(reverse_kl(log_ratio) - m * m / 2) < 4 * m / math.sqrt(n)


def test_gradient_penalty_of_a_linear_critic_is_its_slopes_distance_from_one(generator):
    slope = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    real, fake = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    penalty = gradient_penalty(lambda x: x @ slope, real, fake, generator)
    torch.testing.assert_close(penalty.item(), 16.0, rtol=1e-12, atol=0)
    (direction,) = torch.autograd.grad(penalty, slope)
    torch.testing.assert_close(direction, 2 * 4 * slope.detach() / 5, rtol=1e-12, atol=0)


def test_gradient_penalty_looks_between_pairs(generator):
    """The critic |x|^2 / 2 has slope |x|: between 2 and 4 along a line the penalty lies between 1 and 9."""
    real, fake = torch.full((1000, 1, 1, 1), 2.0), torch.full((1000, 1, 1, 1), 4.0)
    penalty = gradient_penalty(lambda x: 0.5 * x.flatten(1).square().sum(1), real, fake, generator)
    truth, spread = 26 / 6, 9.0  # the mean of (x - 1)^2 over [2, 4]
    assert abs(penalty - truth) < 4 * spread / math.sqrt(1000)


def test_empirical_kl_is_the_kl_of_the_moments_per_dimension(generator):
    z = 2 * torch.randn(50, 3, generator=generator, dtype=torch.float64) + 1
    q = Independent(Normal(z.mean(0), z.std(0, correction=0)), 1)
    p = Independent(Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)), 1)
    torch.testing.assert_close(empirical_kl(z), kl_divergence(q, p) / 3, rtol=1e-12, atol=0)


def test_cosine_distance_knows_directions_only():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, -1.0]])
    assert cosine_distance(a, a) == 0
    assert cosine_distance(a, b) == 1  # 0 and 2


def test_squared_error_is_a_sum_over_values_and_a_mean_over_points():
    x = torch.tensor([[[1.0, 2.0]], [[0.0, 3.0]]])
    assert squared_error(x, torch.zeros(2, 1, 2)) == 7


def test_best_match_takes_the_nearest_of_the_reconstructions_of_each_point():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[[3.0, 0.0], [1.0, 1.5]], [[0.0, 1.0], [5.0, 1.0]]], requires_grad=True)
    loss = best_match(x, y)
    assert loss == (1 + 0.5) / 2
    (slope,) = torch.autograd.grad(loss, y)
    assert slope.tolist() == [[[0, 0], [0, 0.5]], [[0, 0.5], [0, 0]]]


def test_best_match_of_images_is_that_of_a_slow_loop(generator):
    x, y = torch.randn(4, 2, 3, 3, generator=generator), torch.randn(5, 4, 2, 3, 3, generator=generator)
    truth = sum(min((x[n] - y[i, n]).abs().sum() for i in range(5)) for n in range(4)) / 4
    torch.testing.assert_close(best_match(x, y), truth)
    torch.testing.assert_close(best_match(x, y[:1]), l1(x, y[0]))


def test_hinge_losses_by_hand_with_the_targets_of_both_papers():
    scores = torch.tensor([[2.5], [0.5], [-3.0]], dtype=torch.float64)
    assert hinge_real(scores) == (0 + 0.5 + 4) / 3
    assert hinge_fake(scores) == (3.5 + 1.5 + 0) / 3
    assert hinge_real(scores, 2.0) == (0 + 1.5 + 5) / 3
    assert hinge_fake(scores, 0.0) == (2.5 + 0.5 + 0) / 3


def test_imq_mmd_is_the_u_statistic_of_a_slow_loop(generator):
    z, p = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)

    def k(a, b):
        return 6 / (6 + (a - b).square().sum())

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(k(z[i], z[j]) + k(p[i], p[j]) for i, j in pairs if i != j) / 42
    truth = within - 2 * sum(k(z[i], p[j]) for i, j in pairs) / 49
    torch.testing.assert_close(imq_mmd(z, p), truth, rtol=1e-12, atol=1e-15)


def test_imq_mmd_of_two_samples_of_one_law_is_zero_on_average(generator):
    """400 pairs of samples; within 4 of their own standard errors."""
    values = torch.stack([imq_mmd(*torch.randn(2, 20, 4, generator=generator, dtype=torch.float64)) for _ in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20
    z, p = torch.randn(2, 20, 4, generator=generator)
    assert imq_mmd(z + 2, p) > 4 * values.std()


def test_imq_mmd_has_a_finite_gradient_where_codes_coincide_or_lie_far_out(generator):
    z = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1e8, -1e8]], requires_grad=True)
    value = imq_mmd(z, torch.randn(3, 2, generator=generator))
    assert value.dtype == torch.float32
    (slope,) = torch.autograd.grad(value, z)
    assert slope.isfinite().all()


def test_weights_make_a_weighted_sum_of_the_points_own_terms(generator):
    """Of each term the value of a point alone is the average over a batch of one."""
    x, y, z = (torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    terms = {
        "bernoulli": lambda i, w: bernoulli_nll(y[i], x[i], w),
        "laplace": lambda i, w: laplace_nll(y[i], x[i], 0.3, w),
        "kl": lambda i, w: gaussian_kl(y[i].flatten(1), z[i].flatten(1), w),
        "real": lambda i, w: real_loss(y[i, 0, :1], w),
    }
    for name, term in terms.items():
        alone = [term(slice(i, i + 1), None) for i in range(3)]
        torch.testing.assert_close(term(slice(0, 3), weights), 0.5 * alone[0] + 2 * alone[2], msg=name)
        torch.testing.assert_close(term(slice(0, 3), torch.full((3,), 1 / 3)), torch.stack(alone).mean(), msg=name)


def test_weights_of_a_quantized_normal_use_one_draw_for_all(generator):
    x, mean, raw = (torch.rand(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    average = quantized_normal_nll(mean, raw, x, torch.Generator().manual_seed(0))
    weighted = quantized_normal_nll(mean, raw, x, torch.Generator().manual_seed(0), weights=torch.full((3,), 1 / 3))
    torch.testing.assert_close(weighted, average)


def test_importance_weights_by_hand():
    """D = 1/2, 3/4, 1/4 give D/(1 - D) = 1, 3, 1/3."""
    logits = torch.tensor([[0.0], [math.log(3)], [-math.log(3)]], dtype=torch.float64, requires_grad=True)
    weights = importance_weights(logits)
    torch.testing.assert_close(weights, torch.tensor([3.0, 9.0, 1.0], dtype=torch.float64) / 13)
    assert not weights.requires_grad


def test_gaussian_nll_is_that_of_torch(generator):
    mean, logvar, x = torch.randn(3, 9, 4, generator=generator, dtype=torch.float64)
    truth = -Independent(Normal(mean, torch.exp(0.5 * logvar)), 1).log_prob(x).mean()
    torch.testing.assert_close(gaussian_nll(mean, logvar, x), truth, rtol=1e-12, atol=0)
