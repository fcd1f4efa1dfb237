import math

import pytest
import torch
from torch.distributions import Normal

from klprobe.distributions.posteriors import LOG_2PI
from klprobe.estimators.lstm import LARGEST_LOG_STD, Recurrent


def some_net(dim, layers=2, seed=0):
    """A net whose weights are nowhere near their start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Recurrent(dim, layers, 8).double()
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return net


def test_at_the_start_every_latent_is_nearly_standard_normal():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Recurrent(6, 1, 32).double()
    u = torch.randn(100, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(net(u), -0.5 * u.square().sum(1) - 3 * LOG_2PI, atol=0.3)


def test_the_density_is_the_product_of_conditionals_that_each_see_the_latents_before():
    net = some_net(4)
    u = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row in u:
        total = 0.0
        for i in range(4):
            mean, log_std = (part[i, 0] for part in net.conditionals(row[None]))
            changed = row.clone()
            changed[i:] += 10.0
            assert torch.equal(
                torch.stack([part[i, 0] for part in net.conditionals(changed[None])]), torch.stack([mean, log_std])
            )
            total = total + Normal(mean, log_std.exp()).log_prob(row[i])
        assert torch.allclose(net(row[None])[0], total, rtol=1e-10)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_integrates_to_one(dim):
    line = torch.linspace(-12, 12, 241, dtype=torch.float64)
    with torch.no_grad():
        mass = some_net(dim)(torch.cartesian_prod(*[line] * dim).reshape(-1, dim)).exp().sum() * (line[1] - line[0]) ** dim
    assert mass == pytest.approx(1, abs=1e-3)


def test_sigma_cannot_overflow_whatever_the_net_says():
    net = some_net(3).float()
    with torch.no_grad():
        net.heads.mul_(1e6)
    u = torch.tensor([[1e4, -1e4, 1e4]])
    assert net.conditionals(u)[1].abs().max() <= LARGEST_LOG_STD
    value = net(u)
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters())
    assert math.exp(-LARGEST_LOG_STD) > 0
