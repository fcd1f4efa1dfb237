"""Builders: sizes in, nn.Module out. The papers' architecture tables stand here and nowhere else.

Encoders map (batch, *shape) to (batch, outputs), generators map (batch, latent_dim) to (batch, *shape) with no activation
at the end; discriminators give one logit, the difference of the two that DMVI's tables list (their class head is for
labels, and left out). Batch normalisation follows every hidden layer of encoders and generators (DMVI, AGAN:
"everywhere"); a layer before it has no bias, which the normalisation would remove. Convolutions are laid out
channels-last, which a CPU runs a fifth faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.nn.utils.parametrizations import spectral_norm

from klprobe.types import InputError

MAPS = (64, 64, 32)
"""Feature maps of the ColorMNIST generator at 7 x 7, 14 x 14 and 14 x 14; 3136 = 64 * 7 * 7 (DMVI Table 7, AGAN Table 4)."""
JUDGE_MAPS: tuple[int, ...] = (8, 16, 32, 64, 64)
"""Feature maps of the ColorMNIST discriminator, strides 2, 1, 2, 1, 2 (DMVI Table 6, AGAN Table 3)."""
DCGAN_MAPS: dict[int, tuple[int, ...]] = {
    32: (64, 128, 256),
    64: (64, 128, 256, 512),
    128: (64, 128, 256, 512, 1024),
}
"""Feature maps of the DCGAN networks of Arjovsky et al. (2017), from the image's side inwards down to 4 x 4; at 128 by the same
rule (BMS section 4.3 has such networks, and prints no maps)."""
SIZES = (28, *DCGAN_MAPS)
CLASSIFIER_MAPS = (64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512)
CLASSIFIER_STRIDES = (2, 1, 2, 1, 2, 2, 2, 2, 2, 2, 2)
"""Maps and strides of the eleven 3 x 3 convolutions of AGAN's CIFAR-10 classifier, as printed in its Table 5."""
STANDARD_MAPS = (64, 128, 256, 512)
"""Feature maps of SN-GAN's standard CNN from the image's side down to an eighth of it (Miyato et al. 2018, Table 3)."""
STANDARD_SLOPE = 0.1
"""Slope of the leaky units of SN-GAN's discriminator (Miyato et al. 2018, Table 3)."""
SLOPE = 0.2
"""Slope of the leaky units of every discriminator (DMVI K.5, AGAN H.4)."""


def encoder(
    shape: Sequence[int], outputs: int, *, width: int = 256, layers: int = 2, extra: int = 0, batch_norm: bool = True
) -> nn.Sequential:
    """Network from data of one shape to `outputs` numbers, as mean and log-variance side by side.

    Args:
        shape: (D,) for an MLP; 28 x 28, 32 x 32, 64 x 64 or 128 x 128 pixels, 1 or 3 channels, for the convolutional
            transpose of the generator.
        outputs: Width of the last layer.
        width, layers: Units and number of the hidden layers; MLP only.
        extra: Numbers (of a vector) or channels (of an image) that come with the data, such as noise.
        batch_norm: Normalise after the hidden layers; MLP only, the convolutions always do.
    Raises:
        InputError: no table fits this shape.
    """
    _check(shape)
    inputs = shape[0] + extra
    if len(shape) == 1:
        return _mlp(inputs, outputs, width, layers, batch_norm)
    if shape[1] == 28:
        wide, middle, narrow = MAPS
        network = nn.Sequential(
            *_hidden(nn.Conv2d(inputs, narrow, 5, stride=2, padding=2, bias=False)),
            *_hidden(nn.Conv2d(narrow, middle, 5, stride=1, padding=2, bias=False)),
            *_hidden(nn.Conv2d(middle, wide, 5, stride=2, padding=2, bias=False)),
            nn.Flatten(),
            nn.Linear(wide * 7 * 7, outputs),
        )
    else:
        maps = DCGAN_MAPS[shape[1]]
        convolutions = [nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in pairwise((inputs, *maps))]
        network = nn.Sequential(*_flat(map(_hidden, convolutions)), nn.Flatten(), nn.Linear(maps[-1] * 4 * 4, outputs))
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def generator(
    latent_dim: int, shape: Sequence[int], *, width: int = 256, layers: int = 2, copies: int = 1, batch_norm: bool = True
) -> nn.Sequential:
    """Network from codes to data of one shape, without an activation at its end.

    Args:
        latent_dim: Length of a code.
        shape: (D,) for an MLP; (1 or 3, 28, 28) for the ColorMNIST generator of DMVI Table 7; (1 or 3, side, side),
            side 32, 64 or 128, for that of DCGAN.
        width, layers: Units and number of the hidden layers; MLP only.
        copies: Numbers for each value of a data point, side by side in the first dimension: 2 for means and spreads.
        batch_norm: Normalise after the hidden layers; MLP only, the convolutions always do.
    Raises:
        InputError: no table fits this shape.
    """
    _check(shape)
    outputs = copies * shape[0]
    if len(shape) == 1:
        return _mlp(latent_dim, outputs, width, layers, batch_norm)
    if shape[1] == 28:
        wide, middle, narrow = MAPS
        network = nn.Sequential(
            nn.Linear(latent_dim, wide * 7 * 7, bias=False),
            nn.Unflatten(1, (wide, 7, 7)),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            *_hidden(nn.ConvTranspose2d(wide, middle, 5, stride=2, padding=2, output_padding=1, bias=False)),
            *_hidden(nn.ConvTranspose2d(middle, narrow, 5, stride=1, padding=2, bias=False)),
            nn.ConvTranspose2d(narrow, outputs, 5, stride=2, padding=2, output_padding=1),
        )
    else:
        maps = DCGAN_MAPS[shape[1]][::-1]
        convolutions = [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in pairwise(maps)]
        network = nn.Sequential(
            nn.Unflatten(1, (latent_dim, 1, 1)),
            *_hidden(nn.ConvTranspose2d(latent_dim, maps[0], 4, bias=False)),
            *_flat(map(_hidden, convolutions)),
            nn.ConvTranspose2d(maps[-1], outputs, 4, stride=2, padding=1),
        )
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def discriminator(
    shape: Sequence[int],
    *,
    width: int = 256,
    layers: int = 2,
    batch_norm: bool = True,
    dropout: float = 0.0,
    extra: int = 0,
) -> nn.Sequential:
    """Network from data of one shape to one logit; all but its last layer are its features, a vector.

    Args:
        shape: (D,) for an MLP; 28 x 28 pixels for the ColorMNIST discriminator (DMVI Table 6), 32 x 32, 64 x 64
            and 128 x 128 for that of DCGAN.
        width, layers: Units and number of the hidden layers; MLP only.
        batch_norm: Normalise after the convolutions, the first one of DCGAN's excepted. An MLP never does: on 2-D toys
            a whole batch would give itself away by its statistics.
        dropout: Share of the last features that is dropped; images only.
        extra: Numbers (of a vector) or channels (of an image) that come with the data, such as a class.
    Raises:
        InputError: no table fits this shape.
    """
    _check(shape)
    inputs = shape[0] + extra
    if len(shape) == 1:
        return code_discriminator(inputs, width=width, layers=layers)
    trunk, maps = _trunk((inputs, *shape[1:]), batch_norm)
    end = [nn.Flatten(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(maps * 4 * 4, 1)]
    return convert_conv2d_weight_memory_format(nn.Sequential(*trunk, *end), torch.channels_last)


def code_discriminator(latent_dim: int, *, width: int = 1000, layers: int = 3) -> nn.Sequential:
    """MLP from codes to one logit: 3 x 1000 leaky units in DMVI K.5, 3 x 750 in AGAN H.4; no batch normalisation."""
    sizes = [latent_dim] + [width] * layers
    return nn.Sequential(*_leaky(sizes), nn.Linear(sizes[-1], 1))


def standard_generator(latent_dim: int, shape: Sequence[int]) -> nn.Sequential:
    """SN-GAN's standard CNN from codes to images, without an activation at its end.

    The dense layer is normalised and rectified too, as in the authors' code; their table leaves it open.

    Raises:
        InputError: no image whose side is a multiple of 8.
    Reference: Miyato et al. (2018), Spectral Normalization for GANs, Table 3 (a).
    """
    _check_standard(shape)
    maps, side = STANDARD_MAPS[::-1], shape[1] // 8
    convolutions = [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in pairwise(maps)]
    network = nn.Sequential(
        nn.Linear(latent_dim, maps[0] * side * side, bias=False),
        nn.Unflatten(1, (maps[0], side, side)),
        nn.BatchNorm2d(maps[0]),
        nn.ReLU(),
        *_flat(map(_hidden, convolutions)),
        nn.Conv2d(maps[-1], shape[0], 3, padding=1),
    )
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def standard_discriminator(shape: Sequence[int]) -> nn.Sequential:
    """SN-GAN's standard CNN from images to one score, for `spectral` to normalise; no batch normalisation.

    Raises:
        InputError: no image whose side is a multiple of 8.
    Reference: Miyato et al. (2018), Table 3 (b).
    """
    _check_standard(shape)
    *halved, last = STANDARD_MAPS
    layers: list[nn.Module] = []
    for a, b in pairwise((shape[0], *halved)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(STANDARD_SLOPE)]
        layers += [nn.Conv2d(b, b, 4, stride=2, padding=1), nn.LeakyReLU(STANDARD_SLOPE)]
    layers += [nn.Conv2d(halved[-1], last, 3, padding=1), nn.LeakyReLU(STANDARD_SLOPE)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * (shape[1] // 8) ** 2, 1))
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def spectral(network: nn.Sequential) -> nn.Sequential:
    """The same network with the weight of every layer divided by its largest singular value.

    With leaky units between them this keeps a network of dense layers 1-Lipschitz. A convolution's weight is taken as a
    matrix of one row a map, which bounds the layer up to a factor of its kernel's size. Each forward pass in training mode
    makes one power iteration, whose vectors are buffers of the network; in eval mode they rest.

    Reference: Miyato et al. (2018), Algorithm 1.
    """
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spectral_norm(layer)
    return network


def with_tanh(network: nn.Sequential, gain: float) -> nn.Sequential:
    """The same dense network with tanh units, and orthogonal initial weights times a gain, without offsets.

    That is how generators and discriminators of 2-D toys are often set up (Metz et al. 2017, Unrolled Generative Adversarial
    Networks, appendix A).
    """
    for index, layer in enumerate(network):
        if isinstance(layer, nn.ReLU | nn.LeakyReLU):
            network[index] = nn.Tanh()
        elif isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def classifier_trunk(channels: int) -> nn.Sequential:
    """AGAN Table 5 without its linear layer: images (batch, channels, H, W) to 512 features each.

    The strides bring 24 pixels down to 1 after seven layers; the last four then see one pixel.
    """
    sizes = zip(pairwise((channels, *CLASSIFIER_MAPS)), CLASSIFIER_STRIDES, strict=True)
    convolutions = [nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False) for (a, b), stride in sizes]
    network = nn.Sequential(*_flat(map(_hidden, convolutions)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


class JointDiscriminator(nn.Module):
    """Network from pairs of data and codes to one logit: features of each, side by side, and a head (DMVI Table 8).

    Images: the features of data are 4 x 4 maps, those of codes are repeated over them; then convolutions 3 x 3 and 2 x 2
    without padding, which leave one pixel, and a linear layer. The table does not say how a vector is convolved: this
    reading is ours, and the only one in which its sizes come out even. Vectors: one hidden layer as head (ours).

    Args:
        shape, latent_dim: Shape of the data, and number of latents.
        width, layers: Units and number of the layers of the data's features and of the head; MLP only.
        code_width, code_layers: Units and number of the layers of the codes' features.
        head_maps: Feature maps of the head, 512 or 1024 in Table 8; images only.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_dim: int,
        *,
        width: int = 256,
        layers: int = 2,
        code_width: int = 1000,
        code_layers: int = 3,
        head_maps: int = 512,
    ) -> None:
        super().__init__()
        _check(shape)
        self.code = nn.Sequential(*_leaky([latent_dim] + [code_width] * code_layers))
        features = code_width if code_layers else latent_dim
        if len(shape) == 1:
            self.data = nn.Sequential(*_leaky([shape[0]] + [width] * layers))
            self.head = nn.Sequential(*_leaky([(width if layers else shape[0]) + features, width]), nn.Linear(width, 1))
            return
        trunk, maps = _trunk(shape, batch_norm=True)
        self.data = convert_conv2d_weight_memory_format(nn.Sequential(*trunk), torch.channels_last)
        self.head = nn.Sequential(
            *_judging(nn.Conv2d(maps + features, head_maps, 3, bias=False), batch_norm=True),
            *_judging(nn.Conv2d(head_maps, head_maps, 2, bias=False), batch_norm=True),
            nn.Flatten(),
            nn.Linear(head_maps, 1),
        )

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, 1), for data (batch, *shape) with codes (batch, latent_dim)."""
        of_x, of_z = self.data(x), self.code(z)
        if of_x.dim() == 4:
            of_z = of_z[:, :, None, None].expand(-1, -1, *of_x.shape[2:])
        return self.head(torch.cat([of_x, of_z], 1))


def _mlp(inputs: int, outputs: int, width: int, layers: int, batch_norm: bool) -> nn.Sequential:
    sizes = [inputs] + [width] * layers
    hidden: list[Sequence[nn.Module]] = [
        (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()) if batch_norm else (_he(nn.Linear(a, b)), nn.ReLU())
        for a, b in pairwise(sizes)
    ]
    return nn.Sequential(*_flat(hidden), nn.Linear(sizes[-1], outputs))


def _he(layer: nn.Linear) -> nn.Linear:
    """Weights that keep the size of a signal through ReLUs, where nothing else does (He et al. 2015); torch's shrink it."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def _leaky(sizes: Sequence[int]) -> list[nn.Module]:
    return _flat((nn.Linear(a, b), nn.LeakyReLU(SLOPE)) for a, b in pairwise(sizes))


def _hidden(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()


def _judging(layer: nn.Conv2d, batch_norm: bool) -> tuple[nn.Module, ...]:
    return (layer, *([nn.BatchNorm2d(layer.out_channels)] if batch_norm else []), nn.LeakyReLU(SLOPE))


def _trunk(shape: Sequence[int], batch_norm: bool) -> tuple[list[nn.Module], int]:
    """A discriminator's convolutions down to 4 x 4, and the number of maps they end in."""
    color_mnist = shape[1] == 28
    maps = JUDGE_MAPS if color_mnist else DCGAN_MAPS[shape[1]]
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise((shape[0], *maps))):
        normed = batch_norm and (color_mnist or i > 0)
        if color_mnist:
            layer = nn.Conv2d(a, b, 5, stride=1 + (i + 1) % 2, padding=2, bias=not normed)
        else:
            layer = nn.Conv2d(a, b, 4, stride=2, padding=1, bias=not normed)
        layers += _judging(layer, normed)
    return layers, maps[-1]


def _flat(blocks: Iterable[Sequence[nn.Module]]) -> list[nn.Module]:
    return [module for block in blocks for module in block]


def _check(shape: Sequence[int]) -> None:
    vector = len(shape) == 1 and shape[0] > 0
    image = len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] and shape[1] in SIZES
    if not (vector or image):
        raise InputError(
            f"No network fits data of shape {tuple(shape)}. What fits: vectors (D,), and images of 1 or 3 channels and "
            f"28 x 28, 32 x 32, 64 x 64 or 128 x 128 pixels. Resize or pad the images, or flatten them to vectors of "
            f"{math.prod(shape)}."
        )


def _check_standard(shape: Sequence[int]) -> None:
    if not (len(shape) == 3 and shape[1] == shape[2] and shape[1] and shape[1] % 8 == 0):
        raise InputError(
            f"SN-GAN's standard CNN needs square images whose side is a multiple of 8; got data of shape {tuple(shape)}. "
            "Resize or pad the images, or choose another architecture."
        )
