"""Networks of the systems with a spectrally normalised discriminator."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from klprobe import registry
from klprobe.training.data import Batch
from klprobe.types import InputError


def networks(name, shape, **settings):
    system = registry.load("trainers", name)(latent_dim=4, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return system, system.networks(shape)


def kernels(network):
    return [m.kernel_size[0] for m in network if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", ["sngan", "bms-vae-gan"])
@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ((3, 32, 32), {}, [3, 4, 3, 4, 3, 4, 3]),
        ((1, 64, 64), {}, [3, 4, 3, 4, 3, 4, 3]),
        ((3, 32, 32), {"architecture": "dcgan"}, [4, 4, 4]),
        ((1, 28, 28), {}, [5, 5, 5, 5, 5]),
        ((2,), {}, []),
    ],
)
def test_images_get_the_standard_cnn_where_it_fits_and_no_other_is_asked_for(name, shape, settings, expected):
    judge = networks(name, shape, **settings)[1]["discriminator"]
    assert kernels(judge) == expected
    assert not any(isinstance(m, nn.BatchNorm2d) for m in judge)
    assert all(is_parametrized(m, "weight") for m in judge if isinstance(m, nn.Conv2d | nn.Linear))


def test_the_standard_cnn_is_refused_where_it_does_not_fit():
    with pytest.raises(InputError, match="multiple of 8"):
        networks("sngan", (1, 28, 28), architecture="standard")


def test_the_score_sees_pixels_moved_to_the_papers_range_and_vectors_as_they_are():
    _, image = networks("sngan", (1, 28, 28))
    judge, x = image["discriminator"].eval(), torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(judge(x), judge[1:](2 * x - 1))
    assert isinstance(networks("sngan", (2,))[1]["discriminator"][0], nn.Linear)
    assert isinstance(networks("sngan", (1, 28, 28), output="linear")[1]["discriminator"][0], nn.Conv2d)


@pytest.mark.parametrize("name", ["sngan", "bms-vae-gan"])
@pytest.mark.parametrize("gain", [1.4, 0.5])
def test_tanh_networks_have_orthogonal_weights_of_the_gain_and_no_rectifier(name, gain):
    made = networks(name, (2,), activation="tanh", orthogonal_gain=gain, width=8, batch_norm=False)[1]
    for network in (made["generator"], made["discriminator"]):
        assert [type(m) for m in network[1::2]] == [nn.Tanh, nn.Tanh]
        for layer in network[::2]:
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    for layer in made["generator"][::2]:
        weight = layer.weight if len(layer.weight) <= layer.weight.shape[1] else layer.weight.T
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sngan", "bms-vae-gan"])
def test_tanh_is_refused_of_images_in_a_line(name):
    with pytest.raises(InputError, match="activation tanh is for data that are vectors"):
        networks(name, (3, 32, 32), activation="tanh")


@pytest.mark.parametrize("name", ["sngan", "bms-vae-gan"])
def test_the_usual_networks_are_what_they_were(name):
    """The gain has no part in them, and no random number is drawn for it."""
    made, other = (networks(name, (2,), orthogonal_gain=gain)[1].state_dict() for gain in (1.4, 9.0))
    assert all(torch.equal(made[key], other[key]) for key in made)


@pytest.mark.parametrize("name", ["sngan", "bms-vae-gan"])
def test_the_standard_cnn_trains_and_makes_images(name):
    system, made = networks(name, (3, 32, 32))
    x, noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    for player in system.players(made):
        loss, _ = player.loss(Batch(x, None), noise)
        parameters = [p for name in player.networks for p in made[name].parameters()]
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, parameters))
    with torch.no_grad():
        images = system.decode(made.eval(), system.prior(2, noise))
    assert images.shape == (2, 3, 32, 32)
    assert 0 <= images.min() <= images.max() <= 1
