import pytest
import torch

from klprobe import registry
from klprobe.trainers._visible import nll
from klprobe.training.losses import LOG_STD_FLOOR
from klprobe.types import InputError

PAIRS = [(system, visible) for system in ("vae", "draw") for visible in ("bernoulli", "laplace", "quantized_normal")]


@pytest.mark.parametrize(("system", "visible"), [*PAIRS, ("vae", "quantized_normal_shared")])
def test_the_log_likelihood_of_pairs_has_the_loss_as_its_mean(system, visible):
    algorithm = registry.load("trainers", system)(visible=visible, latent_dim=10)
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(5, 9, generator=generator), torch.randn(5, 10, generator=generator)
    with torch.random.fork_rng(), torch.no_grad():
        networks = algorithm.networks((9,)).eval()
        found = algorithm.log_likelihood(networks, x, z, torch.Generator().manual_seed(1))
        numbers = networks["generator"](z) if system == "vae" else algorithm._canvas(networks, z)
        if not visible.startswith("quantized_normal"):  # the noise of its pixels is drawn one pair at a time
            loss = nll(algorithm, numbers.double(), x.double(), torch.Generator().manual_seed(1))
            assert float(found.mean()) == pytest.approx(-float(loss), rel=1e-12)
        one = nll(algorithm, numbers[:1].double(), x[:1].double(), torch.Generator().manual_seed(1))
    assert found.shape == (5,)
    assert found.dtype == torch.float64
    assert float(found[0]) == pytest.approx(-float(one), rel=1e-12)


def test_a_shared_spread_is_one_number_that_learns_the_spread_of_the_pixels():
    algorithm = registry.load("trainers", "vae")(visible="quantized_normal_shared", latent_dim=2, width=8, batch_norm=False)
    generator = torch.Generator().manual_seed(0)
    x = (0.5 + 0.1 * torch.randn(2000, 5, generator=generator)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = algorithm.networks((5,))
    for parameter in networks.parameters():
        parameter.requires_grad_(False)
    (spread,) = [p.requires_grad_() for name, p in networks["generator"].named_parameters() if "spread" in name or p.dim() == 0]
    optimizer = torch.optim.LBFGS([spread], max_iter=50, line_search_fn="strong_wolfe")
    numbers = torch.full((2000, 5), 0.5)

    def loss():
        optimizer.zero_grad()
        value = nll(algorithm, networks["generator"][-1](numbers), x, torch.Generator().manual_seed(1))
        value.backward()
        return value

    optimizer.step(loss)
    log_std = LOG_STD_FLOOR + torch.nn.functional.softplus(spread.detach() - LOG_STD_FLOOR)
    assert float(log_std.exp()) == pytest.approx(0.1, rel=0.02)


def test_draw_refuses_a_shared_spread():
    with pytest.raises(InputError, match="spread for each pixel"):
        registry.load("trainers", "draw")(visible="quantized_normal_shared")
