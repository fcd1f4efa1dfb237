"""Every number of a report, on posteriors and priors that hypothesis makes up, against brute force in numpy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_triangular
from torch.distributions import Independent, MultivariateNormal, Normal

from klprobe.distributions.categorical import Classes
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.estimation.holes import find_holes
from klprobe.estimation.run import estimate, generator_of
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import InputError
from tests.brute import LOG_2PI, kl_on_the_line

DRAWS = 400
LOOKED_AT = 4
"""Latents whose own KL is computed by brute force."""
SIGMAS = 7.0
"""Standard errors that two estimates of one number may differ by: of 10^5 comparisons, none by chance."""
MEMORY = 2_000_000
SPREADS = ("one", "mixed", "per-latent", "ordinary")
MEANS = ("standard", "far", "ties", "lattice", "near", "touching")


@dataclasses.dataclass(frozen=True)
class Case:
    """A posterior and a prior, as numpy knows them and as torch does."""

    mean: np.ndarray
    tril: np.ndarray
    """Cholesky factors, shape (N, D, D), or standard deviations, shape (N, D)."""
    p_mean: np.ndarray
    p_std: np.ndarray
    posterior: DiagonalGaussian | MultivariateNormal
    prior: Independent
    parts: dict

    @property
    def std(self):
        """Of each latent, shape (N, D)."""
        return self.tril if self.tril.ndim == 2 else np.sqrt((self.tril**2).sum(2))


@st.composite
def cases(draw, points=(2, 3, 5, 12), latents=(1, 1, 1, 2, 2, 3, 8, 33, 512)):
    """Scales from 1e-12 to 1e6 mixed in one posterior, far means, ties, lattices, overlaps of every degree, levels, classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.sampled_from(points)), draw(st.sampled_from(latents))
    spread, where = draw(st.sampled_from(SPREADS)), draw(st.sampled_from(MEANS))
    low, high = sorted([draw(st.floats(-12, 6)), draw(st.floats(-12, 6))])
    if spread == "ordinary":
        low, high = -1.5, 0.3
    shape = {"one": (1, 1), "per-latent": (1, d)}.get(spread, (n, d))
    std = np.broadcast_to(10 ** (low + (high - low) * rng.random(shape)), (n, d)).copy()
    mean = rng.normal(size=(n, d))
    if where == "far":
        mean += 10 ** draw(st.floats(0, 4))
    elif where == "ties":
        mean = mean[rng.integers(0, (n + 1) // 2, n)]
    elif where == "lattice":
        mean = np.round(mean)
    elif where == "near":
        mean *= 10 ** draw(st.floats(-12, 0))
    elif where == "touching":
        mean *= std.mean() * draw(st.floats(0, 12))
    kind = draw(st.sampled_from(["std", "var", "logvar"]))
    given_as = {"std": std, "var": std**2, "logvar": 2 * np.log(std)}[kind]
    if draw(st.booleans()):
        mean, given_as = mean.astype("f4"), given_as.astype("f4")
    posterior = DiagonalGaussian(torch.from_numpy(mean), **{kind: torch.from_numpy(given_as)})
    mean, given_as = mean.astype("f8"), given_as.astype("f8")
    tril = {"std": lambda x: x, "var": np.sqrt, "logvar": lambda x: np.exp(x / 2)}[kind](given_as)
    if 1 < d <= 8 and draw(st.booleans()):
        tril = np.tril(rng.normal(size=(n, d, d)) * draw(st.floats(0, 1)), -1) + np.eye(d) * tril[:, None]
        posterior = MultivariateNormal(torch.from_numpy(mean), scale_tril=torch.from_numpy(tril), validate_args=False)
    p_mean, p_std = np.zeros(d), np.ones(d)
    if draw(st.booleans()):
        p_mean, p_std = rng.normal(size=d) * 10 ** draw(st.floats(-2, 2)), 10 ** rng.uniform(-2, 2, d)
    prior = Independent(Normal(torch.from_numpy(p_mean), torch.from_numpy(p_std)), 1)
    parts = {"level 0": slice(0, d - d // 2), "level 1": slice(d - d // 2, d)} if d > 1 and draw(st.booleans()) else {}
    if draw(st.booleans()):
        probs = rng.dirichlet(np.full(draw(st.integers(2, 6)), 10 ** draw(st.floats(-2, 1))), n)
        parts["classes"] = Classes(torch.from_numpy(probs))
    return Case(mean, tril, p_mean, p_std, posterior, prior, parts)


def log_matrix(z, case):
    """log q(z_i|x_n), shape (len(z), N)."""
    columns = []
    for mean, tril in zip(case.mean, case.tril, strict=True):
        if tril.ndim == 1:
            noise, log_det = (z - mean) / tril, np.log(tril).sum()
        else:
            noise, log_det = solve_triangular(tril, (z - mean).T, lower=True).T, np.log(np.diag(tril)).sum()
        columns.append(-0.5 * (noise**2).sum(1) - log_det - 0.5 * len(mean) * LOG_2PI)
    return np.stack(columns, 1)


def log_sum(matrix):
    top = matrix.max(1, keepdims=True)
    return top[:, 0] + np.log(np.exp(matrix - top).sum(1))


def log_prior(z, case):
    return -0.5 * (((z - case.p_mean) / case.p_std) ** 2 + LOG_2PI).sum(1) - np.log(case.p_std).sum()


def average_kls(case):
    """KL[q(z|x_n)||p] of each point."""
    squares = ((case.mean - case.p_mean) / case.p_std) ** 2 + (case.std / case.p_std) ** 2
    diagonal = case.tril if case.tril.ndim == 2 else np.diagonal(case.tril, axis1=1, axis2=2)
    return 0.5 * (squares - 1).sum(1) + np.log(case.p_std).sum() - np.log(diagonal).sum(1)


def sampled(case, draws, rng):
    """(value, error) by plain draws: mutual information, and KL of the mixture of all other points; equal numbers a point."""
    n, d = case.mean.shape
    each = max(2, min(draws, MEMORY // d) // n)
    information, left_out = [], []
    for i in range(n):
        noise = rng.normal(size=(each, d))
        z = case.mean[i] + (noise * case.tril[i] if case.tril.ndim == 2 else noise @ case.tril[i].T)
        matrix = log_matrix(z, case)
        others = log_sum(np.delete(matrix, i, 1)) - math.log(n - 1)
        information.append(matrix[:, i] - log_sum(matrix) + math.log(n))
        left_out.append(others - log_prior(z, case))
    return [
        (np.mean(x), math.sqrt(np.var(x, 1, ddof=1).mean() / (n * each))) for x in (np.array(information), np.array(left_out))
    ]


def bad_condition(case):
    """Whether float64 draws do not show the posterior: then a refusal is right."""
    if case.tril.ndim == 2:
        return bool((case.std < 1e-14 * np.abs(case.mean)).any())
    for mean, tril in zip(case.mean, case.tril, strict=True):
        inverse = np.abs(solve_triangular(tril, np.eye(len(mean)), lower=True))
        if not (inverse @ (np.abs(tril).sum(1) + np.abs(mean))).max() < 0.99e12:
            return True
    return False


def near(value, truth, error=0.0, *, scale=0.0):
    """Whether they agree to `SIGMAS` of the error and to rounding, of numbers as large as `scale` that were subtracted."""
    return abs(value - truth) <= SIGMAS * error + 1e-9 * max(1.0, abs(truth), scale)


def hold(case, seed):
    """Every number of the report, or a refusal that is right."""
    n, d = case.mean.shape
    try:
        report = estimate(
            case.posterior, case.prior, methods=["closed-form", MonteCarlo(num_samples=DRAWS)], seed=seed, parts=case.parts
        )
    except InputError:
        if not bad_condition(case):
            raise
        return "refused"
    assert report.not_done == ()
    assert (report.latent_dim, report.num_points) == (d, n)
    hold_ceiling(case, report)
    assert report.verdict not in ("impossible", "methods-disagree"), report.advice
    kls = average_kls(case)
    average, scale = kls.mean(), np.abs(kls).max()
    assert near(report.average_kl.value, average, scale=scale)
    independent = abs(report.log_n - math.log(n)) < 1e-9  # of copies, errors and the leave-one-out value count one
    error = kls.std(ddof=1) / math.sqrt(n)
    assert report.average_kl.std_error == pytest.approx(error, rel=1e-6, abs=1e-9 * max(1, scale)) or not independent
    information, left_out = sampled(case, 4000, np.random.default_rng(seed))
    # What is rarer than a draw in DRAWS is in no estimate's error: with probability 10 / DRAWS, up to log N nats.
    rare = 10 / DRAWS * math.log(n)
    found = report.mutual_information
    assert abs(found.value - information[0]) <= SIGMAS * math.hypot(found.std_error, information[1]) + rare + 1e-9 * scale
    by = {(e.method, e.target, e.bound, e.quantity): e for e in report.estimates}
    exact = by["monte-carlo", "empirical", "exact", "kl"]
    assert near(exact.value, average - found.value, math.hypot(exact.std_error, found.std_error), scale=scale)
    assert by["monte-carlo", "population", "upper", "kl"].value == exact.value
    loo = by.get(("monte-carlo", "population", "lower", "leave-one-out"))
    assert loo or not independent
    if loo and independent:
        gap = math.hypot(loo.std_error, left_out[1])
        assert near(loo.value, left_out[0], gap, scale=scale + abs(left_out[0])) or abs(loo.value - left_out[0]) < rare
    assert near(by["closed-form", "empirical", "upper", "kl"].value, average, scale=scale)
    assert near(by["closed-form", "population", "upper", "kl"].value, average, scale=scale)
    assert near(by["closed-form", "empirical", "lower", "kl"].value, average - math.log(n), scale=scale)
    hold_dimensions(case, report, exact, seed)
    hold_brackets(report, by)
    hold_parts(case, report, seed)
    variances = case.mean.var(0)
    unclear = np.abs(variances - 0.01) < 1e-6
    assert abs(report.active_units - int((variances > 0.01).sum())) <= unclear.sum()
    radius = report.radius
    mass = np.array([radius.posterior, radius.prior]) @ np.diff(radius.edges)
    assert (mass <= 1 + 1e-6).all()
    assert mass.max() > 0.99
    hold_holes(case, report, seed)
    return "held"


def hold_ceiling(case, report):
    """log N, where copies count as one: exact ones are known here, those but for rounding are a guess of the package's."""
    n = len(case.mean)
    rows = np.concatenate([case.mean, case.tril.reshape(n, -1)], 1) + 0.0  # -0 is 0
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert report.log_n <= -(counts / n * np.log(counts / n)).sum() + 1e-9
    if len(counts) == n and case.std.max() < 1e3 * case.std.min() and np.ptp(case.mean) > 1e-3:
        assert report.log_n == pytest.approx(math.log(n)) or report.mutual_information.value < report.log_n + 0.1


def hold_dimensions(case, report, exact, seed):
    n, d = case.mean.shape
    assert len(report.dimensionwise_kl) == d
    for k in np.random.default_rng(seed).permutation(d)[:LOOKED_AT]:
        truth = kl_on_the_line(case.mean[:, k], case.std[:, k], case.p_mean[k], case.p_std[k])
        assert abs(report.dimensionwise_kl[k] - truth) <= 1e-5 + 1e-12 * abs(truth), (k, report.dimensionwise_kl[k], truth)
    total = math.fsum(report.dimensionwise_kl)
    assert near(report.total_correlation.value, exact.value - total, scale=abs(total))
    if d == 1:  # the joint KL is that of the only latent, which quadrature knows
        rare = 10 / DRAWS * math.log(n)
        assert abs(exact.value - total) <= SIGMAS * exact.std_error + rare + 1e-9 * abs(total)


def hold_brackets(report, by):
    empirical, population = report.brackets["empirical"], report.brackets["population"]
    exact = by["monte-carlo", "empirical", "exact", "kl"]
    closed = by["closed-form", "empirical", "lower", "kl"]
    assert empirical.lower.value in (exact.value, closed.value, 0.0)
    assert empirical.lower.value <= max(empirical.upper.value, 0) + SIGMAS * exact.std_error + 1e-9 * max(1, abs(exact.value))
    loo = by.get(("monte-carlo", "population", "lower", "leave-one-out"))
    assert population.lower.value == max(loo.value if loo else 0.0, 0.0)
    assert population.upper.value in (exact.value, by["closed-form", "population", "upper", "kl"].value)
    for bracket in (empirical, population):
        low, high = bracket.interval
        assert low <= bracket.lower.value + 1e-9 * max(1, abs(bracket.lower.value))
        assert high >= min(bracket.upper.value, exact.value) - 1e-9 * max(1, abs(exact.value))


def hold_parts(case, report, seed):
    assert [part.name for part in report.parts] == list(case.parts)
    for part in report.parts:
        columns = case.parts[part.name]
        assert part.reason is None
        if isinstance(columns, Classes):
            probs, prior = columns.probs.numpy(), columns.prior.numpy()

            def kl(q, prior=prior):
                return np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / prior), 0).sum(-1)

            assert part.average_kl.value == pytest.approx(kl(probs).mean(), abs=1e-9)
            assert part.mutual_information.value == pytest.approx(kl(probs).mean() - kl(probs.mean(0)), abs=1e-9)
            assert part.brackets["empirical"].upper.value == pytest.approx(kl(probs.mean(0)), abs=1e-9)
            continue
        if case.tril.ndim == 2:
            tril = case.tril[:, columns]
        else:
            rows = case.tril[:, columns]
            tril = np.linalg.cholesky(rows @ rows.transpose(0, 2, 1)) if columns.start else rows[:, :, columns]
        alone = dataclasses.replace(
            case, mean=case.mean[:, columns], tril=tril, p_mean=case.p_mean[columns], p_std=case.p_std[columns]
        )
        kls = average_kls(alone)
        scale = np.abs(kls).max() + 1e3 * (case.tril.ndim == 3)  # brute force squares the factor
        assert near(part.average_kl.value, kls.mean(), scale=scale)
        information, _ = sampled(alone, 2000, np.random.default_rng(seed + 1))
        rare = 10 / DRAWS * report.log_n
        error = math.hypot(part.mutual_information.std_error, information[1])
        assert abs(part.mutual_information.value - information[0]) <= SIGMAS * error + rare + 1e-9 * scale


def hold_holes(case, report, seed):
    if len(case.mean) < 40 or not isinstance(case.posterior, DiagonalGaussian):
        assert report.prior_in_holes.value is None
        assert report.prior_in_holes.reason
        return
    holes = find_holes(case.posterior, case.prior, generator=generator_of(seed, "holes"))
    assert (report.prior_in_holes, report.prior_unlike_codes) == (holes.share, holes.trained_share)
    if report.log_n < math.log(len(case.mean)) - 1e-9:
        return  # of copies, one each is looked at, and which is the package's choice
    matrix = log_matrix(holes.codes.z.numpy(), case)
    own, n = holes.codes.points.numpy(), len(case.mean)
    every = log_sum(matrix) - math.log(n)
    lead = matrix[np.arange(len(own)), own]
    matrix[np.arange(len(own)), own] = -np.inf
    held_out, of_prior = log_sum(matrix) - math.log(n - 1), log_sum(log_matrix(holes.prior_draws.z.numpy(), case)) - math.log(n)
    np.testing.assert_allclose(holes.codes.log_q.numpy(), held_out, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(holes.prior_draws.log_q.numpy(), of_prior, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(holes.codes.log_p.numpy(), log_prior(holes.codes.z.numpy(), case), rtol=1e-9, atol=1e-9)
    few = 3 / len(own)  # of rounding, at the threshold
    assert abs(holes.trained_share.value - (of_prior < np.quantile(every, 0.01)).mean()) <= few
    apart = math.sqrt(max(0, 2 * np.median(lead - held_out - math.log(n - 1)) / case.mean.shape[1] + 1))
    assert (holes.share.value is None) == (apart > 6) or abs(apart - 6) < 1e-3
    if holes.share.value is not None:
        assert abs(holes.share.value - (of_prior < np.quantile(held_out, 0.01)).mean()) <= few
    reverse = log_prior(holes.prior_draws.z.numpy(), case), log_prior(holes.codes.z.numpy(), case)
    assert abs(holes.reverse_share.value - (reverse[1] < np.quantile(reverse[0], 0.01)).mean()) <= few


QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
MANY = settings(QUICK, max_examples=1500, derandomize=False)


@QUICK
@given(cases(), st.integers(0, 1000))
def test_every_number_of_a_report_of_few_points(case, seed):
    hold(case, seed)


@settings(QUICK, max_examples=8)
@given(cases(points=(41, 60), latents=(1, 2, 3, 8)), st.integers(0, 1000))
def test_every_number_of_a_report_that_has_holes(case, seed):
    hold(case, seed)


@pytest.mark.slow
@MANY
@given(cases(), st.integers(0, 10**6))
def test_every_number_of_many_reports_of_few_points(case, seed):
    hold(case, seed)


@pytest.mark.slow
@settings(MANY, max_examples=300)
@given(cases(points=(41, 60), latents=(1, 2, 3, 8, 33)), st.integers(0, 10**6))
def test_every_number_of_many_reports_that_have_holes(case, seed):
    hold(case, seed)
