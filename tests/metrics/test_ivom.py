import pytest
import torch

from klprobe.distributions.posteriors import standard_normal
from klprobe.metrics.ivom import Ivom, nearest_codes
from klprobe.types import InputError

WEIGHTS = torch.tensor([[1.0, 0.5, -0.3, 0.2], [0.2, -1.0, 0.8, 0.1]])
OFFSET = torch.tensor([0.1, 0.2, 0.3, 0.4])


class Linear:
    """Also a generator with parameters of its own, which the search must leave alone."""

    prior = standard_normal(2)

    def __init__(self):
        self.weights = WEIGHTS.clone().requires_grad_()

    def decode(self, z, labels=None, grad=False):
        return z @ self.weights + OFFSET


class Wavy(Linear):
    """A generator with local minima."""

    def decode(self, z, labels=None, grad=False):
        return torch.cat([torch.sin(3 * z), z], 1)


def points(n=40):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def closed_form(x):
    """What a least-squares projection on the generator's plane leaves."""
    left = (x - OFFSET).double()
    basis = torch.linalg.qr(WEIGHTS.double().T).Q
    return (left - left @ basis @ basis.T).square().mean(1)


@pytest.mark.parametrize(("optimiser", "tolerance"), [("adam", 1e-4), ("lbfgs", 1e-6)])
def test_a_linear_generator_gives_the_least_squares_error(optimiser, tolerance):
    x, model = points(), Linear()
    (score,) = Ivom(optimiser=optimiser).measure(model, x, torch.Generator().manual_seed(1))
    assert score.value == pytest.approx(float(closed_form(x).mean()), rel=tolerance)
    assert score.std_error == pytest.approx(float(closed_form(x).std()) / 40**0.5, rel=1e-3)
    assert score.better == "lower"
    assert model.weights.grad is None


def test_more_restarts_only_help():
    x = points()
    one, five = (Ivom(restarts=n, steps=50).measure(Wavy(), x, torch.Generator().manual_seed(1))[0].value for n in (1, 5))
    assert five < one


def test_points_that_the_generator_makes_are_rebuilt():
    x = Linear().decode(torch.randn(20, 2, generator=torch.Generator().manual_seed(3))).detach()
    (score,) = Ivom(optimiser="lbfgs", restarts=1).measure(Linear(), x, torch.Generator().manual_seed(1))
    assert score.value < 1e-8
    assert score.details["points"] == 20


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_the_codes_that_are_found_have_the_errors_that_are_said(optimiser):
    """Also where another start than the last was best, as is the case for most of the points here."""
    x = points()
    z, errors = nearest_codes(Ivom(optimiser=optimiser, steps=20, restarts=4), Wavy(), x, torch.Generator().manual_seed(1))
    again = (Wavy().decode(z) - x).square().mean(1)
    torch.testing.assert_close(errors, again.double(), rtol=1e-6, atol=0)


def test_settings_that_search_nothing_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        Ivom(steps=0).measure(Linear(), points(), torch.Generator())
