"""What gmm, maf and lstm have in common: the bounds and their errors, the whitening, the fit, the prior in the mixture."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, standard_normal
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.distributions.whitening import Whitening, whiten
from klprobe.estimators._density import (
    MixedWithPrior,
    best_prior_weight,
    empirical,
    log_density,
    population,
)
from klprobe.estimators._descent import Schedule, anneal
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.lstm import Lstm
from klprobe.estimators.maf import Maf
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import InputError

QUICK = {
    "gmm": Gmm(components=10, steps=150, num_samples=4000),
    "maf": Maf(flows=2, width=32, components=4, steps=300, num_samples=4000),
    "lstm": Lstm(width=16, steps=300, num_samples=4000),
}
"""Small models that fit in less than a second."""
quick = pytest.mark.parametrize("estimator", QUICK.values(), ids=QUICK)


def run(estimator, posterior, prior, seed=0):
    found = estimator.estimate(posterior, prior, generator=torch.Generator().manual_seed(seed))
    return {e.target: e for e in found}


@functools.cache
def banana_kl(std, bend):
    """KL of the population's q(z) of `banana` from N(0, I), by quadrature over x, z_1 and z_2."""
    x, first, second = (torch.linspace(*ends, dtype=torch.float64) for ends in ((-6, 6, 400), (-7, 7, 240), (-4, 16, 480)))
    weight = Normal(0.0, 1.0).log_prob(x).exp() * (x[1] - x[0])
    on_first = Normal(x, std).log_prob(first[:, None]).exp()
    on_second = Normal(bend * (x.square() - 1), std).log_prob(second[:, None]).exp()
    q = (on_first * weight) @ on_second.T
    log_p = Normal(0.0, 1.0).log_prob(first)[:, None] + Normal(0.0, 1.0).log_prob(second)
    cell = (first[1] - first[0]) * (second[1] - second[0])
    return float((torch.special.xlogy(q, q) - q * log_p).sum() * cell)


def banana(num_points, *, std=0.3, bend=0.7, seed=0):
    """x ~ N(0, 1), z = (x, bend (x^2 - 1)) + std noise: uncorrelated latents that depend on each other.

    Its KL is 0.866 nats, of which a Gaussian with q's moments sees 0.003.
    """
    x = torch.randn(num_points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = torch.stack([x, bend * (x.square() - 1)], 1)
    return DiagonalGaussian(mean, std=torch.full_like(mean, std)), standard_normal(2), banana_kl(std, bend)


class Exactly(torch.nn.Module):
    """A density that is handed in."""

    def __init__(self, distribution):
        super().__init__()
        self.distribution, self.unused = distribution, torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, u):
        return self.distribution.log_prob(u)


def handed_in(distribution, prior, weight=0.0):
    """What an estimator reports with, for a density that needs neither whitening nor a fit."""
    zero = torch.zeros(distribution.event_shape[0], dtype=torch.float64)
    return MixedWithPrior(Exactly(distribution), Whitening(zero, zero + 1, torch.diag(zero + 1), 0.0, 1.0), prior, weight)


# ---- the numbers, with the true density handed in


def scores_of_the_true_density(dim, num_points, std, seed, num_samples):
    """z-scores of the population's and the empirical report when t is the population's q(z) = N(0, AA' + std^2 I)."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    mean = torch.randn(num_points, dim, generator=generator, dtype=torch.float64) @ factor.T
    posterior, prior = DiagonalGaussian(mean, std=torch.full_like(mean, std)), standard_normal(dim)
    covariance = factor @ factor.T + std**2 * torch.eye(dim, dtype=torch.float64)
    truth = 0.5 * float(covariance.trace() - dim - covariance.logdet())
    # E_{q(z|x_n)}[log t - log p]: the log-ratio is quadratic in z
    gap = torch.eye(dim, dtype=torch.float64) - torch.linalg.inv(covariance)
    at_points = 0.5 * ((mean @ gap * mean).sum(1) + std**2 * gap.trace() - covariance.logdet())
    density = handed_in(MultivariateNormal(torch.zeros(dim, dtype=torch.float64), covariance), prior)
    of_q = population(density, posterior, torch.arange(num_points), num_samples, generator)
    of_q_n = empirical(density, posterior, num_samples, generator)
    return (of_q.value - truth) / of_q.std_error, (of_q_n.value - float(at_points.mean())) / of_q_n.std_error


@pytest.mark.parametrize(
    ("dim", "std", "num_points", "num_samples"), [(2, 0.3, 200, 2000), (8, 0.6, 3000, 1000), (5, 0.1, 900, 1000)]
)
def test_with_the_true_density_both_reports_are_right_within_four_errors(dim, std, num_points, num_samples):
    for seed in range(5):
        assert max(map(abs, scores_of_the_true_density(dim, num_points, std, seed, num_samples))) <= 4


def test_wide_codes_are_drawn_and_evaluated_in_blocks(monkeypatch):
    dim, num_points, sizes = 7, 50, []

    class Counting(Exactly):
        def forward(self, u):
            sizes.append(len(u))
            return super().forward(u)

    prior = standard_normal(dim)
    mean = torch.randn(num_points, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = DiagonalGaussian(mean, std=torch.full_like(mean, 1e-9))  # draws are the means, whatever the random numbers

    def both():
        wide = Independent(Normal(torch.zeros(dim, dtype=torch.float64), 2.0), 1)
        density = handed_in(wide, prior)._replace(model=Counting(wide))
        generator = torch.Generator().manual_seed(1)
        of_q = population(density, posterior, torch.arange(num_points), 200, generator)
        return (of_q.value, empirical(density, posterior, 200, generator).value)

    whole = both()
    assert max(sizes) == 200
    sizes.clear()
    monkeypatch.setattr("klprobe.estimators._density.NUMBERS", 30 * dim)
    monkeypatch.setattr("klprobe.estimators._density.ROW_NUMBERS", 20 * dim)
    assert both() == pytest.approx(whole, rel=1e-6)
    assert (max(sizes), sum(sizes)) == (20, 400)


@pytest.mark.slow
@pytest.mark.parametrize(("num_points", "num_samples"), [(200, 2000), (300, 330), (2000, 400)])
def test_standard_errors_are_honest_over_many_data_sets(num_points, num_samples):
    scores = np.array([scores_of_the_true_density(3, num_points, 0.5, seed, num_samples) for seed in range(400)])
    assert (np.abs(scores.mean(0)) <= 4 / math.sqrt(400)).all()
    assert (np.abs(scores.var(0) - 1) <= 5 * math.sqrt(2 / 400)).all()  # 5: the scores' tails are those of Student's t


@pytest.mark.parametrize("centre", [-3.0, 0.0, 0.5, 3.0])
def test_the_priors_weight_is_the_best_on_a_grid(centre):
    ratio = centre + torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gain(w):
        return float(torch.log((1 - w) * ratio.exp() + w).mean())

    assert gain(best_prior_weight(ratio)) >= max(gain(w) for w in np.linspace(0, 1, 1001)) - 1e-9


def test_the_prior_in_the_mixture_bounds_the_log_ratio_from_below():
    far = Independent(Normal(torch.full((1,), 50.0, dtype=torch.float64), 0.1), 1)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    floor = torch.full((7,), math.log(0.25), dtype=torch.float64)
    assert torch.allclose(handed_in(far, standard_normal(1), 0.25).log_ratio(z), floor)


# ---- the numbers, with a density that was fitted


@quick
def test_is_a_lower_bound_near_the_truth_where_latents_depend_on_each_other(estimator):
    posterior, prior, truth = banana(4000)
    found = run(estimator, posterior, prior)
    assert all(e.bound == "lower" for e in found.values())
    assert found["population"].value <= truth + 4 * found["population"].std_error
    assert found["population"].value >= truth - 0.25  # a Gaussian is 0.86 short; a quick fit finds most of that


@quick
@pytest.mark.parametrize("dim", [1, 4])
def test_a_gaussian_q_is_found_up_to_the_sampling_error_of_its_moments(estimator, dim):
    problem = linear_gaussian_encoder(dim, 2000, 0.5, generator=torch.Generator().manual_seed(3))
    found = run(estimator, problem.posterior, problem.prior)["population"]
    # a Gaussian fitted to n points is short by (number of moments) / 2n nats in the mean; n = 1400, and ten times that
    allowed = 10 * dim * (dim + 3) / 2 / (2 * 1400)
    assert -allowed - 4 * found.std_error <= found.value - problem.population_kl <= 4 * found.std_error


@quick
def test_is_near_zero_where_q_is_the_prior(estimator):
    problem = linear_gaussian_encoder(6, 1000, 0.6, generator=torch.Generator().manual_seed(1), spread=(1.0, 1.0))
    found = run(estimator, problem.posterior, problem.prior)["population"]
    assert -0.02 - 4 * found.std_error <= found.value <= 4 * found.std_error  # 27 moments of 700 points: 0.02


@quick
def test_the_empirical_bound_stays_below_monte_carlo(estimator):
    posterior, prior, _ = banana(300, std=0.1)
    generator = torch.Generator().manual_seed(0)
    exact = next(e for e in MonteCarlo().estimate(posterior, prior, generator=generator) if e.bound == "exact")
    below = run(estimator, posterior, prior)["empirical"]
    assert below.value <= exact.value + 4 * math.hypot(below.std_error, exact.std_error)


@quick
def test_it_is_the_divergence_of_q_from_p_and_not_the_reverse(estimator):
    narrow = linear_gaussian_encoder(2, 2000, 0.1, generator=torch.Generator().manual_seed(1), spread=(0.2, 0.2))
    found = run(estimator, narrow.posterior, narrow.prior)["population"]
    reverse = 2 * 0.5 * (1 / 0.04 - 1 + math.log(0.04))
    assert abs(found.value - narrow.population_kl) < 0.1 < abs(found.value - reverse)


@quick
def test_an_encoder_known_by_its_samples_gives_the_population_bound_alone(estimator):
    posterior, prior, truth = banana(4000)
    samples = posterior.sample_at(torch.arange(4000), torch.Generator().manual_seed(0))
    found = run(estimator, SampleOnly(samples.float()), prior)
    assert set(found) == {"population"}
    assert found["population"].num_samples == 800
    assert truth - 0.3 <= found["population"].value <= truth + 4 * found["population"].std_error


@quick
def test_units_do_not_matter(estimator):
    posterior, prior, _ = banana(300)
    scale, shift = torch.tensor([[1e-6, 1e3], [1e3, -5.0]], dtype=torch.float64)
    mean, std = posterior.rows(slice(None))
    moved, moved_prior = DiagonalGaussian(mean * scale + shift, std=std * scale), Independent(Normal(shift, scale), 1)
    here, there = run(estimator, posterior, prior), run(estimator, moved, moved_prior)
    for target, e in there.items():
        # 1e3 + 1e-6 z keeps seven digits of z in float64, and a fit carries such differences on
        assert e.value == pytest.approx(here[target].value, abs=0.02)


@quick
def test_an_invertible_linear_map_of_both_hardly_matters(estimator):
    generator = torch.Generator().manual_seed(2)
    problem = linear_gaussian_encoder(3, 1000, 0.5, generator=generator)
    turn = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    turn *= torch.tensor([1e-2, 1.0, 50.0], dtype=torch.float64)[:, None]
    moved = MultivariateNormal(problem.posterior.mean @ turn.T, (0.25 * turn @ turn.T).expand(1000, 3, 3))
    moved_prior = MultivariateNormal(torch.zeros(3, dtype=torch.float64), turn @ turn.T)
    found = run(estimator, moved, moved_prior)["population"]
    assert -0.05 - 4 * found.std_error <= found.value - problem.population_kl <= 4 * found.std_error


@quick
def test_any_torch_posterior_and_prior_will_do(estimator):
    location = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    found = run(estimator, Independent(Laplace(location, 0.3), 1), Independent(Laplace(torch.zeros(2), 1.0), 1))
    assert all(math.isfinite(e.value) and 0 < e.std_error < 1 for e in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Gmm, Maf, Lstm])
def test_at_the_defaults_the_banana_is_known_to_a_twentieth_of_a_nat(kind):
    posterior, prior, truth = banana(20_000)
    found = run(kind(), posterior, prior)["population"]
    assert -0.05 - 4 * found.std_error <= found.value - truth <= 4 * found.std_error


@pytest.mark.slow
@quick
def test_the_population_bound_holds_in_the_mean_over_data_sets_of_any_size(estimator):
    for num_points in (30, 300):
        excess, errors = [], []
        for seed in range(40):
            posterior, prior, truth = banana(num_points, seed=seed)
            found = run(estimator, posterior, prior, seed)["population"]
            excess.append(found.value - truth)
            errors.append(found.std_error)
        assert np.mean(excess) <= 4 * np.std(excess) / math.sqrt(40)
        if num_points == 300:  # with 30 points, ten of which choose the weights, a bound holds and may be far below 0
            assert np.mean(excess) >= -truth - 0.1


# ---- what is said beside the numbers


@quick
def test_details_are_strict_json_with_short_curves_and_progress_ends_at_its_total(estimator):
    posterior, prior, _ = banana(200)
    seen = []
    generator = torch.Generator().manual_seed(0)
    found = estimator.estimate(posterior, prior, generator=generator, progress=lambda *said: seen.append(said))
    details = json.loads(json.dumps(found[0].details, allow_nan=False))
    curves = details["curves"]
    assert sum(2 * len(curve) for curve in curves.values()) <= 210
    steps, losses = zip(*curves["validation"], strict=True)
    assert details["chosen_step"] == steps[int(np.argmin(losses))]
    assert details["settings"]["steps"] == estimator.steps
    assert details["parameters"] > 0
    done, total, note = seen[-1]
    assert done == total == estimator.steps
    assert f"{found[0].value:.4g} nats" in note


@pytest.mark.parametrize("kind", [Gmm, Maf, Lstm])
def test_the_preset_fills_what_was_left_alone(kind):
    assert kind().settings() == kind()
    paper = kind(preset="paper", steps=7).settings()
    assert paper.steps == 7
    assert (paper.lr, paper.decay, paper.whiten) == (5e-4, False, False)
    assert set(kind.PAPER) <= set(kind.__dataclass_fields__)


@pytest.mark.parametrize("kind", [Gmm, Maf, Lstm])
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": -1.0}, {"num_samples": 3}, {"batch_size": 0}, {"lr": math.inf}])
def test_settings_that_give_no_answer_are_refused(kind, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        kind(**wrong)


# ---- what cannot be fitted


@quick
def test_too_few_points_are_refused_with_their_number(estimator):
    with pytest.raises(InputError, match=f"{estimator.method}.*19 points are too few"):
        run(estimator, DiagonalGaussian(torch.zeros(19, 2), std=torch.ones(19, 2)), standard_normal(2))


@quick
def test_more_latents_than_points_give_a_bound_and_no_crash(estimator):
    means = torch.randn(20, 40, generator=torch.Generator().manual_seed(0)) * math.sqrt(0.75)
    found = run(estimator, DiagonalGaussian(means, std=torch.full((20, 40), 0.5)), standard_normal(40))["population"]
    assert -2 <= found.value <= 4 * found.std_error  # the truth is 0; mixing in the prior keeps a hopeless fit near it


@quick
def test_a_constant_latent_is_refused_by_its_number(estimator):
    samples = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    samples[:, 1] = 0.7
    with pytest.raises(InputError, match="latent 1 is the same number"):
        run(estimator, SampleOnly(samples), standard_normal(3))


@pytest.mark.parametrize("kind", [Maf, Lstm])
def test_a_fit_that_diverges_says_at_which_step_and_what_to_lower(kind):
    posterior, prior, _ = banana(100)
    wild = kind(width=8, lr=1e30, steps=1000)
    with pytest.raises(InputError, match=rf"{wild.method} diverged at step \d+.*lower --{wild.method}\.lr"):
        run(wild, posterior, prior)


def minus_log(model, codes):
    return -model(codes).mean().item()


def annealed(model, fit, stop, *, patience, decay):
    schedule = Schedule(steps=1000, lr=0.01, betas=(0.9, 0.999), average=0.99, check_every=20, patience=patience)
    return anneal(
        model,
        lambda network: -network(fit).mean(),
        lambda network: minus_log(network, stop),
        schedule,
        lambda *_: None,
        decay=decay,
        method="x",
        note=str,
    )


def test_a_fit_that_diverges_later_keeps_its_best_weights():
    class Fragile(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.calls = torch.nn.Parameter(torch.ones(())), 0

        def forward(self, u):
            self.calls += torch.is_grad_enabled()
            log_t = -0.5 * (u[:, 0] - self.mean).square()
            return log_t if self.calls < 150 else log_t * math.nan

    codes = torch.zeros(10, 1)
    fitted = annealed(Fragile(), codes, codes, patience=10, decay=True)
    assert (fitted.diverged_at, fitted.best_step) == (150, 140)
    assert abs(fitted.network.mean.item()) < 0.5


def test_a_fit_that_stops_improving_stops_and_gives_back_its_best_weights():
    class Drift(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(()))

        def forward(self, u):
            return -0.5 * (u[:, 0] - self.mean).square()

    fit, stop = torch.full((10, 1), 5.0), torch.full((10, 1), 1.0)
    fitted = annealed(Drift(), fit, stop, patience=3, decay=False)
    assert fitted.steps_done == fitted.best_step + 3 * 20
    assert minus_log(fitted.network, stop) == min(loss for _, loss in fitted.curves["validation"])


# ---- whitening and precision


def test_whitening_has_the_exact_log_determinant_and_unit_covariance():
    generator = torch.Generator().manual_seed(0)
    units = torch.tensor([1e-6, 1.0, 1e3, 3.0, 0.1], dtype=torch.float64)
    mixed = torch.randn(5, 5, generator=generator, dtype=torch.float64) + 2 * torch.eye(5, dtype=torch.float64)
    z = torch.randn(5000, 5, generator=generator, dtype=torch.float64) @ mixed * units + 1e3
    made = whiten(z, z)
    assert made.shrinkage == 0
    jacobian = torch.autograd.functional.jacobian(lambda row: made.white(row[None])[0], z[0])
    assert made.log_det == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), rel=1e-9)
    assert torch.allclose(torch.cov(made.white(z).T), torch.eye(5, dtype=torch.float64), atol=1e-3)


def test_whitening_leaves_correlations_alone_that_are_chance():
    draws = torch.randn(60, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert whiten(draws[:40], draws[40:]).shrinkage >= 0.3
    alone = whiten(draws[:40], draws[40:], correlations=False)
    assert torch.equal(alone.rotation, torch.eye(30, dtype=torch.float64))
    assert torch.equal(alone.white(draws), (draws - draws[:40].mean(0)) / draws[:40].std(0)), (
        "a product by the identity is spared"
    )
    assert alone.log_det == pytest.approx(-float(draws[:40].std(0).log().sum()), rel=1e-12)
    assert torch.allclose(alone.undo(alone.white(draws)), draws)


@quick
def test_float32_is_off_by_less_than_a_thousandth_of_a_nat(estimator):
    """The fit may be in float32; what is reported is float64."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(1000, 20, generator=generator, dtype=torch.float64)
    model, _ = estimator.start(codes, codes, generator)
    exact = log_density(model.double(), codes)
    assert exact.dtype == torch.float64
    assert torch.allclose(log_density(model.float(), codes), exact, rtol=0, atol=1e-3)
