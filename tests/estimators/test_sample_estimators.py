"""Critics, Gaussianized, telescoping, denoising, least squares and nearest neighbours, trained on small problems."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from klprobe.distributions.posteriors import SampleOnly, sample_with, standard_normal
from klprobe.distributions.priors import Cloud
from klprobe.distributions.problems import Pair, paper_pair, shifted_gaussians, two_samples, warped
from klprobe.distributions.whitening import Whitening
from klprobe.estimators import critic as losses
from klprobe.estimators._ratio import logistic
from klprobe.estimators._ratio_estimator import best_temperature, calibrated
from klprobe.estimators._ratio_report import calibration
from klprobe.estimators._sides import Moments, moments, quadratic_ratio
from klprobe.estimators.critic import Critic
from klprobe.estimators.denoising import Denoisers, Denoising, Levels, Linear, Residual
from klprobe.estimators.gaussianized import Gaussianization, Gaussianized, most_normal
from klprobe.estimators.knn import Knn, _same_ball, _same_count
from klprobe.estimators.least_squares import LeastSquares
from klprobe.estimators.telescoping import Telescoping, waymark_moments, waymarks
from klprobe.types import InputError

FIT = {"width": 32, "steps": 200, "batch_size": 128, "check_every": 50}
FEW = {"num_samples": 8000, "num_prior_samples": 20_000}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(estimator, pair, seed=0, *, prior=None, points=4000):
    problem = two_samples(pair, points)
    found = estimator.estimate(problem.posterior, prior or problem.prior, generator=seeded(seed))
    return {e.quantity: e for e in found if e.target == "population"}


# --- losses and calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [logistic, losses.nwj, losses.donsker_varadhan, losses.hellinger, losses.reverse_kl])
def test_every_loss_has_its_least_value_at_the_log_ratio(loss):
    """On a fine grid both expectations are sums over the same cells, so a move of any cell's f must cost."""
    q, p = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.5, 0.2, 0.3]).double()
    counts_q, counts_p = (100 * q).round().long(), (100 * p).round().long()
    f = (q / p).log()

    def value(f):
        return float(loss(f.repeat_interleave(counts_q), f.repeat_interleave(counts_p)))

    for cell in range(3):
        for step in (-0.1, 0.1):
            moved = f.clone()
            moved[cell] += step
            assert value(moved) > value(f) + 1e-5


def test_critics_bounds_are_the_divergences_they_name():
    """At the true ratio of N(m, 1) and N(0, 1): KL m^2 / 2 both ways, squared Hellinger 2 - 2 exp(-m^2 / 8)."""
    m, n = 0.8, 400_000
    on_q, on_p = (m * (torch.randn(n, generator=seeded(i)).double() + shift) - m**2 / 2 for i, shift in ((0, m), (1, 0.0)))
    truth = {losses.nwj: m**2 / 2, losses.donsker_varadhan: m**2 / 2, losses.reverse_kl: m**2 / 2}
    for loss, value in (truth | {losses.hellinger: 2 - 2 * math.exp(-(m**2) / 8)}).items():
        assert float(-loss(on_q, on_p)) == pytest.approx(value, abs=0.01)  # errors of about 1 / sqrt(400,000) = 0.0016


def test_a_temperature_undoes_a_stretch_and_is_one_for_the_true_ratio():
    on_q, on_p = (
        sign * 1.0 + math.sqrt(2.0) * torch.randn(100_000, generator=seeded(i)).double() for i, sign in ((0, 1), (1, -1))
    )
    assert best_temperature(on_q, on_p) == pytest.approx(1.0, abs=0.03)  # the slope's error is about 0.006
    assert best_temperature(3 * on_q, 3 * on_p) == pytest.approx(3 * best_temperature(on_q, on_p), rel=1e-3)


def test_a_temperature_leaves_sides_alone_that_never_meet():
    """A log-loss of e^-20 falls with every larger slope, and says nothing about it."""
    on_q, on_p = 50 + torch.randn(1000, generator=seeded()).double(), -50 + torch.randn(1000, generator=seeded(1)).double()
    assert best_temperature(on_q, on_p) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_calibration_improves_the_log_loss_on_fresh_draws_of_an_overconfident_ratio(kind):
    def draws(seed):
        return tuple(
            3 * (s + math.sqrt(2.0) * torch.randn(20_000, generator=seeded(seed + i)).double()) for i, s in ((0, 1), (1, -1))
        )

    change, _ = calibrated(kind, *draws(0))
    on_q, on_p = draws(10)
    before, after = calibration(on_q, on_p), calibration(change(on_q), change(on_p))
    assert after["log_loss"] < before["log_loss"] - 0.1
    assert after["calibration_error"] < 0.02 < before["calibration_error"]
    assert torch.isfinite(change(torch.tensor([-1e6, 1e6]).double())).all()
    rising = change(torch.linspace(-9, 9, 101, dtype=torch.float64))
    assert (rising[1:] >= rising[:-1] - 1e-12).all()


# --- parts -------------------------------------------------------------------------------------------------------------------


def test_moments_and_the_ratio_that_they_suggest_are_those_of_gaussians():
    pair = paper_pair(3, generator=seeded(), unit_scale=True)
    of_q, of_p = (Moments(g.loc, g.covariance_matrix) for g in (pair.q, pair.p))
    form, linear, constant = quadratic_ratio(of_q, of_p)
    z = sample_with(pair.q, 100, seeded(1))
    ratio = ((z @ form) * z).sum(1) / 3 + z @ linear + constant
    torch.testing.assert_close(ratio, pair.q.log_prob(z) - pair.p.log_prob(z))
    found = moments(lambda count: sample_with(pair.q, count, seeded(2)), Whitening.none(z))
    assert (found.mean - pair.q.loc).abs().max() < 0.05  # 20,000 codes: errors of 0.01
    assert (found.covariance - of_q.covariance).abs().max() < 0.1


def test_waymarks_begin_at_q_end_at_p_and_have_the_moments_between():
    q, p = torch.randn(50_000, 2, generator=seeded()) * 2 + 1, torch.randn(50_000, 2, generator=seeded(1)) - 1
    marks = waymarks(q, p, 4)
    torch.testing.assert_close(marks[0], q)
    torch.testing.assert_close(marks[-1], p)
    of = [Moments(torch.full((2,), m).double(), v * torch.eye(2).double()) for m, v in ((1.0, 4.0), (-1.0, 1.0))]
    for drawn, said in zip(marks, waymark_moments(*of, 4), strict=True):
        assert (drawn.double().mean(0) - said.mean).abs().max() < 0.05
        assert (torch.cov(drawn.double().T) - said.covariance).abs().max() < 0.15


@pytest.mark.parametrize("dim", [1, 4])
def test_gaussianization_is_one_to_one_and_makes_bent_and_mixed_codes_normal(dim):
    bent = torch.sinh(1.5 * torch.randn(40_000, dim, generator=seeded(), dtype=torch.float64))
    z = bent @ (torch.eye(dim, dtype=torch.float64) + 0.4) + 3.0
    bend = Gaussianization.of(z, 0)
    u = bend.white(z)
    assert ((u.abs() < 1).double().mean(0) - 0.6827).abs().max() < 0.02
    assert (u.mean(0)).abs().max() < 0.03
    line = bend.mean + torch.linspace(-60, 60, 3001, dtype=torch.float64)[:, None] * torch.linalg.inv(bend.rotation)[0]
    assert (bend.white(line)[1:, 0] > bend.white(line)[:-1, 0]).all(), "along one component the image rises everywhere"


@pytest.mark.parametrize("dim", [1, 3])
def test_the_volume_of_either_map_is_the_determinant_of_its_derivative(dim):
    z = torch.sinh(torch.randn(40_000, dim, generator=seeded(), dtype=torch.float64)) * 3 - 1
    for bend in (Whitening.of(z), Gaussianization.of(z, 0)):
        at = z[:20]
        step = 1e-6 * torch.eye(dim, dtype=torch.float64)
        slopes = torch.stack([(bend.white(at + h) - bend.white(at - h)) / 2e-6 for h in step], -1)
        expected = torch.linalg.slogdet(slopes).logabsdet
        close = (bend.log_volume(at) - expected).abs() < 1e-4
        assert close.double().mean() >= 0.9, "but where a step crosses the end of a cell"


@pytest.mark.parametrize(
    ("kl", "name", "kind"), [(1, None, Whitening), (50, None, Whitening), (1, "asinh-mix", Gaussianization)]
)
def test_normal_sides_are_whitened_however_far_apart_and_bent_ones_gaussianized(kl, name, kind):
    pair = shifted_gaussians(5, kl)
    pair = warped(pair, name) if name else pair
    fit, stop = (tuple(sample_with(side, 8000, seeded(i)) for side in (pair.q, pair.p)) for i in (1, 2))
    assert isinstance(most_normal(fit, stop, 0), kind)


def test_the_linear_denoiser_is_the_conditional_mean_of_a_gaussian_and_levels_add_up_to_the_integral():
    """With exact denoisers of N(m, s^2) and N(0, 1): the integral over g in closed form is their KL."""
    levels = Levels.even(-6.0, 9.0, 11, torch.zeros(()))
    sides = [Moments(torch.tensor([m]).double(), torch.tensor([[s**2]]).double()) for m, s in ((0.7, 0.6), (0.0, 1.0))]
    linear = tuple(Linear.of(side, levels) for side in sides)
    none = Residual(1, levels, 4, 1, seeded())
    denoisers = Denoisers(levels, linear, none, True)
    u = (0.7 + 0.6 * torch.randn(200_000, 1, generator=seeded())).float()
    noise = torch.randn(11, 200_000, 1, generator=seeded(1))
    values = denoisers.levels.weights @ denoisers.integrand(u, noise).mean(1)
    truth = float(torch.distributions.kl_divergence(Normal(0.7, 0.6), Normal(0.0, 1.0)))
    assert float(values.detach()) == pytest.approx(truth, abs=0.01)  # 200,000 codes; the grid itself is off by less
    y = u + noise[5] * math.exp(-0.5 * float(levels.log_snr[5]))
    snr = math.exp(float(levels.log_snr[5]))
    by_hand = (0.7 / 0.36 + snr * y) / (1 / 0.36 + snr)
    torch.testing.assert_close(linear[0].mean + (y - linear[0].mean) @ linear[0].gain[5], by_hand, rtol=1e-4, atol=1e-4)


def test_nearest_neighbours_agree_with_a_loop():
    q, p = (np.random.default_rng(i).normal(size=(60, 2)) + shift for i, shift in ((0, 0.5), (1, 0.0)))
    k = 3
    for i, (count, ball) in enumerate(zip(_same_count(q, p, k), _same_ball(q, p, k), strict=True)):
        to_q = np.sort(np.linalg.norm(np.delete(q, i, 0) - q[i], axis=1))
        to_p = np.sort(np.linalg.norm(p - q[i], axis=1))
        assert count == pytest.approx(2 * math.log(to_p[k - 1] / to_q[k - 1]) + math.log(60 / 59))
        radius = max(to_q[k - 1], to_p[k - 1])
        inside_q, inside_p = (min((to <= radius).sum(), 8 * k) for to in (to_q, to_p))
        psi = float(torch.digamma(torch.tensor(float(inside_q))) - torch.digamma(torch.tensor(float(inside_p))))
        assert ball == pytest.approx(psi + 2 * math.log(to_p[inside_p - 1] / to_q[inside_q - 1]) + math.log(60 / 59))


# --- trained -----------------------------------------------------------------------------------------------------------------

SMALL = {
    "nwj": Critic(**FIT, **FEW),
    "donsker-varadhan": Critic(objective="donsker-varadhan", **FIT, **FEW),
    "hellinger": Critic(objective="hellinger", **FIT, **FEW),
    "reverse-kl": Critic(objective="reverse-kl", **FIT, **FEW),
    "gaussianized": Gaussianized(**FIT, **FEW),
    "telescoping": Telescoping(**FIT, **FEW),
    "denoising": Denoising(**FIT, num_samples=8000),
    "least-squares": LeastSquares(centres=100, fit_samples=4000, **FEW),
    "ulsif": LeastSquares(alpha=0.0, centres=100, fit_samples=4000, **FEW),
    "knn": Knn(num_samples=4000),
    "knn-same-count": Knn(num_samples=4000, adaptive=False),
}


def plain(found):
    return found.get("kl") or found["mean-logit"]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_fit_finds_the_kl_of_two_gaussians_in_two_dimensions_and_does_not_take_q_for_p(name):
    """N((1, 1) 0.7, I) squeezed to std 0.7: KL[q||p] = 0.69, KL[p||q] = 1.30; 0.12 for fits of a second and a coarse ball."""
    q = torch.distributions.Independent(Normal(torch.full((2,), 0.7).double(), torch.full((2,), 0.7).double()), 1)
    kl = float(torch.distributions.kl_divergence(q, standard_normal(2)))
    e = plain(run(SMALL[name], Pair(q, standard_normal(2), kl)))
    assert abs(e.value - kl) < 0.12 + 4 * e.std_error
    if "nwj" in (found := run(SMALL[name], Pair(q, standard_normal(2), kl))):
        assert found["nwj"].value < kl + 4 * found["nwj"].std_error


@pytest.mark.parametrize("name", SMALL)
def test_equal_sides_come_out_near_zero(name):
    e = plain(run(SMALL[name], shifted_gaussians(3, 0.0)))
    # fits of a second learn noise: some hundredths of a nat
    assert abs(e.value) < 0.06 + 4 * e.std_error


@pytest.mark.parametrize("name", SMALL)
def test_two_small_clouds_are_enough_to_run(name):
    q, p = (torch.randn(count, 3, generator=seeded(count)) for count in (24, 40))
    small = dataclasses.replace(SMALL[name], steps=20) if hasattr(SMALL[name], "steps") else SMALL[name]
    for e in small.estimate(SampleOnly(q), Cloud(p), generator=seeded()):
        assert math.isfinite(e.value)
        assert math.isfinite(e.std_error)
        json.dumps(dict(e.details), allow_nan=False)


def test_denoising_holds_where_a_classifier_meets_its_ceiling_and_uses_a_known_prior():
    """KL 20 in 50 latents, far beyond log n: a tenth of it, from 4,000 points and linear denoisers alone."""
    pair = shifted_gaussians(50, 20.0)
    small = Denoising(steps=0, num_samples=4000)
    for prior, said in ((None, "learned"), (pair.p, "exact")):
        e = run(small, pair, prior=prior)["kl"]
        assert e.value == pytest.approx(20.0, rel=0.1)
        assert e.bound == "none"
        assert e.details["prior_denoiser"] == said


@pytest.mark.parametrize("name", ["telescoping", "denoising", "gaussianized"])
def test_what_bounds_nothing_says_that_its_error_leaves_out_the_fit(name):
    e = plain(run(dataclasses.replace(SMALL[name], steps=1), shifted_gaussians(2, 0.5)))
    assert e.bound == "none"
    assert "what the fit missed" in e.details["error"]


@pytest.mark.parametrize("name", ["telescoping", "denoising", "gaussianized"])
def test_fewer_codes_may_be_asked_for_the_moments(name):
    """In three latents 400 codes are as good as the 20,000 of the default to a tenth of a nat, and another draw."""
    few = dataclasses.replace(SMALL[name], moment_samples=400)
    one, other = (plain(run(e, shifted_gaussians(3, 0.5))).value for e in (SMALL[name], few))
    assert one != other
    assert abs(one - other) < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_chance_among_the_stop_draws_does_not_shrink_denoisers_that_saw_many_codes(seed):
    """Three per cent of p's covariance towards q's would cost three per cent of the KL."""
    pair = paper_pair(30, generator=seeded(seed))
    e = run(Denoising(steps=0, num_samples=8000), pair, seed)["kl"]
    assert e.details["shrinkage_q"] == e.details["shrinkage_p"] == 0.0
    assert e.value == pytest.approx(pair.kl, abs=0.01 * pair.kl + 4 * e.std_error)


def test_a_chain_grows_with_the_difficulty_and_certifies_each_link():
    chains = {kl: run(dataclasses.replace(SMALL["telescoping"], steps=0), shifted_gaussians(10, kl)) for kl in (0.3, 30.0)}
    links = {kl: found["mean-logit"].details["links"] for kl, found in chains.items()}
    assert len(links[0.3]) == 1
    assert len(links[30.0]) >= 4
    for link in links[30.0]:
        assert 0.3 < link["lower"] < link["ceiling"] + 1
        assert link["accuracy"] > 0.6
    assert chains[30.0]["mean-logit"].value == pytest.approx(30.0, rel=0.1)
    assert chains[30.0]["nwj"].value < math.log(80_000) - 4 + 0.1, "the sum's own bound still ends at log n"


def test_gaussianizing_helps_on_bent_codes_where_a_quadratic_form_is_not_enough():
    pair = warped(paper_pair(4, generator=seeded(2), unit_scale=True), "asinh-mix")
    before, after = (
        run(e, pair)["nwj"].value for e in (Critic(**FIT | {"steps": 1}, **FEW), Gaussianized(**FIT | {"steps": 1}, **FEW))
    )
    assert after > before - 0.02
    assert after < pair.kl + 0.1


@pytest.mark.parametrize("dim", [1, 10])
def test_gaussianizing_does_not_blow_up_where_two_normal_sides_never_meet(dim):
    """A map of their pooled codes pressed them together, and said 220 nats of 20."""
    found = run(SMALL["gaussianized"], shifted_gaussians(dim, 20.0))
    assert found["mean-logit"].value == pytest.approx(20.0, rel=0.15)


def test_the_relative_ratio_is_inverted_before_the_logarithm():
    """For alpha = 0.5 the fitted ratio is at most 2, yet log q/p reaches what the truth does."""
    found = run(LeastSquares(alpha=0.5, centres=200, fit_samples=8000, **FEW), shifted_gaussians(1, 1.5))
    assert found["mean-logit"].value > math.log(2)
    assert found["mean-logit"].value == pytest.approx(1.5, abs=0.3)


def test_neighbours_of_codes_that_coincide_are_refused():
    with pytest.raises(InputError, match="latent 0 is 0 throughout"):
        Knn().estimate(SampleOnly(torch.ones(100, 2) * torch.arange(2)), standard_normal(2), generator=seeded())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Knn(neighbours=0), "neighbour"),
        (lambda: LeastSquares(alpha=1.0), "alpha"),
        (lambda: LeastSquares(centres=0), "centres"),
        (lambda: Telescoping(links=-1), "links"),
        (lambda: Telescoping(lr=0.0), "lr"),
        (lambda: Denoising(levels=2), "levels"),
        (lambda: Denoising(lowest=3.0, highest=1.0), "lowest"),
        (lambda: Critic(lr=0.0), "critic needs lr"),
    ],
)
def test_settings_that_give_no_answer_are_refused_by_name(build, words):
    with pytest.raises(InputError, match=words):
        build()


@pytest.mark.parametrize("estimator", [Telescoping, Denoising])
def test_a_fit_that_diverges_says_the_step_and_the_remedy(estimator):
    few = {"num_samples": 1000} | ({"num_prior_samples": 1000} if estimator is Telescoping else {})
    with pytest.raises(InputError, match=r"diverged.*at step \d+ of 50.*lr"):
        run(estimator(**FIT | {"steps": 50}, lr=1e25, **few), shifted_gaussians(2, 1.0))


@pytest.mark.slow
def test_nearest_neighbours_errors_are_honest_in_one_dimension():
    """z-scores over 100 seeds at KL 0.3; half an error is left for the bias of 2,000 codes."""
    z = []
    for seed in range(100):
        e = run(Knn(num_samples=2000), shifted_gaussians(1, 0.3), seed)["kl"]
        z.append((e.value - 0.3) / e.std_error)
    z = np.asarray(z)
    assert abs(z.mean()) <= 0.9, z.mean()
    assert abs(z.var() - 1) <= 4 * math.sqrt(2 / 100), z.var()
