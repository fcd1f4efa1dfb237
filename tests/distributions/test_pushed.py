"""Maps of codes: inverted, and with the determinant of their Jacobian, they give a flow's density at any z."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution

import klprobe
from klprobe.distributions.pushed import InverseAutoregressive, Planar, Radial
from klprobe.types import InputError


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def masked(x):
    """Shift and log scale of each latent, by those before it."""
    weight = rows(9, 3, 3).tril(-1)
    return torch.sin(x @ weight.T), 0.5 * torch.tanh(x @ weight.T + 0.3)


MAPS = {
    "planar": lambda: Planar(rows(1, 3), rows(2, 3), scalar(0.3)),
    "planar, w u near -1": lambda: Planar(scalar([2.0, 0, 0]), scalar([-0.4999, 3.0, 1.0]), scalar(0.1)),
    "planar, steep": lambda: Planar(scalar([8.0, 0, 0]), scalar([5.0, 1.0, 1.0]), scalar(-2.0)),
    "radial, outwards": lambda: Radial(rows(3, 3), scalar(0.7), scalar(1.5)),
    "radial, inwards": lambda: Radial(rows(3, 3), scalar(0.7), scalar(-0.69)),
    "inverse autoregressive": lambda: InverseAutoregressive(masked),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_comes_back_and_its_determinant_is_autograds(name):
    f, x = MAPS[name](), 2 * rows(4, 40, 3)
    y = f(x)
    torch.testing.assert_close(f.inv(y), x, rtol=1e-7, atol=1e-7)
    for point, log_det in zip(x, f.log_abs_det_jacobian(x, y), strict=True):
        jacobian = torch.autograd.functional.jacobian(_plain(f), point)
        assert float(log_det) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


def _plain(f):
    if isinstance(f, InverseAutoregressive):  # which runs its network without a graph
        return lambda x: (lambda turned, parts: turned * parts[1].exp() + parts[0])(x.flip(-1), masked(x.flip(-1)))
    return f._call


@pytest.mark.parametrize("name", MAPS)
def test_a_flow_of_two_maps_integrates_to_one(name):
    """By importance sampling from a wide normal: the mean of q(z) / p(z) under p is 1."""
    q = TransformedDistribution(Independent(Normal(rows(5, 1, 3), 0.5 + rows(6, 1, 3).abs()), 1), [MAPS[name](), MAPS[name]()])
    wide = Independent(Normal(torch.zeros(3).double(), torch.full((3,), 6.0).double()), 1)
    draws, generator = 400_000, torch.Generator().manual_seed(7)
    z = 6 * torch.randn(draws, 3, generator=generator, dtype=torch.float64)
    if name == "planar, steep":  # its two halves lie up to 20 apart
        wide = Independent(Normal(torch.zeros(3).double(), torch.full((3,), 12.0).double()), 1)
        z = 2 * z
    ratio = (q.log_prob(z[:, None])[:, 0] - wide.log_prob(z)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(draws) + 1e-3


def test_maps_that_are_not_one_to_one_are_refused():
    with pytest.raises(InputError, match="not one to one"):
        Planar(scalar([1.0, 0]), scalar([-1.5, 2.0]), scalar(0.0))
    with pytest.raises(InputError, match="not one to one"):
        Radial(scalar([1.0, 0]), scalar(1.0), scalar(-1.5))


def test_the_kl_of_a_flow_is_the_kl_of_its_base_to_the_prior_taken_back():
    """KL does not change under a map of both sides: q = f(N(m, S)) against p = f(N(0, I)) is the Gaussians' own."""
    mean, std = rows(11, 50, 3), (0.3 * rows(12, 50, 3)).exp()
    f = MAPS["planar"]()
    base = Independent(Normal(mean, std), 1)
    standard = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    straight = klprobe.estimate(base, standard, methods=["monte-carlo"], marginals=False)
    pushed = klprobe.estimate(
        TransformedDistribution(base, [f]), TransformedDistribution(standard, [f]), methods=["monte-carlo"], marginals=False
    )
    a, b = (report.brackets["empirical"].upper for report in (straight, pushed))
    assert abs(a.value - b.value) < 4 * math.hypot(a.std_error, b.std_error)


def test_a_network_is_used_without_a_graph():
    with torch.random.fork_rng():
        network = nn.Linear(3, 6).double()
    f = InverseAutoregressive(lambda x: network(0 * x).chunk(2, 1))
    assert not f(rows(13, 4, 3)).requires_grad
