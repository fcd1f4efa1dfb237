import pytest
import torch
from torch.distributions import MultivariateNormal

from klprobe.distributions.inspection import active_units, check_clouds, check_posterior, radius_histogram
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior, standard_normal
from klprobe.distributions.priors import Cloud
from klprobe.types import InputError


def gaussian(n=400, d=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g).double(), torch.randn(n, d, generator=g).double()


def verdicts(q):
    return {c.name: c for c in check_posterior(q)}


def test_ordinary_posteriors_raise_no_warning():
    mean, logvar = gaussian()
    assert all(c.passed for c in check_posterior(DiagonalGaussian(mean, logvar=logvar)))


def test_duplicate_points_are_counted():
    mean, logvar = gaussian()
    mean[10:13], logvar[10:13] = mean[0], logvar[0]
    check = verdicts(DiagonalGaussian(mean, logvar=logvar))["duplicate-points"]
    assert not check.passed
    assert check.message.startswith("3 of 400")
    assert not verdicts(SampleOnly(mean))["duplicate-points"].passed


def test_samples_that_are_in_both_clouds_are_counted():
    codes, _ = gaussian()
    other = codes.flip(0) + 1e-9
    (check,) = check_clouds(SampleOnly(codes), Cloud(other))
    assert check.passed
    other[:5] = codes[7:12]
    (check,) = check_clouds(SampleOnly(codes), Cloud(other))
    assert not check.passed
    assert check.message.startswith("5 of 400 samples of q are among the prior's")
    assert check_clouds(SampleOnly(codes), standard_normal(3)) == []


def test_a_latent_that_takes_few_values_is_named_for_its_infinite_kl():
    codes, _ = gaussian()
    assert verdicts(SampleOnly(codes))["latents-vary"].passed
    assert verdicts(SampleOnly(codes.half().double()))["latents-vary"].passed, "half precision is fine enough"
    for coarse in (1.5, (codes[:, 2] * 4).round() / 4):
        codes[:, 2] = coarse
        check = verdicts(SampleOnly(codes))["latents-vary"]
        assert not check.passed
        assert "in latents 2: q(z) has no density there, and its KL is infinite" in check.message


def test_constant_and_clamped_log_variances_are_named_by_latent():
    mean, logvar = gaussian()
    logvar[:, 1] = -3.0
    logvar[:, 2] = logvar[:, 2].clamp(min=-0.5)
    check = verdicts(DiagonalGaussian(mean, logvar=logvar))["log-variance"]
    assert not check.passed
    assert "constant in latents 1" in check.message
    assert "clamped in latents 2" in check.message


def test_spreads_beyond_float32_warn_and_beyond_float64_are_refused():
    mean, logvar = gaussian()
    logvar[0, 0] = 100.0
    assert not verdicts(DiagonalGaussian(mean, logvar=logvar))["float-range"].passed
    for unusable in (-2000.0, 2000.0):
        logvar[0, 0] = unusable
        with pytest.raises(InputError, match="float64"):
            check_posterior(DiagonalGaussian(mean, logvar=logvar))


def test_active_units_are_the_latents_whose_mean_varies():
    mean, logvar = gaussian()
    mean[:, 1] = 1000.0 + 0.05 * mean[:, 1]
    assert active_units(DiagonalGaussian(mean, logvar=logvar)) == 2
    assert active_units(SampleOnly(mean, deterministic=True)) == 2
    assert active_units(SampleOnly(mean)) is None


def test_radius_densities_integrate_to_nearly_one():
    mean, logvar = gaussian()
    found = radius_histogram(DiagonalGaussian(mean, logvar=logvar), standard_normal(3), torch.Generator().manual_seed(0))
    width = found.edges[1] - found.edges[0]
    for density in (found.posterior, found.prior):
        assert 0.99 < sum(density) * width <= 1 + 1e-9


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted_and_located(value):
    mean, logvar = gaussian()
    mean[7, 2] = mean[9, 0] = value
    with pytest.raises(InputError, match=r"mean holds 2 values .* \(7, 2\)"):
        check_posterior(DiagonalGaussian(mean, logvar=logvar))
    with pytest.raises(InputError, match="logvar holds 2"):
        check_posterior(DiagonalGaussian(logvar, logvar=mean))
    with pytest.raises(InputError, match="samples holds 2"):
        check_posterior(SampleOnly(mean))


def test_spreads_that_no_draw_in_float64_can_show_are_refused_and_narrow_ones_are_not():
    mean = torch.full((4, 2), 1e3, dtype=torch.float64)
    check_posterior(DiagonalGaussian(mean, std=torch.full((4, 2), 1e-6, dtype=torch.float64)))
    with pytest.raises(InputError, match=r"8 posterior standard deviations, the first at row 0, latent 0, are below 1e-14"):
        check_posterior(DiagonalGaussian(mean, std=torch.full((4, 2), 1e-12, dtype=torch.float64)))


@pytest.mark.parametrize(("name", "value"), [("std", 1e-150), ("std", 0.0), ("std", -1.0), ("logvar", -700.0), ("var", 1e300)])
def test_a_spread_beyond_float64_is_refused_by_row_and_latent(name, value):
    spread = torch.ones(9000, 3, dtype=torch.float64)
    spread[8500, 1] = value
    with pytest.raises(InputError, match="row 8500, latent 1"):
        check_posterior(DiagonalGaussian(torch.zeros(9000, 3), **{name: spread}))


def full(tril):
    return as_posterior(MultivariateNormal(torch.zeros(len(tril), 4).double(), scale_tril=tril, validate_args=False))


def test_covariances_that_draws_in_float64_do_not_show_are_refused_and_others_are_not():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(20, 4, 4, generator=generator, dtype=torch.float64).tril(-1) + torch.diag(
        torch.tensor([1e3, 1.0, 1e-4, 1e-9]).double()
    )
    alone = torch.diag(10.0 ** torch.linspace(-9, 3, 4, dtype=torch.float64)).expand(20, 4, 4).clone()
    check_posterior(full(alone))  # each latent by itself may have any scale
    alone[7] = mixed[7]
    with pytest.raises(InputError, match=r"covariance at row 7 .* latent 3"):
        check_posterior(full(alone))
    for value in (torch.nan, 0.0, -1.0):
        alone[7, 2, 2] = value
        with pytest.raises(InputError, match="scale_tril at row 7, latent 2"):
            check_posterior(full(alone))


def test_a_hundred_latents_that_hang_together_are_no_bad_condition():
    """All signs against each other would make it 2^99; the inverse of this factor has entries of 1 and -1."""
    tril = torch.ones(3, 100, 100, dtype=torch.float64).tril()
    posterior = as_posterior(MultivariateNormal(torch.zeros(3, 100).double(), scale_tril=tril))
    check_posterior(posterior)
