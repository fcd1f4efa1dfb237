"""Builders: sizes in, nn.Module out. The papers' architecture tables stand here and nowhere else.

Encoders map (batch, *shape) to (batch, outputs), generators map (batch, latent_dim) to (batch, *shape) with no activation
at the end. Batch normalisation follows every hidden layer (DMVI, AGAN: "everywhere"); a layer before it has no bias,
which the normalisation would remove. Convolutions are laid out channels-last, which a CPU runs a fifth faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from klprobe.types import InputError

MAPS = (64, 64, 32)
"""Feature maps of the ColorMNIST generator at 7 x 7, 14 x 14 and 14 x 14; 3136 = 64 * 7 * 7 (DMVI Table 7, AGAN Table 4)."""


def encoder(shape: Sequence[int], outputs: int, *, width: int = 256, layers: int = 2) -> nn.Sequential:
    """Network from data of one shape to `outputs` numbers, as mean and log-variance side by side.

    Args:
        shape: (D,) for an MLP; (1, 28, 28) or (3, 28, 28) for the convolutional transpose of the ColorMNIST generator.
        outputs: Width of the last layer.
        width, layers: Units and number of the hidden layers; MLP only.
    Raises:
        InputError: no table fits this shape.
    """
    _check(shape)
    if len(shape) == 1:
        return _mlp(shape[0], outputs, width, layers)
    wide, middle, narrow = MAPS
    network = nn.Sequential(
        *_hidden(nn.Conv2d(shape[0], narrow, 5, stride=2, padding=2, bias=False)),
        *_hidden(nn.Conv2d(narrow, middle, 5, stride=1, padding=2, bias=False)),
        *_hidden(nn.Conv2d(middle, wide, 5, stride=2, padding=2, bias=False)),
        nn.Flatten(),
        nn.Linear(wide * 7 * 7, outputs),
    )
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def generator(latent_dim: int, shape: Sequence[int], *, width: int = 256, layers: int = 2) -> nn.Sequential:
    """Network from codes to data of one shape, without an activation at its end.

    Args:
        latent_dim: Length of a code.
        shape: (D,) for an MLP; (1, 28, 28) or (3, 28, 28) for the ColorMNIST generator of DMVI Table 7.
        width, layers: Units and number of the hidden layers; MLP only.
    Raises:
        InputError: no table fits this shape.
    """
    _check(shape)
    if len(shape) == 1:
        return _mlp(latent_dim, shape[0], width, layers)
    wide, middle, narrow = MAPS
    network = nn.Sequential(
        nn.Linear(latent_dim, wide * 7 * 7, bias=False),
        nn.Unflatten(1, (wide, 7, 7)),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        *_hidden(nn.ConvTranspose2d(wide, middle, 5, stride=2, padding=2, output_padding=1, bias=False)),
        *_hidden(nn.ConvTranspose2d(middle, narrow, 5, stride=1, padding=2, bias=False)),
        nn.ConvTranspose2d(narrow, shape[0], 5, stride=2, padding=2, output_padding=1),
    )
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def _mlp(inputs: int, outputs: int, width: int, layers: int) -> nn.Sequential:
    sizes = [inputs] + [width] * layers
    hidden = [nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*(m for block in hidden for m in block), nn.Linear(sizes[-1], outputs))


def _hidden(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()


def _check(shape: Sequence[int]) -> None:
    fits = (len(shape) == 1 and shape[0] > 0) or tuple(shape) in {(1, 28, 28), (3, 28, 28)}
    if not fits:
        raise InputError(
            f"No network fits data of shape {tuple(shape)}. What fits: vectors (D,), images (1, 28, 28) and (3, 28, 28). "
            f"Resize or pad the images, or flatten them to vectors of {math.prod(shape)}."
        )
