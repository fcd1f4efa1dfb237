"""The reporting half, with the true log-ratio handed in: q = N(m, 1) and p = N(0, 1), so f = m z - m^2 / 2 and KL = m^2 / 2."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from klprobe.estimators._ratio_report import CLIP_MARGIN, RatioOnQ, calibration, log_normaliser, ratio_estimates

QUANTITIES = ["mean-logit", "donsker-varadhan", "nwj", "donsker-varadhan-unclipped", "nwj-unclipped"]


def normal_log_ratio(kl, count, generator, *, of_q):
    """log q/p at draws of either side is itself normal: N(+-KL, 2 KL)."""
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return (kl if of_q else -kl) + math.sqrt(2 * kl) * noise


def report(kl, *, q=20_000, p=100_000, seed=0, distort=lambda f: f):
    """The five estimates by name when each data point is drawn at once."""
    generator = torch.Generator().manual_seed(seed)
    on_q = RatioOnQ("population", distort(normal_log_ratio(kl, q, generator, of_q=True)), torch.arange(q), q)
    constant = log_normaliser(distort(normal_log_ratio(kl, max(p // 10, 10_000), generator, of_q=False)))
    on_p = distort(normal_log_ratio(kl, p, generator, of_q=False))
    return {e.quantity: e for e in ratio_estimates("classifier", on_q, on_p, constant)}


def clipped_truth(kl, ceiling):
    """1 + E_q min(f, c) - E_p e^min(f, c) by quadrature."""
    spread = math.sqrt(2 * kl)
    f = torch.linspace(-kl - 12 * spread, kl + 12 * spread, 400_001, dtype=torch.float64)
    q, p = (torch.exp(-0.5 * ((f - mean) / spread) ** 2) / (spread * math.sqrt(2 * math.pi)) for mean in (kl, -kl))
    g = f.clamp(max=ceiling)
    return 1 + float(torch.trapezoid(q * g, f)) - float(torch.trapezoid(p * g.exp(), f))


def honest(z):
    """Mean 0 and variance 1 within four standard errors of each; 1.3 for tails a little heavier than the normal's."""
    z = np.asarray(z)
    assert abs(z.mean()) <= 4 / math.sqrt(len(z)), z.mean()
    assert abs(z.var() - 1) <= 1.3 * 4 * math.sqrt(2 / len(z)), z.var()


@pytest.mark.parametrize("kl", [1e-4, 0.1, 1.0, 2.0])
def test_with_the_true_ratio_every_quantity_is_right_within_four_errors(kl):
    for name, e in report(kl).items():
        # at KL = 2 the clip at log 10^5 - 5 costs 0.0014 nats, less than a tenth of the standard error
        assert abs(e.value - kl) <= 4 * e.std_error, name


@pytest.mark.slow
@pytest.mark.parametrize("kl", [0.01, 0.3, 1.0])
def test_standard_errors_are_honest_over_many_seeds(kl):
    n = 20_000
    runs = [report(kl, q=2000, p=n, seed=seed) for seed in range(400)]
    for name in QUANTITIES:
        truth = clipped_truth(kl, math.log(n) - CLIP_MARGIN) if name in ("nwj", "donsker-varadhan") else kl
        honest([(r[name].value - truth) / r[name].std_error for r in runs])


def wandering_points(target, seed, *, num_points=300, draws=4, std=0.6):
    """z-scores when point n has q(z|x_n) = N(m_n, std^2), m_n ~ N(0, 1 - std^2 + 0.3), and each is drawn at several times."""
    fixed = torch.Generator().manual_seed(7 if target == "empirical" else seed + 1000)
    generator = torch.Generator().manual_seed(seed)
    variance = 1.3
    means = math.sqrt(variance - std**2) * torch.randn(num_points, generator=fixed, dtype=torch.float64)
    points = torch.arange(num_points).repeat(draws)
    noise = torch.randn(len(points), generator=generator, dtype=torch.float64)

    def f(z):
        return 0.5 * (z.square() * (1 - 1 / variance) - math.log(variance))

    on_p = f(torch.randn(50_000, generator=generator, dtype=torch.float64))
    constant = log_normaliser(f(torch.randn(50_000, generator=generator, dtype=torch.float64)))
    truth = 0.5 * (variance - 1 - math.log(variance))
    if target == "empirical":
        truth = float(f((means.square() + std**2).sqrt()).mean())  # f is affine in z^2
    on_q = RatioOnQ(target, f(means[points] + std * noise), points, num_points)
    found = {e.quantity: e for e in ratio_estimates("classifier", on_q, on_p, constant)}
    return [(found[name].value - truth) / found[name].std_error for name in QUANTITIES]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["population", "empirical"])
def test_errors_are_honest_when_points_are_drawn_at_several_times(target):
    scores = np.array([wandering_points(target, seed) for seed in range(300)])
    for column in scores.T:
        honest(column)


def test_the_error_of_a_population_counts_points_and_not_draws():
    few = {"population": 0.0, "empirical": 0.0}
    for target in few:
        points = torch.arange(50).repeat(40)
        values = points.double() / 50  # draws of a point agree entirely
        on_q = RatioOnQ(target, values, points, 50)
        few[target] = on_q.mean(values).std_error
    assert few["population"] == pytest.approx(float(torch.arange(50.0).std()) / 50 / math.sqrt(50), rel=1e-6)
    assert few["empirical"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("n", [100_000, 1_000_000])
@pytest.mark.parametrize("kl", [50.0, 100.0])
def test_clipped_bounds_stay_below_a_large_truth_where_unclipped_ones_break(kl, n):
    found = report(kl, q=10_000, p=n)
    for name in ("nwj", "donsker-varadhan"):
        assert found[name].bound == "lower"
        assert found[name].value <= math.log(n) - CLIP_MARGIN + 1, "about log n nats is all that n draws can certify"
    for name in ("nwj-unclipped", "donsker-varadhan-unclipped"):
        assert found[name].bound == "none"
        assert found[name].value > kl + 4 * found[name].std_error, "the premise: unclipped, the bound breaks unseen"


@pytest.mark.parametrize(
    "distort", [lambda f: f - 20, lambda f: f + 20, lambda f: 2 * f - 5, lambda f: 0.2 * f, torch.zeros_like]
)
@pytest.mark.parametrize("kl", [0.5, 20.0, 100.0])
def test_bounds_hold_for_log_ratios_that_are_wrong(kl, distort):
    found = report(kl, distort=distort)
    for name in ("nwj", "donsker-varadhan"):
        assert found[name].value <= kl + 4 * found[name].std_error, name


def test_donsker_varadhan_does_not_see_a_constant_and_nwj_does():
    plain, shifted = report(0.1), report(0.1, distort=lambda f: f + 1.0)  # far from any clip
    assert shifted["donsker-varadhan"].value == pytest.approx(plain["donsker-varadhan"].value, abs=1e-9)
    assert shifted["nwj"].value < plain["nwj"].value - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kl", [0.5, 3.0, 10.0])
def test_donsker_varadhan_stays_on_its_side_in_the_mean_at_few_prior_draws(kl):
    """The plain logarithm of a mean is biased upwards; the tangent is not."""
    values = np.array([report(kl, q=1000, p=1000, seed=seed)["donsker-varadhan"].value for seed in range(1000)])
    error = values.std() / math.sqrt(len(values))
    assert values.mean() <= kl + 4 * error
    # the normaliser's own clip, at log 10,000 - 5, is higher by log 10, which moves a harder case's constant
    assert kl > 1 or values.mean() == pytest.approx(clipped_truth(kl, math.log(1000) - CLIP_MARGIN), abs=4 * error)


def test_what_overflows_is_said_and_leaves_the_clipped_bound_alone():
    points = torch.arange(100)
    on_q = RatioOnQ("population", torch.full((100,), 900.0, dtype=torch.float64), points, 100)
    on_p = torch.cat([torch.full((1,), 800.0), torch.full((9999,), -3.0)]).double()
    found = {e.quantity: e for e in ratio_estimates("classifier", on_q, on_p, 0.0)}
    assert found["nwj-unclipped"].value == -math.inf
    assert "too large" in found["nwj-unclipped"].details["reason"]
    assert math.isfinite(found["nwj"].value)
    assert math.isfinite(found["donsker-varadhan-unclipped"].value)
    assert found["nwj"].details["clipped_share_q"] == 1.0
    assert found["nwj"].details["clipped_share_p"] == pytest.approx(1e-4)
    json.dumps([dict(e.details) for e in found.values()], allow_nan=False)


def test_calibration_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    on_q, on_p = (2 * normal_log_ratio(1.0, 3000, generator, of_q=side) + 0.3 for side in (True, False))
    logits, labels = torch.cat([on_q, on_p]).numpy(), np.r_[np.ones(3000), np.zeros(3000)]
    found = calibration(on_q, on_p)
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    probability = 1 / (1 + np.exp(-logits))
    assert found["log_loss"] == pytest.approx(log_loss(labels, probability), rel=1e-9)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, probability), rel=1e-9)
    assert found["accuracy"] == pytest.approx(((logits > 0) == labels).mean(), rel=1e-12)
    assert found["recalibration_slope"] == pytest.approx(line.coef_[0, 0], rel=1e-4)
    assert found["recalibration_intercept"] == pytest.approx(line.intercept_[0], rel=1e-3)


def test_the_true_ratio_is_calibrated_and_a_doubled_one_overconfident():
    generator = torch.Generator().manual_seed(0)
    on_q, on_p = (normal_log_ratio(0.5, 100_000, generator, of_q=side) for side in (True, False))
    true, doubled = calibration(on_q, on_p), calibration(2 * on_q, 2 * on_p)
    # the slope's standard error is about 1 / sqrt(200,000 * 0.2 * var f) = 0.005
    assert true["recalibration_slope"] == pytest.approx(1.0, abs=0.02)
    assert doubled["recalibration_slope"] == pytest.approx(0.5 * true["recalibration_slope"], rel=1e-6)
    assert true["calibration_error"] < 0.01 < doubled["calibration_error"]
    assert true["accuracy"] == pytest.approx(0.5 * math.erfc(-0.5 / math.sqrt(2)), abs=0.005)


def test_a_perfect_separation_has_no_recalibration_line():
    found = calibration(torch.full((50,), 30.0).double(), torch.full((50,), -30.0).double())
    assert found["accuracy"] == 1.0
    assert found["recalibration_slope"] is None
    json.dumps(found, allow_nan=False)
