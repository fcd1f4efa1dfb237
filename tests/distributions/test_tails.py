"""Tail indices: right for laws whose index is known, silent where a mean can be trusted, loud where there is none."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Cauchy, Independent, Laplace, Normal, StudentT

import klprobe
from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior
from klprobe.distributions.tails import tail_index, tail_of, tail_within_points
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import LONG_TAIL

SEEDS = 200


def draws(law, n, seed):
    rng = np.random.default_rng(seed)
    return {
        "normal": lambda: rng.normal(size=n),
        "chi2": lambda: rng.normal(size=n) ** 2,
        "chi2 of 10": lambda: (rng.normal(size=(n, 10)) ** 2).sum(1),
        "exponential": lambda: rng.exponential(size=n),
        "uniform": lambda: rng.uniform(size=n),
        "laplace squared": lambda: rng.laplace(size=n) ** 2,
        "pareto of 2": lambda: rng.pareto(2, size=n),
        "pareto of 1": lambda: rng.pareto(1, size=n),
        "cauchy squared": lambda: rng.standard_cauchy(size=n) ** 2,
    }[law]()


@pytest.mark.parametrize(("shape", "count"), [(-1.0, 200), (0.0, 200), (0.5, 200), (1.0, 200), (2.0, 400)])
def test_the_index_of_a_generalised_pareto_law_is_its_shape(shape, count):
    """But for the pull of ten draws at 0.5 and the bias of its own: to a fifth, twice its error with 200 draws in the tail."""
    n = 5 * count if 5 * count < (count / 3) ** 2 else round((count / 3) ** 2)
    found = []
    for seed in range(SEEDS):
        u = np.random.default_rng(seed).uniform(size=n)
        found.append(tail_index(-np.log(u) if shape == 0 else (u**-shape - 1) / shape))
    assert np.mean(found) == pytest.approx((shape * count + 0.5 * 10) / (count + 10), abs=0.2)


@pytest.mark.parametrize("law", ["normal", "chi2", "chi2 of 10", "exponential", "uniform", "laplace squared"])
@pytest.mark.parametrize("n", [400, 2000, 10_000])
def test_tails_with_a_variance_give_no_alarm(law, n):
    assert sum(tail_of(draws(law, n, seed)).spoils for seed in range(SEEDS)) <= 0.03 * SEEDS


@pytest.mark.parametrize(
    ("law", "n", "least"), [("pareto of 1", 2000, 0.85), ("cauchy squared", 400, 0.95), ("cauchy squared", 2000, 0.95)]
)
def test_tails_without_a_mean_give_alarm(law, n, least):
    assert np.mean([tail_of(draws(law, n, seed)).spoils for seed in range(SEEDS)]) >= least


@pytest.mark.parametrize("values", [np.ones(1000), np.arange(1000) % 3, np.arange(24.0)])
def test_ties_and_few_draws_have_no_tail(values):
    with np.errstate(invalid="ignore"):
        assert tail_of(values.astype(float)) is None


def test_a_flat_top_with_a_few_draws_beyond_it_is_no_alarm():
    """Ratios of Laplace to normal have one: the index is far above the threshold, and the mean is known to 1 %."""
    rng = np.random.default_rng(0)
    z = rng.laplace(size=4000) / math.sqrt(2)
    ratio = -math.sqrt(2) * np.abs(z) + 0.5 * z**2
    tail = tail_of(ratio)
    assert tail.k > LONG_TAIL
    assert not tail.spoils


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


STANDARD = Independent(Normal(torch.zeros(3).double(), 1.0), 1)
HEAVY = {
    "cauchy | normal": (Independent(Cauchy(normals(300, 3), 1.0), 1), STANDARD),
    "student-t of 1.5 | normal": (Independent(StudentT(1.5, normals(300, 3), 1.0), 1), STANDARD),
    "cauchy | laplace": (Independent(Cauchy(normals(300, 3), 1.0), 1), Independent(Laplace(torch.zeros(3).double(), 1.0), 1)),
}


@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("seed", range(3))
def test_an_infinite_kl_of_heavy_tails_is_no_answer_and_the_check_says_its_number(name, seed):
    report = klprobe.estimate(*HEAVY[name], methods=[MonteCarlo(num_samples=2000)], seed=seed, marginals=False)
    (check,) = [check for check in report.checks if check.name == "tail-index"]
    assert not check.passed
    assert check.severity == "error"
    index = max(e.details["tail_within"]["k"] for e in report.estimates if e.details.get("tail_within"))
    assert f"{index:.2f}" in check.message
    assert report.verdict == "impossible"
    report.to_json()


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (Independent(Cauchy(normals(300, 3), 1.0), 1), Independent(Cauchy(torch.zeros(3).double(), 2.0), 1)),
        (Independent(Laplace(normals(300, 3), 1.0), 1), STANDARD),
        (Independent(StudentT(8.0, normals(300, 3), 1.0), 1), STANDARD),
        (Independent(Normal(normals(300, 3), 0.3), 1), STANDARD),
        (Independent(Normal(normals(300, 3), 0.3), 1), Independent(Cauchy(torch.zeros(3).double(), 2.0), 1)),
    ],
)
def test_a_finite_kl_passes_the_check(q, p):
    report = klprobe.estimate(q, p, methods=[MonteCarlo(num_samples=2000)], marginals=False)
    (check,) = [check for check in report.checks if check.name == "tail-index"]
    assert check.passed
    assert report.verdict != "impossible"


def test_points_that_are_heavy_tailed_leave_the_empirical_value_and_no_verdict_on_the_population():
    """Means that follow Cauchy's law: KL[q_N||p] is a number, and KL[q||p] of all points is infinite."""
    mean = torch.from_numpy(np.random.default_rng(0).standard_cauchy(size=(1000, 1)))
    q = DiagonalGaussian(mean, std=torch.full_like(mean, 0.5))
    report = klprobe.estimate(q, None, methods=[MonteCarlo(num_samples=2000)], marginals=False)
    (check,) = [check for check in report.checks if check.name == "tail-index"]
    assert (check.passed, check.severity) == (False, "warning")
    assert report.verdict == "floor-limited"
    assert "data points" in report.advice
    assert report.brackets["empirical"].upper.value is not None


def test_what_differs_between_points_is_no_matter_of_draws_at_one_point():
    far = torch.cat([torch.zeros(199, 1), torch.full((1, 1), 1e4)]).double()
    q = as_posterior(Independent(Laplace(far, 1.0), 1))
    tail = tail_within_points(q, Independent(StudentT(3.0, torch.zeros(1).double(), 1.0), 1), torch.Generator().manual_seed(0))
    assert not tail.spoils
