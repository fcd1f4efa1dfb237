import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch.distributions import Independent, MultivariateNormal, Normal

from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.clusters import with_rows
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior, standard_normal
from klprobe.distributions.priors import UniformSphere
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimation.holes import GROUPS, find_holes
from klprobe.estimation.run import estimate, generator_of
from klprobe.types import CapabilityError, InputError
from tests.brute import kl_on_the_line


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def within(share, truth):
    assert abs(share.value - truth) <= 4 * share.std_error, (share, truth)


def scaled_gaussian(dim, num_points, std, scale, seed=0):
    """q(z) = N(0, scale^2 I) as a mixture of points, and its two shares for N(0, I), by chi-squared radii."""
    problem = linear_gaussian_encoder(dim, num_points, std, generator=seeded(seed), spread=(scale, scale))
    radius = stats.chi2.ppf(0.99, dim)
    return problem, stats.chi2.sf(scale**2 * radius, dim), stats.chi2.sf(radius / scale**2, dim)


@pytest.fixture
def shares_alone(monkeypatch):
    """Leave out what takes time and is tested elsewhere."""
    for name in ("dimensionwise_kl", "pairwise_kl"):
        monkeypatch.setattr(f"klprobe.estimation.holes.{name}", lambda *_, **__: (None, "not needed"))


@pytest.mark.usefixtures("shares_alone")
def test_a_perfect_model_has_one_percent_of_holes_and_not_a_hundred():
    problem, *_ = scaled_gaussian(32, 10_000, math.sqrt(0.1), 1.0)
    holes = find_holes(problem.posterior, problem.prior, num_samples=3000, generator=seeded(1))
    within(holes.share, 0.01)
    within(holes.reverse_share, 0.01)
    assert holes.share.std_error < 0.005
    every = AggregatePosterior(problem.posterior).log_prob(holes.codes.z)  # its own component kept
    assert float((holes.prior_draws.log_q < every.quantile(0.01)).double().mean()) > 0.9


@pytest.mark.parametrize(("dim", "scale"), [(1, 0.8), (2, 0.7), (2, 1.2)])
def test_shares_of_gaussians_are_those_of_their_radii(dim, scale):
    problem, share, reverse = scaled_gaussian(dim, 4000, 0.3, scale)
    holes = find_holes(problem.posterior, problem.prior, num_samples=4000, generator=seeded(1))
    within(holes.share, share)
    within(holes.reverse_share, reverse)


def test_the_gap_between_two_groups_is_the_hole_that_quadrature_finds():
    """q is two Gaussians with a gap at 0, where the prior has most of its mass."""
    generator = seeded(0)
    side = torch.randint(2, (4000, 1), generator=generator) * 2 - 1
    mean = 2.0 * side + 0.4 * torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    q = DiagonalGaussian(mean, std=torch.full_like(mean, 0.3))
    holes = find_holes(q, standard_normal(1), num_samples=4000, generator=generator)

    def density(z):
        return stats.norm.pdf(z, 2, 0.5) / 2 + stats.norm.pdf(z, -2, 0.5) / 2

    def mass_below(level, of):
        z = np.linspace(-8, 8, 400_001)
        return integrate.trapezoid(np.where(density(z) < level, of(z), 0), z)

    level = optimize.brentq(lambda t: mass_below(t, density) - 0.01, 1e-6, 0.3, xtol=1e-9)
    within(holes.share, mass_below(level, stats.norm.pdf))
    assert holes.share.value > 0.2
    assert bool((holes.deepest(20).z.abs() < 0.6).all())


def test_codes_are_scored_without_their_own_point_and_prior_draws_by_all():
    generator = seeded(0)
    mean = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    q = DiagonalGaussian(mean, std=0.1 + torch.rand(60, 3, generator=generator, dtype=torch.float64))
    holes = find_holes(q, standard_normal(3), num_samples=150, generator=generator)
    matrix = q.log_prob_matrix(holes.codes.z, torch.arange(60))
    matrix[torch.arange(150), holes.codes.points] = -math.inf
    torch.testing.assert_close(holes.codes.log_q, matrix.logsumexp(1) - math.log(59), rtol=1e-9, atol=1e-9)
    everything = q.log_prob_matrix(holes.prior_draws.z, torch.arange(60)).logsumexp(1) - math.log(60)
    torch.testing.assert_close(holes.prior_draws.log_q, everything, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(holes.codes.log_p, standard_normal(3).log_prob(holes.codes.z))
    assert holes.threshold == pytest.approx(float(holes.codes.log_q.quantile(0.01)))
    assert holes.share.value == float((holes.prior_draws.log_q < holes.threshold).double().mean())
    assert set(holes.prior_draws.points.tolist()) == {-1}


def test_any_posterior_with_a_density_will_do():
    problem, *_ = scaled_gaussian(2, 100, 0.4, 0.8)
    full = MultivariateNormal(problem.posterior.mean, 0.16 * torch.eye(2, dtype=torch.float64))
    first, second = (find_holes(q, problem.prior, num_samples=200, generator=seeded(1)) for q in (full, problem.posterior))
    assert first.pairs is None
    assert first.pairs_reason
    assert first.dimensionwise_kl == pytest.approx(second.dimensionwise_kl, abs=1e-9)
    gap = abs(first.share.value - second.share.value)
    assert gap <= 4 * math.hypot(first.share.std_error, second.share.std_error)


def test_the_worst_places_come_first_and_a_data_point_once():
    generator = seeded(0)
    mean = torch.randn(300, 2, generator=generator, dtype=torch.float64) * 0.5
    mean[:30] = torch.tensor([6.0, 0.0]) + 0.1 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    holes = find_holes(
        DiagonalGaussian(mean, std=torch.full_like(mean, 0.1)), standard_normal(2), num_samples=1000, generator=generator
    )
    crowded = holes.crowded(20)
    assert set(crowded.points.tolist()) < set(range(30))
    assert len(set(crowded.points.tolist())) == 20
    excess = crowded.log_q - crowded.log_p
    assert bool((excess.diff() <= 0).all())
    deepest = holes.deepest(10)
    assert bool(((deepest.log_p - deepest.log_q).diff() <= 0).all())
    assert bool((deepest.z.norm(dim=1) > 1).all())  # the codes are within
    assert bool((deepest.z.norm(dim=1) < 2.4).all())  # and a tenth of the prior's draws without 2.1
    assert bool((holes.ordinary(50).log_q >= holes.threshold).all())


def test_the_same_seed_gives_the_same_bits_and_another_other_draws():
    problem, *_ = scaled_gaussian(2, 100, 0.4, 0.8)
    first, again, other = (
        find_holes(problem.posterior, problem.prior, num_samples=200, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert first.share == again.share
    assert torch.equal(first.codes.log_q, again.codes.log_q)
    assert not torch.equal(first.codes.log_q, other.codes.log_q)


def test_moving_and_scaling_both_changes_nothing():
    problem, *_ = scaled_gaussian(2, 200, 0.4, 0.8)
    mean, std = problem.posterior.rows(slice(None))
    moved = DiagonalGaussian(4 * mean + 1, std=4 * std)
    prior = Independent(Normal(torch.ones(2).double(), torch.full((2,), 4.0).double()), 1)
    first = find_holes(problem.posterior, problem.prior, num_samples=500, generator=seeded(1))
    second = find_holes(moved, prior, num_samples=500, generator=seeded(1))
    assert (first.share.value, first.reverse_share.value) == (second.share.value, second.reverse_share.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"posterior": SampleOnly(torch.zeros(100, 2))}, CapabilityError, "without a density"),
        ({"prior": UniformSphere(2)}, CapabilityError, "UniformSphere"),
        ({"prior": standard_normal(3)}, InputError, "2 latents"),
        ({"posterior": DiagonalGaussian(torch.zeros(2 * GROUPS - 1, 2), std=torch.ones(2 * GROUPS - 1, 2))}, InputError, "40"),
        ({"num_samples": 50}, InputError, "at least 100"),
        ({"level": 0.0}, InputError, "quantile"),
        ({"level": 0.9}, InputError, "quantile"),
        ({"posterior": DiagonalGaussian(torch.full((99, 2), math.nan), std=torch.ones(99, 2))}, InputError, "NaN"),
    ],
)
def test_what_has_no_holes_to_find_is_refused(change, error, message):
    problem, *_ = scaled_gaussian(2, 100, 0.4, 0.8)
    arguments = {"posterior": problem.posterior, "prior": problem.prior, "num_samples": 200, **change}
    with pytest.raises(error, match=message):
        find_holes(**arguments, generator=seeded())


@pytest.mark.slow
@pytest.mark.usefixtures("shares_alone")
@pytest.mark.parametrize(("dim", "num_points", "scale"), [(1, 1000, 0.8), (2, 1000, 0.8), (2, 400, 1.0), (32, 1000, 1.0)])
def test_errors_are_honest_over_data_sets(dim, num_points, scale):
    """z-scores of 120 data sets: their spread is 1 up to the jackknife's own error, a sixth, and that of 120 draws."""
    scores = []
    for seed in range(120):
        problem, truth, _ = scaled_gaussian(dim, num_points, 0.3, scale, seed)
        share = find_holes(problem.posterior, problem.prior, num_samples=2000, generator=seeded(10_000 + seed)).share
        scores.append((share.value - truth) / share.std_error)
    assert abs(np.mean(scores)) < 0.5
    assert 0.7 < np.std(scores) < 1.35


@pytest.mark.parametrize(("dim", "spacing"), [(2, 100.0), (64, 1.0)])
def test_where_posteriors_do_not_overlap_held_out_codes_say_nothing_and_no_draw_is_like_a_code(dim, spacing):
    mean = spacing * torch.randn(80, dim, generator=seeded(), dtype=torch.float64)
    q = as_posterior(DiagonalGaussian(mean, std=torch.full_like(mean, 1e-3)))
    holes = find_holes(q, standard_normal(dim), num_samples=200, generator=seeded())
    assert torch.isfinite(holes.codes.log_q).all()
    assert holes.share.value is None
    assert "do not overlap" in holes.share.reason
    assert holes.trained_share.value == 1.0
    assert 0 < holes.trained_share.std_error < 0.1
    assert len(holes.ordinary(5).z) == 0


def test_codes_that_keep_their_own_point_are_scored_by_the_whole_mixture():
    generator = seeded(0)
    mean = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    q = DiagonalGaussian(mean, std=0.1 + torch.rand(60, 3, generator=generator, dtype=torch.float64))
    holes = find_holes(q, standard_normal(3), num_samples=150, generator=generator)
    every = q.log_prob_matrix(holes.codes.z, torch.arange(60)).logsumexp(1) - math.log(60)
    assert holes.trained_threshold == pytest.approx(float(every.quantile(0.01)))
    assert holes.trained_share.value == float((holes.prior_draws.log_q < holes.trained_threshold).double().mean())
    assert holes.trained_share.value >= holes.share.value


def test_a_report_of_the_kl_has_the_same_shares():
    problem, *_ = scaled_gaussian(2, 100, 0.4, 0.8)
    holes = find_holes(problem.posterior, problem.prior, generator=generator_of(3, "holes"))
    report = estimate(problem.posterior, problem.prior, methods=["closed-form"], seed=3)
    assert (report.prior_in_holes, report.prior_unlike_codes) == (holes.share, holes.trained_share)


def test_weights_count_in_draws_scores_and_latents():
    generator = seeded(0)
    mean = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    weights = 0.1 + torch.rand(60, generator=generator, dtype=torch.float64)
    weights[0] = 40.0
    q = with_rows(
        DiagonalGaussian(mean, std=0.3 + torch.rand(60, 3, generator=generator, dtype=torch.float64)), weights=weights
    )
    holes = find_holes(q, standard_normal(3), num_samples=400, generator=generator)
    points = holes.codes.points
    assert 0.4 < float((points == 0).double().mean()) < 0.7  # 40 of about 76
    matrix = q.log_prob_matrix(holes.codes.z, torch.arange(60)) + weights.log()
    every = matrix.logsumexp(1) - weights.sum().log()
    assert holes.trained_threshold == pytest.approx(float(every.quantile(0.01)))
    matrix[torch.arange(400), points] = -math.inf
    torch.testing.assert_close(
        holes.codes.log_q, matrix.logsumexp(1) - (weights.sum() - weights[points]).log(), rtol=1e-9, atol=1e-9
    )
    share = (weights / weights.sum()).numpy()
    std = q.rows(slice(None))[1]
    for d in range(3):
        truth = kl_on_the_line(mean[:, d].numpy(), std[:, d].numpy(), weight=share)
        assert holes.dimensionwise_kl[d] == pytest.approx(truth, abs=1e-5)


def test_copies_of_points_neither_make_nor_hide_holes():
    """A point's copy would make its code look at home, and raise the threshold until all of the prior lies in holes."""
    problem = linear_gaussian_encoder(3, 300, 0.2, generator=seeded(), spread=(1.0, 1.0))
    mean, std = problem.posterior.rows(slice(None))
    twice = DiagonalGaussian(torch.cat([mean, mean]), std=torch.cat([std, std]))
    once, found = (find_holes(q, standard_normal(3), num_samples=500, generator=seeded()) for q in (problem.posterior, twice))
    assert abs(found.share.value - once.share.value) <= 4 * math.hypot(found.share.std_error, once.share.std_error)
    assert found.share.value < 0.1
    assert 300 < int(found.codes.points.max()) < 600


def test_points_with_weights_and_copies_are_refused_in_words():
    problem = linear_gaussian_encoder(2, 100, 0.5, generator=seeded())
    q = problem.posterior.select(torch.arange(150) % 100)
    with pytest.raises(InputError, match="leave the weights away"):
        find_holes(with_rows(q, weights=torch.arange(1.0, 151.0)), standard_normal(2), generator=seeded())
