import pytest
import torch
from torch import nn

from klprobe.training.networks import (
    JointDiscriminator,
    code_discriminator,
    discriminator,
    encoder,
    generator,
    spectral,
    standard_discriminator,
    standard_generator,
)
from klprobe.types import InputError

SHAPES = [(2,), (64,), (1, 28, 28), (3, 28, 28), (3, 32, 32), (1, 64, 64), (3, 128, 128)]


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


BUILDERS = {
    "encoder": lambda shape: encoder(shape, 6),
    "generator": lambda shape: generator(6, shape),
    "discriminator": discriminator,
    "joint": lambda shape: JointDiscriminator(shape, 6),
}


@pytest.mark.parametrize("shape", [(1, 30, 30), (1, 28, 32), (2, 28, 28), (28, 28), (), (0,)])
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_shape_that_does_not_fit_is_told_which_do(build, shape):
    with pytest.raises(
        InputError, match=r"What fits: vectors \(D,\), and images of 1 or 3 channels and 28 x 28, 32 x 32, 64 x 64 or 128 x 128"
    ):
        build(shape)


def test_dcgan_networks_are_those_of_the_wgan_papers_code():
    """4 x 4 kernels, maps doubling inwards from 64, no normalisation after the discriminator's first layer."""
    assert convolutions(generator(100, (3, 64, 64))) == [
        (100, 512, 4, 1), (512, 256, 4, 2), (256, 128, 4, 2), (128, 64, 4, 2), (64, 3, 4, 2)
    ]  # fmt: skip
    assert convolutions(generator(100, (3, 32, 32))) == [(100, 256, 4, 1), (256, 128, 4, 2), (128, 64, 4, 2), (64, 3, 4, 2)]
    judge = discriminator((3, 64, 64))
    assert convolutions(judge) == [(3, 64, 4, 2), (64, 128, 4, 2), (128, 256, 4, 2), (256, 512, 4, 2)]
    assert [m.num_features for m in judge if isinstance(m, nn.BatchNorm2d)] == [128, 256, 512]
    assert judge[-1].in_features == 512 * 4 * 4


def test_discriminator_is_table_6_of_dmvi():
    judge = discriminator((3, 28, 28), dropout=0.8)
    assert convolutions(judge) == [(3, 8, 5, 2), (8, 16, 5, 1), (16, 32, 5, 2), (32, 64, 5, 1), (64, 64, 5, 2)]
    assert [m.p for m in judge if isinstance(m, nn.Dropout)] == [0.8]
    assert {m.negative_slope for m in judge if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert sum(isinstance(m, nn.BatchNorm2d) for m in judge) == 5
    assert not any(isinstance(m, nn.BatchNorm2d) for m in discriminator((3, 28, 28), batch_norm=False))


def test_joint_head_is_table_8_of_dmvi_and_ends_in_one_pixel():
    judge = JointDiscriminator((3, 28, 28), 50, head_maps=1024)
    assert convolutions(judge.head) == [(64 + 1000, 1024, 3, 1), (1024, 1024, 2, 1)]
    assert (judge.head[-1].in_features, judge.head[-1].out_features) == (1024, 1)


def test_code_discriminator_has_three_layers_of_leaky_units():
    linear = [m for m in code_discriminator(50) if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(50, 1000), (1000, 1000), (1000, 1000), (1000, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_discriminators_give_one_logit_a_point_and_every_parameter_counts(shape):
    x, z = torch.rand(4, *shape), torch.randn(4, 3)
    joint = JointDiscriminator(shape, 3, code_width=8, head_maps=8)
    for network, logits in ((judge := discriminator(shape), judge(x)), (joint, joint(x, z))):
        assert logits.shape == (4, 1)
        for gradient in torch.autograd.grad(logits.square().sum(), list(network.parameters())):
            assert gradient.isfinite().all()
            assert gradient.any()


@pytest.mark.parametrize("shape", [(2,), (3, 28, 28), (1, 32, 32)])
def test_extra_inputs_and_copies_widen_the_ends(shape):
    beside = 5
    wide = (shape[0] + beside, *shape[1:])
    assert encoder(shape, 6, extra=beside)(torch.rand(4, *wide)).shape == (4, 6)
    assert generator(6, shape, copies=2)(torch.randn(4, 6)).shape == (4, 2 * shape[0], *shape[1:])


def test_the_standard_cnn_is_table_3_of_miyato_et_al():
    network = standard_generator(128, (3, 32, 32))
    assert (network[0].in_features, network[0].out_features) == (128, 4 * 4 * 512)
    assert convolutions(network) == [(512, 256, 4, 2), (256, 128, 4, 2), (128, 64, 4, 2), (64, 3, 3, 1)]
    judge = standard_discriminator((3, 32, 32))
    assert convolutions(judge) == [
        (3, 64, 3, 1), (64, 64, 4, 2), (64, 128, 3, 1), (128, 128, 4, 2), (128, 256, 3, 1), (256, 256, 4, 2), (256, 512, 3, 1)
    ]  # fmt: skip
    assert (judge[-1].in_features, judge[-1].out_features) == (4 * 4 * 512, 1)
    assert {m.negative_slope for m in judge if isinstance(m, nn.LeakyReLU)} == {0.1}


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 48), (3, 64, 64)])
def test_the_standard_cnn_takes_sides_of_multiples_of_eight(shape):
    made = standard_generator(5, shape)(torch.randn(2, 5))
    assert made.shape == (2, *shape)
    assert standard_discriminator(shape)(made).shape == (2, 1)


@pytest.mark.parametrize("shape", [(3, 28, 28), (2,), (3, 32, 40), (3, 0, 0)])
def test_the_standard_cnn_says_what_it_needs(shape):
    for build in (lambda: standard_generator(5, shape), lambda: standard_discriminator(shape)):
        with pytest.raises(InputError, match=r"multiple of 8; got data of shape"):
            build()


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (1, 32, 32)])
def test_spectral_normalisation_brings_the_largest_singular_value_of_every_layer_to_one(shape):
    """Power iteration falls short of the largest singular value by a share of about log(rows) / (2 * 200)."""
    network = spectral(discriminator(shape, width=16, batch_norm=False))
    layers = [m for m in network if isinstance(m, nn.Linear | nn.Conv2d)]
    for _ in range(200):
        weights = [m.weight for m in layers]
    largest = torch.stack([torch.linalg.matrix_norm(weight.flatten(1), 2) for weight in weights])
    torch.testing.assert_close(largest, torch.ones(len(layers)), rtol=0.02, atol=0)


def test_a_spectral_mlp_changes_no_faster_than_its_input(generator):
    network = spectral(discriminator((2,), width=64, layers=3)).double()
    for _ in range(1000):
        network(torch.zeros(1, 2, dtype=torch.float64))
    network.eval()
    a, b = torch.randn(2, 1000, 2, generator=generator, dtype=torch.float64)
    change = (network(a) - network(b)).abs().squeeze(1)
    assert (change / (a - b).norm(dim=1)).max() <= 1.001


def test_power_iterations_are_buffers_that_move_in_training_mode_only():
    network = spectral(discriminator((2,), width=8))
    before = {name: value.clone() for name, value in network.named_buffers()}
    assert len(before) == 2 * 3
    network.eval()(torch.rand(4, 2))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    network.train()(torch.rand(4, 2))
    assert any(not torch.equal(value, before[name]) for name, value in network.named_buffers())
