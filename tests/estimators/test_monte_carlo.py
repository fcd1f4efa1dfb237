import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from klprobe.distributions.clusters import with_rows
from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior, standard_normal
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import CapabilityError, InputError


def run(estimator, posterior, prior, seed=0):
    found = estimator.estimate(posterior, prior, generator=torch.Generator().manual_seed(seed))
    return {(e.quantity, e.target, e.bound): e for e in found}


EMPIRICAL, UPPER = ("kl", "empirical", "exact"), ("kl", "population", "upper")
LOWER, INFORMATION = ("leave-one-out", "population", "lower"), ("mutual-information", "empirical", "exact")


def lattice(columns, std):
    """All combinations of the columns' means: q_N is the product of its marginals, so its KL is the sum of theirs."""
    mean = torch.cartesian_prod(*columns).reshape(-1, len(columns))
    return DiagonalGaussian(mean, std=torch.tensor(std, dtype=torch.float64).expand_as(mean))


@pytest.mark.parametrize("std", [[0.1, 0.3], [0.7, 0.05], [1.0, 0.5], [0.02, 0.02]])
@pytest.mark.parametrize("control_variates", [True, False])
def test_empirical_kl_and_information_match_quadrature_on_a_product_of_mixtures(std, control_variates):
    g = torch.Generator().manual_seed(1)
    q = lattice(
        [torch.randn(30, generator=g, dtype=torch.float64), torch.randn(17, generator=g, dtype=torch.float64) + 0.5], std
    )
    prior = standard_normal(2)
    found = run(MonteCarlo(num_samples=3000, control_variates=control_variates), q, prior)
    truth = sum(dimensionwise_kl(q, prior)[0])
    estimate = found[EMPIRICAL]
    assert abs(estimate.value - truth) <= 4 * estimate.std_error + 5e-5
    mean, spread = q.rows(slice(None))
    average = float((0.5 * (spread**2 + mean**2 - 1) - spread.log()).sum(1).mean())
    information = found[INFORMATION]
    assert abs(information.value - (average - truth)) <= 4 * information.std_error + 5e-5


@pytest.mark.parametrize(("dim", "std"), [(2, 0.3), (10, 0.6)])
def test_population_bounds_hold_in_the_mean_over_data_sets(dim, std):
    lower, upper = [], []
    for seed in range(40):
        problem = linear_gaussian_encoder(dim, 200, std, generator=torch.Generator().manual_seed(seed))
        found = run(MonteCarlo(num_samples=250), problem.posterior, problem.prior, seed)
        lower.append(found[LOWER].value - problem.population_kl)
        upper.append(found[UPPER].value - problem.population_kl)
    error = [4 * np.std(side) / math.sqrt(40) for side in (lower, upper)]
    assert np.mean(lower) <= error[0]
    assert np.mean(upper) >= -error[1]


def test_control_variates_lower_the_error_and_keep_the_value():
    problem = linear_gaussian_encoder(10, 2000, 0.3, generator=torch.Generator().manual_seed(0))
    plain, better = (
        run(MonteCarlo(4000, control_variates=c), problem.posterior, problem.prior)[EMPIRICAL] for c in (False, True)
    )
    assert better.std_error < 0.7 * plain.std_error
    assert abs(better.value - plain.value) <= 4 * math.hypot(better.std_error, plain.std_error)


@pytest.mark.parametrize("name", ["joint-vae-fashion", "beta-vae-mnist", "factor-vae-mnist"])
def test_real_posteriors_give_the_brute_force_numbers_with_a_smaller_error(shared_posteriors, name):
    """Brute force in float64 with 2,000 latents, from the notes beside the files."""
    value, error, left_out = {
        "joint-vae-fashion": (0.225, 0.013, 0.219),
        "beta-vae-mnist": (1.555, 0.041, -0.27),
        "factor-vae-mnist": (8.21, 0.09, -14.3),
    }[name]
    with np.load(shared_posteriors / f"{name}.npz") as arrays:
        q = DiagonalGaussian(torch.from_numpy(arrays["mean"]), logvar=torch.from_numpy(arrays["logvar"]))
    found = run(MonteCarlo(num_samples=2000), q, standard_normal(q.dim))
    assert abs(found[EMPIRICAL].value - value) <= 4 * math.hypot(error, found[EMPIRICAL].std_error)
    assert found[EMPIRICAL].std_error < 0.8 * error
    spread = found[LOWER].std_error
    assert abs(found[LOWER].value - left_out) <= 4 * math.hypot(spread, spread) + 0.05


def test_perfect_match_gives_zero():
    q = DiagonalGaussian(torch.zeros(50, 4).double(), std=torch.ones(50, 4).double())
    found = run(MonteCarlo(num_samples=200), q, standard_normal(4))
    for key in (EMPIRICAL, UPPER, INFORMATION):
        assert found[key].value == pytest.approx(0.0, abs=1e-9)
    assert LOWER not in found, "all rows are copies of one, and nothing is left of q(z) without it"


def test_islands_show_the_log_n_ceiling():
    mean = torch.arange(100, dtype=torch.float64)[:, None] * 10
    q = DiagonalGaussian(mean, std=torch.full_like(mean, 0.1))
    assert run(MonteCarlo(200), q, standard_normal(1))[INFORMATION].value == pytest.approx(math.log(100), abs=1e-9)


def test_same_seed_same_bits_and_another_seed_other_draws():
    problem = linear_gaussian_encoder(3, 100, 0.5, generator=torch.Generator().manual_seed(0))
    first, again, other = (run(MonteCarlo(500), problem.posterior, problem.prior, seed)[EMPIRICAL].value for seed in (1, 1, 2))
    assert first == again != other


def test_value_is_invariant_under_an_affine_map_of_posterior_and_prior():
    problem = linear_gaussian_encoder(3, 100, 0.5, generator=torch.Generator().manual_seed(0))
    mean, std = problem.posterior.rows(slice(None))
    scale, shift = torch.tensor([0.01, 3.0, 500.0]).double(), torch.tensor([5.0, -2.0, 1000.0]).double()
    moved = DiagonalGaussian(mean * scale + shift, std=std * scale)
    prior = Independent(Normal(shift, scale), 1)
    there, here = run(MonteCarlo(500), moved, prior), run(MonteCarlo(500), problem.posterior, problem.prior)
    for key in (EMPIRICAL, LOWER, INFORMATION):
        assert there[key].value == pytest.approx(here[key].value, abs=1e-8)


def test_q_comes_first():
    """KL[N(0, 0.5^2) || N(0, 1)] = 0.318, the other way round 0.807."""
    q = DiagonalGaussian(torch.zeros(10, 1).double(), std=torch.full((10, 1), 0.5).double())
    estimate = run(MonteCarlo(4000), q, standard_normal(1))[EMPIRICAL]
    assert abs(estimate.value - (0.5 * (0.25 - 1) - math.log(0.5))) <= 4 * estimate.std_error + 1e-9


@pytest.mark.parametrize("kind", ["full covariance", "laplace"])
def test_any_torch_distribution_is_a_posterior(kind):
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(60, 2, generator=g, dtype=torch.float64)
    tril = torch.tensor([[0.5, 0.0], [0.3, 0.4]]).double()
    q = MultivariateNormal(mean, scale_tril=tril) if kind == "full covariance" else Independent(Laplace(mean, 0.3), 1)
    found = run(MonteCarlo(2000), q, standard_normal(2))
    draws = np.random.default_rng(0)
    index = torch.from_numpy(draws.integers(60, size=20_000))
    noise = torch.from_numpy(draws.normal(size=(20_000, 2)) if kind == "full covariance" else draws.laplace(size=(20_000, 2)))
    sample = mean[index] + (noise @ tril.T if kind == "full covariance" else 0.3 * noise)
    log_q = torch.logsumexp(q.log_prob(sample[:, None, :]), 1) - math.log(60)
    terms = log_q - standard_normal(2).log_prob(sample)
    error = math.hypot(float(terms.std()) / math.sqrt(20_000), found[EMPIRICAL].std_error)
    assert abs(found[EMPIRICAL].value - float(terms.mean())) <= 4 * error


def test_tolerance_is_met_by_drawing_more_and_said_when_it_is_not():
    problem = linear_gaussian_encoder(2, 100, 0.3, generator=torch.Generator().manual_seed(0))
    met = run(MonteCarlo(100, tolerance=0.005), problem.posterior, problem.prior)[EMPIRICAL]
    assert met.std_error <= 0.005
    assert met.num_samples > 100
    assert met.details["tolerance_met"] is True
    given_up = run(MonteCarlo(100, tolerance=1e-9, max_samples=1000), problem.posterior, problem.prior)[EMPIRICAL]
    assert given_up.details["tolerance_met"] is False
    assert given_up.num_samples == 1000


def test_progress_ends_at_its_total():
    seen = []
    problem = linear_gaussian_encoder(2, 50, 0.3, generator=torch.Generator().manual_seed(0))
    MonteCarlo(9000).estimate(
        problem.posterior,
        problem.prior,
        generator=torch.Generator().manual_seed(0),
        progress=lambda done, total, note="": seen.append((done, total, note)),
    )
    assert seen[-1][:2] == (9000, 9000)
    assert "nats" in seen[-1][2]


def test_unusable_settings_and_encoders_are_named():
    with pytest.raises(InputError, match="num_samples = 0"):
        MonteCarlo(num_samples=0)
    with pytest.raises(InputError, match="positive"):
        MonteCarlo(tolerance=0.0)
    with pytest.raises(CapabilityError, match="samples"):
        run(MonteCarlo(10), SampleOnly(torch.zeros(5, 2)), standard_normal(2))


def test_a_posterior_without_a_fast_path_has_its_cost_said_before_the_run_and_a_gaussian_has_none():
    mean = torch.zeros(3000, 2, dtype=torch.float64)
    slow = as_posterior(MultivariateNormal(mean, scale_tril=torch.eye(2).double().expand(3000, 2, 2)))
    words = str(MonteCarlo(num_samples=10_000).cost(slow))
    assert "3.6e+07 densities" in words  # (10,000 + 2,048) x 3,000
    assert "second" in words
    assert MonteCarlo().cost(as_posterior(Independent(Normal(mean, torch.ones_like(mean)), 1))) is None
    assert MonteCarlo().cost(SampleOnly(mean)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "num_points", "std", "num_samples"),
    [
        (2, 300, 0.5, 100),
        (2, 300, 0.5, 300),
        (2, 300, 0.5, 6000),
        (10, 300, 0.5, 3000),
        (10, 2000, 0.5, 500),
        (2, 200, 0.05, 2000),
    ],
)
def test_standard_errors_are_honest(dim, num_points, std, num_samples):
    """z-scores over 200 runs, of the empirical KL on one data set and of the population bounds over data sets.

    The variance of 200 z-scores has standard error 0.1; few repeats (t-tails) and skewness add to it. The jackknife's
    variance of the leave-one-out bound is too large on average (Efron and Stein, 1981), so its scores may be narrower.
    """
    runs, estimator = 200, MonteCarlo(num_samples)
    fixed = linear_gaussian_encoder(dim, num_points, std, generator=torch.Generator().manual_seed(0))
    truth = run(MonteCarlo(max(200_000, 200 * num_samples)), fixed.posterior, fixed.prior, seed=123)
    at_hand, information, upper, lower = [], [], [], []
    for seed in range(runs):
        found = run(estimator, fixed.posterior, fixed.prior, seed)
        at_hand.append((found[EMPIRICAL].value - truth[EMPIRICAL].value) / found[EMPIRICAL].std_error)
        information.append((found[INFORMATION].value - truth[INFORMATION].value) / found[INFORMATION].std_error)
        problem = linear_gaussian_encoder(dim, num_points, std, generator=torch.Generator().manual_seed(10_000 + seed))
        found = run(estimator, problem.posterior, problem.prior, seed)
        upper.append((found[UPPER].value, found[UPPER].std_error))
        lower.append((found[LOWER].value, found[LOWER].std_error))
    for scores in (at_hand, information):
        assert abs(np.mean(scores)) < 0.35
        assert 0.65 < np.var(scores) < 1.5
    for side, least in ((upper, 0.65), (lower, 0.5)):
        values, errors = np.array(side).T
        assert least < np.var((values - values.mean()) / errors) < 1.6


def clustered(seed, groups, size, alike, dim=2, std=0.5, weighted=False):
    """Points that are N(0, I) each, those of a group correlated by `alike`, and the KL of the population that they are of."""
    g = torch.Generator().manual_seed(seed)
    target = torch.linspace(0.7, 1.2, dim, dtype=torch.float64)
    common = torch.randn(groups, dim, generator=g, dtype=torch.float64).repeat_interleave(size, 0)
    own = torch.randn(groups * size, dim, generator=g, dtype=torch.float64)
    mean = (math.sqrt(alike) * common + math.sqrt(1 - alike) * own) * (target.square() - std**2).sqrt()
    q = DiagonalGaussian(mean, std=torch.full_like(mean, std))
    if alike < 1:
        q = with_rows(q, groups=torch.arange(groups).repeat_interleave(size))
    if weighted:
        q = with_rows(q, weights=torch.exp(0.7 * torch.randn(groups * size, generator=g, dtype=torch.float64)))
    return q, float(0.5 * (target.square() - 1 - target.square().log()).sum())


def over_data_sets(runs, num_samples, *problem, **settings):
    """Values less the truth, and errors, of the leave-one-out and the upper bound, shapes (2, runs)."""
    found = []
    for seed in range(runs):
        q, truth = clustered(1000 + seed, *problem, **settings)
        estimates = run(MonteCarlo(num_samples), q, standard_normal(q.dim), seed)
        found.append([[estimates[k].value - truth, estimates[k].std_error] for k in (LOWER, UPPER)])
    return np.array(found).transpose(1, 2, 0)


def check_bounds(found, narrowest, widest):
    """Both sides hold in the mean, and z-scores about the mean have variance 1 within what the runs can tell."""
    runs = found.shape[2]
    for sign, (values, errors) in zip((-1, 1), found, strict=True):
        assert sign * values.mean() > -4 * values.std() / math.sqrt(runs)
        assert narrowest < np.var((values - values.mean()) / errors) < widest


@pytest.mark.parametrize(("alike", "weighted"), [(1.0, False), (0.8, False), (0.8, True)])
def test_bounds_of_grouped_and_copied_points_hold_with_honest_errors(alike, weighted):
    """30 data sets of 40 groups of 10: the variance of z-scores is within 4 sqrt(2 / 30) of 1, or 2.1."""
    check_bounds(over_data_sets(30, 400, 40, 10, alike, weighted=weighted), 0.35, 2.1)


@pytest.mark.slow
@pytest.mark.parametrize(("alike", "weighted"), [(1.0, False), (0.8, False), (0.8, True)])
def test_z_scores_of_a_hundred_groups_of_twenty_have_variance_one(alike, weighted):
    """200 data sets: the variance of 200 z-scores has standard error 0.1, and a little more for t-tails."""
    check_bounds(over_data_sets(200, 1000, 100, 20, alike, weighted=weighted), 0.65, 1.4)


@pytest.mark.parametrize("jitter", [0.0, 1e-6])
def test_points_that_occur_twice_bound_no_more_than_the_truth(jitter):
    """1,000 points and their copies, whose leave-one-out bound was 1.9 nats for a truth of 1e-4."""
    g = torch.Generator().manual_seed(0)
    once = torch.randn(1000, 4, generator=g, dtype=torch.float64)
    mean = torch.cat([once, once + jitter * torch.randn(1000, 4, generator=g, dtype=torch.float64)])
    twice = run(MonteCarlo(2000), DiagonalGaussian(mean, std=torch.full_like(mean, 0.1)), standard_normal(4))
    alone = run(MonteCarlo(2000), DiagonalGaussian(once, std=torch.full_like(once, 0.1)), standard_normal(4))
    for key in (LOWER, UPPER):
        assert twice[key].value == pytest.approx(
            alone[key].value, abs=4 * math.hypot(twice[key].std_error, alone[key].std_error)
        )
        assert twice[key].std_error == pytest.approx(alone[key].std_error, rel=0.25)
    assert twice[LOWER].value + 4 * twice[LOWER].std_error < 0


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_weighted_and_grouped_numbers_match_brute_force(kind):
    """Sums over all pairs at 40,000 draws of a slow sampler, in float64."""
    g = torch.Generator().manual_seed(3)
    n, dim = 60, 2
    mean, std = torch.randn(n, dim, generator=g, dtype=torch.float64), torch.full((n, dim), 0.3, dtype=torch.float64)
    weights = torch.exp(torch.randn(n, generator=g, dtype=torch.float64))
    groups = torch.arange(n) // 4
    law = Normal(mean, std) if kind == "gaussian" else Laplace(mean, std)
    plain = DiagonalGaussian(mean, std=std) if kind == "gaussian" else as_posterior(Independent(law, 1))
    found = run(MonteCarlo(20_000), with_rows(plain, weights=weights, groups=groups), standard_normal(dim))

    share = weights / weights.sum()
    rows = torch.multinomial(share, 40_000, replacement=True, generator=g)
    noise = torch.rand(40_000, dim, generator=g, dtype=torch.float64)
    z = type(law)(mean[rows], std[rows]).icdf(noise.clamp(1e-12, 1 - 1e-12))
    terms = law.log_prob(z[:, None, :]).sum(2) + share.log()
    outside = groups[:, None] != groups
    left_out = torch.where(outside[rows], terms, -math.inf).logsumexp(1) - (outside.double() @ share)[rows].log()
    log_q, log_p = terms.logsumexp(1), standard_normal(dim).log_prob(z)
    own = law.log_prob(z[:, None, :]).sum(2)[torch.arange(len(z)), rows]
    for key, values in ((EMPIRICAL, log_q - log_p), (INFORMATION, own - log_q), (LOWER, left_out - log_p)):
        error = float(values.std()) / 200
        # the lower bound's error is over data sets; its draws' part is the same as of the brute force, at half the draws
        of_draws = found[key].std_error if key != LOWER else error * math.sqrt(2)
        assert abs(found[key].value - float(values.mean())) <= 4 * math.hypot(error, of_draws)
    assert found[INFORMATION].value < float(-torch.xlogy(share, share).sum())


def test_groups_leave_the_numbers_of_the_points_at_hand_as_they_are():
    q, _ = clustered(0, 40, 5, 0.9)
    plain = DiagonalGaussian(q.mean, std=q.spread)
    grouped, alone = (run(MonteCarlo(500), posterior, standard_normal(2)) for posterior in (q, plain))
    for key in (EMPIRICAL, INFORMATION):
        assert (grouped[key].value, grouped[key].std_error) == (alone[key].value, alone[key].std_error)
    assert grouped[UPPER].std_error > 1.5 * alone[UPPER].std_error
    assert grouped[LOWER].value < alone[LOWER].value


MEMORY = """
import resource, sys
import numpy as np, torch
from klprobe.distributions.posteriors import DiagonalGaussian, standard_normal
from klprobe.estimators.monte_carlo import MonteCarlo
torch.set_num_threads(1)
mean, logvar = (torch.from_numpy(np.load(f"{sys.argv[1]}/{name}.npy", mmap_mode="c")) for name in ("mean", "logvar"))
q, prior = DiagonalGaussian(mean, logvar=logvar), standard_normal(32)
few = DiagonalGaussian(mean[:3000], logvar=logvar[:3000])
MonteCarlo(500).estimate(few, prior, generator=torch.Generator().manual_seed(0))  # imports, buffers, thread stacks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
MonteCarlo(500).estimate(q, prior, generator=torch.Generator().manual_seed(0))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_grows_with_the_mapped_arrays_and_not_with_latents_times_posteriors(tmp_path):
    """100,000 posteriors, 500 draws: the arrays are 26 MB, (M, N) would be 400 MB, (M, N, D) 13 GB."""
    numbers = np.random.default_rng(0)
    for name in ("mean", "logvar"):
        np.save(tmp_path / f"{name}.npy", numbers.normal(size=(100_000, 32)).astype(np.float32))
    printed = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert int(printed) / 1024 < 26 + 100
