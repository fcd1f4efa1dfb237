"""Settings that all systems share: learning rates that decay, and networks without batch normalisation."""

import torch
from safetensors.torch import load_file
from torch import nn

from klprobe import registry
from klprobe.training.loop import train
from klprobe.training.networks import encoder, generator

SMALL = {"latent_dim": 3, "batch_size": 50, "width": 6}


def test_learning_rates_fall_linearly_to_zero_and_stay_there():
    system = registry.load("trainers", "dcgan")(**SMALL, decay_steps=4)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = system.adam(0.1, updates=2)([weight])
    rates = []
    for _ in range(10):
        weight.grad = torch.ones(1)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    torch.testing.assert_close(torch.tensor(rates), 0.1 * (1 - torch.arange(10) / 8).clamp_min(0))


def test_a_run_whose_learning_rate_decays_resumes_bit_identically(tmp_path):
    data = registry.load("datasets", "ring")().load("test")
    system = registry.load("trainers", "wgan-gp")(**SMALL, decay_steps=6, batch_norm=False)
    whole = train(system, data, steps=5, out=tmp_path / "whole")
    train(system, data, steps=2, out=tmp_path / "parts")
    parts = train(system, data, steps=5, out=tmp_path / "parts", resume=True)
    one, other = load_file(whole), load_file(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_batch_normalisation_a_point_does_not_depend_on_its_batch():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = encoder((2,), 4, batch_norm=False), generator(2, (2,), layers=4, batch_norm=False)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    for network in networks:
        torch.testing.assert_close(network(x)[:3], network(x[:3]))


def test_deep_networks_without_normalisation_keep_the_size_of_a_signal():
    """He et al.: the mean square of hidden units, before their ReLU, is twice that of the inputs' mean square; to a factor of 4
    over ten layers of 256 random units, whose relative error is about sqrt(10 * 5 / 256) = 0.4."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = generator(32, (2,), width=256, layers=10, batch_norm=False)
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(1))
    hidden = network[:-2](x)
    assert 2 / 4 < hidden.square().mean().item() < 2 * 4
