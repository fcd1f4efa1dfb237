"""Every truth held against Monte Carlo with the true densities, or quadrature; every density against its own sampler."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from klprobe.distributions import problems
from klprobe.distributions.posteriors import as_posterior, conditional_kl, sample_with
from klprobe.types import CapabilityError, InputError

WARPS = ("half-cube", "asinh", "spiral", "mix", "asinh-mix")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs():
    gaussian = problems.paper_pair(4, generator=seeded(1), unit_scale=True)
    found = {
        "paper-1": problems.paper_pair(1, generator=seeded()),
        "paper-20": problems.paper_pair(20, generator=seeded()),
        "unit": gaussian,
        "shifted": problems.shifted_gaussians(3, 2.0),
        "same": problems.shifted_gaussians(3, 0.0),
        "mixtures": problems.mixtures(3),
        "student-t": problems.student_t(3),
    }
    return found | {name: problems.warped(gaussian, name) for name in WARPS}


PAIRS = pairs()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", range(2))
def test_the_truth_is_the_mean_log_ratio_of_the_densities(name, seed):
    pair = PAIRS[name]
    z = sample_with(pair.q, 40_000, seeded(seed))
    log_ratio = pair.q.log_prob(z) - pair.p.log_prob(z)
    assert z.dtype == log_ratio.dtype == torch.float64
    assert abs(float(log_ratio.mean()) - pair.kl) <= 4.5 * float(log_ratio.std()) / 200 + 1e-12


@pytest.mark.parametrize("name", PAIRS)
def test_prior_draws_follow_the_priors_density(name):
    """E_p[q/(q + p)] + E_q[p/(q + p)] = 1 only when both samplers match both densities."""
    pair = PAIRS[name]
    q, p = (sample_with(side, 40_000, seeded(3)) for side in (pair.q, pair.p))
    on_q, on_p = (torch.sigmoid(pair.q.log_prob(z) - pair.p.log_prob(z)) for z in (q, p))
    error = math.hypot(float(on_q.std()), float(on_p.std())) / 200
    assert abs(float(on_p.mean() + on_q.mean()) - 1) <= 4.5 * error + 1e-12


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("dim", [2, 5])
def test_a_warp_is_undone_by_its_inverse_and_its_jacobian_is_that_of_autograd(name, dim):
    warp, x = problems.Warp(name), torch.randn(6, dim, generator=seeded(), dtype=torch.float64)
    y = warp(x)
    assert (y - x).abs().max() > 0.01
    torch.testing.assert_close(warp.inv(y), x, rtol=1e-10, atol=1e-10)
    slow = torch.stack([torch.linalg.slogdet(torch.autograd.functional.jacobian(warp, row)).logabsdet for row in x])
    torch.testing.assert_close(warp.log_abs_det_jacobian(x, y), slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 7, 200])
def test_the_papers_gaussian_is_a_linear_map_of_ten_times_as_many_normals(dim):
    """N(b, W^T W) with the W and b that the same generator draws, and the closed form of the KL computed by hand."""
    again = seeded(5)
    sides = []
    for _ in range(2):
        w = torch.randn(10 * dim, dim, generator=again, dtype=torch.float64)
        sides.append((torch.randn(dim, generator=again, dtype=torch.float64), w.T @ w))
    pair = problems.paper_pair(dim, generator=seeded(5))
    for side, (mean, covariance) in zip((pair.q, pair.p), sides, strict=True):
        assert torch.equal(side.loc, mean)
        torch.testing.assert_close(side.scale_tril @ side.scale_tril.T, covariance, rtol=1e-10, atol=1e-9)
    (b_q, s_q), (b_p, s_p) = sides
    inverse, shift = torch.linalg.inv(s_p), b_p - b_q
    by_hand = 0.5 * (torch.trace(inverse @ s_q) + shift @ inverse @ shift - dim + torch.logdet(s_p) - torch.logdet(s_q))
    assert pair.kl == pytest.approx(float(by_hand), rel=1e-9)
    assert 0 < pair.kl < 0.1 * dim + 1, "about 0.056 nats a dimension"


def test_shifted_gaussians_have_the_kl_asked_for_in_any_dimension():
    for dim, kl in ((1, 0.0), (7, 5.0), (1000, 100.0)):
        pair = problems.shifted_gaussians(dim, kl)
        assert float(kl_divergence(pair.q, pair.p)) == pytest.approx(kl, abs=1e-9) == pytest.approx(pair.kl, abs=1e-9)


def test_mixtures_add_up_over_dimensions_and_one_component_has_the_closed_form():
    assert problems.mixtures(6).kl == pytest.approx(6 * problems.mixtures(1).kl, rel=1e-12)
    one = problems.mixtures(2, means=(0.7,), stds=(0.4,))
    truth = 2 * float(kl_divergence(Normal(0.7, 0.4), Normal(0.0, 1.0)))
    assert one.kl == pytest.approx(truth, rel=1e-6)
    weighted = problems.mixtures(1, weights=(1.0, 0.0, 0.0))
    assert weighted.kl == pytest.approx(float(kl_divergence(Normal(-1.5, 0.5), Normal(0.0, 1.0))), rel=1e-6)


def test_student_t_against_quadrature():
    df = 3.5
    z, w = problems._gauss_legendre(-math.pi / 2, math.pi / 2, 20_000)
    x, jacobian = torch.tan(z), 1 / torch.cos(z).square()
    scale = math.sqrt((df - 2) / df)
    log_q = torch.distributions.StudentT(torch.tensor(df).double(), 0.0, scale).log_prob(x)
    by_hand = float((w * jacobian * log_q.exp() * (log_q - Normal(0.0, 1.0).log_prob(x))).nan_to_num().sum())
    # what lies beyond the last node weighs x^2 q(x) there: tails fall as x^-1.5, by 1e-5 at x = 1e5
    assert problems.student_t(2, df).kl == pytest.approx(2 * by_hand, abs=2e-3)


def test_two_samples_hide_both_densities_and_draw_afresh_at_every_point():
    problem = problems.two_samples(problems.shifted_gaussians(2, 1.0), 50)
    q = as_posterior(problem.posterior)
    assert (q.num_points, q.dim, q.has_log_prob, problem.prior.has_log_prob) == (50, 2, False, False)
    z = q.sample_at(torch.zeros(1000, dtype=torch.long), seeded())
    assert len(z.unique(dim=0)) == 1000
    assert q.select(torch.arange(7)).num_points == 7
    with pytest.raises(CapabilityError, match="samples"):
        q.log_prob_at(z[:1], torch.tensor([0]))
    with pytest.raises(CapabilityError, match="samples"):
        problem.prior.log_prob(z)
    assert dataclasses.is_dataclass(problem)


def test_the_linear_encoders_population_is_the_gaussian_it_says():
    """In 128 dimensions the pooled moments of 20,000 points are those of N(0, AA^T + std^2 I) within 5 standard errors."""
    problem = problems.linear_gaussian_encoder(128, 20_000, 0.3, generator=seeded())
    z = as_posterior(problem.posterior).sample_at(torch.arange(20_000), seeded(1))
    eigenvalues = torch.linspace(0.7, 1.2, 128, dtype=torch.float64).square()
    trace = z.square().sum(1)
    assert abs(float(trace.mean() - eigenvalues.sum())) < 5 * float(trace.std()) / math.sqrt(20_000)
    assert problem.population_kl == pytest.approx(0.5 * float((eigenvalues - 1 - eigenvalues.log()).sum()), rel=1e-12)


@pytest.mark.parametrize(("dim", "information"), [(1, 2.0), (20, 5.0)])
def test_the_shifted_encoders_codes_tell_what_was_asked_for_and_its_population_is_the_shifted_gaussian(dim, information):
    problem = problems.shifted_encoder(dim, 3.0, 20_000, generator=seeded(), information=information)
    q, p = as_posterior(problem.posterior), problem.prior
    z = q.sample_at(torch.arange(20_000), seeded(1))
    shift = math.sqrt(6.0 / dim)
    assert ((z.mean(0) - shift).abs() <= 4.5 / math.sqrt(20_000)).all()
    # the variance of 20,000 squares is off by sqrt(2 / 20,000) = 0.01
    assert ((z.var(0) - 1).abs() <= 4.5 * 0.01).all()
    # average KL = information + KL of the population, and the closed form knows the average KL of these points
    average = conditional_kl(q, p)
    error = float(average.std()) / math.sqrt(20_000)
    assert float(average.mean()) == pytest.approx(information + 3.0, abs=4.5 * error)
    assert problem.population_kl == 3.0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: problems.paper_gaussian(0, generator=seeded()), "d = 0"),
        (lambda: problems.paper_gaussian(5, generator=seeded(), features=4), "k = 4"),
        (lambda: problems.shifted_gaussians(0, 1.0), "d = 0"),
        (lambda: problems.shifted_gaussians(2, -1.0), "KL = -1"),
        (lambda: problems.student_t(2, 2.0), "df > 2"),
        (lambda: problems.Warp("twist"), "half-cube"),
        (lambda: problems.shifted_encoder(2, 1.0, 10, generator=seeded(), information=0.0), "information = 0"),
        (lambda: problems.linear_gaussian_encoder(2, 10, 0.9, generator=seeded()), "0.9"),
    ],
)
def test_what_makes_no_problem_is_refused_with_the_numbers(build, words):
    with pytest.raises(InputError, match=words):
        build()
