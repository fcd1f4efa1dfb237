import pytest
import torch

from klprobe import registry
from klprobe.trainers._visible import nll


@pytest.mark.parametrize("system", ["vae", "draw"])
@pytest.mark.parametrize("visible", ["bernoulli", "laplace", "quantized_normal"])
def test_the_log_likelihood_of_pairs_has_the_loss_as_its_mean(system, visible):
    algorithm = registry.load("trainers", system)(visible=visible, latent_dim=10)
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(5, 9, generator=generator), torch.randn(5, 10, generator=generator)
    with torch.random.fork_rng(), torch.no_grad():
        networks = algorithm.networks((9,)).eval()
        found = algorithm.log_likelihood(networks, x, z, torch.Generator().manual_seed(1))
        numbers = networks["generator"](z) if system == "vae" else algorithm._canvas(networks, z)
        if visible != "quantized_normal":  # the noise of its pixels is drawn one pair at a time
            loss = nll(algorithm, numbers.double(), x.double(), torch.Generator().manual_seed(1))
            assert float(found.mean()) == pytest.approx(-float(loss), rel=1e-12)
        one = nll(algorithm, numbers[:1].double(), x[:1].double(), torch.Generator().manual_seed(1))
    assert found.shape == (5,)
    assert found.dtype == torch.float64
    assert float(found[0]) == pytest.approx(-float(one), rel=1e-12)
