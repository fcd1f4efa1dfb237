import pytest
import torch

from klprobe.metrics.latents import Latents
from klprobe.types import InputError


def run(codes, means=None, **settings):
    scores = Latents(**settings).measure(codes, means, torch.Generator().manual_seed(0))
    return {score.quantity: score for score in scores}


def normal(n, mean, root, seed=0):
    return mean + torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ root


def test_on_a_gaussian_all_moments_are_the_closed_forms():
    mean = torch.tensor([1.0, -0.5]).double()
    root = torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    covariance = root.T @ root
    found = run(normal(20_000, mean, root))
    for name, truth in (
        ("latent-mean-square", mean.square().mean()),
        ("latent-variance", covariance.diag().mean()),
        ("latent-covariance", covariance[0, 1].abs()),
    ):
        assert abs(found[name].value - float(truth)) < 4 * found[name].std_error, name
    details = found["latent-radius"].details
    torch.testing.assert_close(torch.tensor(details["covariance"]), covariance.float(), rtol=0.1, atol=0.1)


def test_the_prior_has_mean_square_zero_on_average_and_the_radius_of_the_chi_distribution():
    dim = 20
    chi = 2**0.5 * torch.exp(torch.lgamma(torch.tensor((dim + 1) / 2)) - torch.lgamma(torch.tensor(dim / 2)))
    values = []
    for seed in range(30):
        found = run(normal(100, torch.zeros(dim).double(), torch.eye(dim).double(), seed))
        values.append(found["latent-mean-square"].value)
        assert abs(found["latent-radius"].value - float(chi)) < 5 * found["latent-radius"].std_error
    assert abs(torch.tensor(values).mean()) < 4 * torch.tensor(values).std() / 30**0.5


@pytest.mark.parametrize("start", [0, 400])
def test_errors_are_the_spread_over_data_sets(start):
    """100 sets: their spread has a relative error of 7 %, hence 0.75 to 1.35."""
    root = torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    found = [run(normal(200, torch.ones(2).double(), root, seed)) for seed in range(start, start + 100)]
    for name in list(found[0])[:4]:
        spread = torch.tensor([f[name].value for f in found]).std()
        error = torch.tensor([f[name].std_error for f in found]).square().mean().sqrt()
        assert 0.75 < spread / error < 1.35, name


def test_active_units_are_counted_by_the_variance_of_the_posterior_means():
    codes = normal(100, torch.zeros(3).double(), torch.eye(3).double())
    means = codes * torch.tensor([1.0, 0.05, 0.2])
    assert run(codes, means)["active-units"].value == 2
    assert run(codes, means, active=0.001)["active-units"].value == 3
    unknown = run(codes)["active-units"]
    assert unknown.value is None
    assert "not known" in unknown.reason


def test_the_error_of_the_active_units_is_their_spread_over_data_sets():
    """Ten latents whose posterior means vary by about the limit of 1: 40 sets, a relative error of 11 %, hence 0.6 to 1.4."""
    found = []
    for seed in range(40):
        means = normal(200, torch.zeros(12).double(), torch.diag(torch.tensor([1.0] * 10 + [0.1, 3.0]).double()), seed)
        found.append(run(means, means, active=1.0)["active-units"])
    spread = torch.tensor([score.value for score in found]).double().std()
    error = torch.tensor([score.std_error for score in found]).square().mean().sqrt()
    assert 0.6 < spread / error < 1.4
    assert run(means, means, active=0.3)["active-units"].std_error == 0, "no unit is near the limit"


def test_too_few_codes_are_refused():
    with pytest.raises(InputError, match="at least 4 codes"):
        run(torch.zeros(3, 2))
