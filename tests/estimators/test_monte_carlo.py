import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

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
    for key in (EMPIRICAL, UPPER, LOWER, INFORMATION):
        assert found[key].value == pytest.approx(0.0, abs=1e-9)


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
