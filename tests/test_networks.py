import pytest
import torch
from torch import nn

from klprobe.networks import encoder, generator
from klprobe.types import InputError

SHAPES = [(2,), (64,), (1, 28, 28), (3, 28, 28)]


@pytest.fixture(autouse=True)
def own_random_state():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("shape", SHAPES)
def test_generator_undoes_the_shape_of_the_encoder(shape):
    x = torch.zeros(4, *shape)
    code = encoder(shape, 6)(x)
    assert code.shape == (4, 6)
    assert generator(6, shape)(code).shape == x.shape


def convolutions(network):
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in network if isinstance(m, kinds)]


def test_generator_is_table_7_of_dmvi():
    network = generator(50, (3, 28, 28))
    assert (network[0].in_features, network[0].out_features) == (50, 3136)
    assert convolutions(network) == [(64, 64, 5, 2), (64, 32, 5, 1), (32, 3, 5, 2)]


def test_encoder_is_the_convolutional_transpose_of_the_generator():
    mirrored = [(b, a, kernel, stride) for a, b, kernel, stride in reversed(convolutions(generator(50, (3, 28, 28))))]
    network = encoder((3, 28, 28), 100)
    assert convolutions(network) == mirrored
    assert (network[-1].in_features, network[-1].out_features) == (3136, 100)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_hidden_layer_is_normalised_and_rectified_and_the_end_is_not(shape):
    for network in (encoder(shape, 6), generator(6, shape)):
        layers = [m for m in network if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        for kind in (nn.BatchNorm1d | nn.BatchNorm2d, nn.ReLU):
            assert sum(isinstance(m, kind) for m in network) == len(layers) - 1
        assert network[-1] is layers[-1]
        assert layers[-1].bias is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_all_gradients_are_finite_and_not_zero(shape):
    network = nn.Sequential(encoder(shape, 6), generator(6, shape))
    loss = network(torch.rand(8, *shape)).square().mean()
    for gradient in torch.autograd.grad(loss, list(network.parameters())):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_width_and_layers_shape_the_mlp():
    linear = [m for m in encoder((64,), 6, width=32, layers=3) if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [32, 32, 32, 6]


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 28, 28), (28, 28), (), (0,)])
@pytest.mark.parametrize("build", [lambda shape: encoder(shape, 6), lambda shape: generator(6, shape)])
def test_a_shape_that_does_not_fit_is_told_which_do(build, shape):
    with pytest.raises(InputError, match=r"What fits: vectors \(D,\), images \(1, 28, 28\) and \(3, 28, 28\)"):
        build(shape)
