"""Networks of systems whose discriminator is spectrally normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import nn

from klprobe.training.networks import discriminator, spectral, standard_discriminator, standard_generator, with_tanh
from klprobe.types import InputError

Architecture = Literal["auto", "standard", "dcgan"]
Activation = Literal["rectifier", "tanh"]


class WithArchitecture(Protocol):
    """A system with a setting `architecture`; which is all that the functions below need."""

    @property
    def latent_dim(self) -> int:
        """Number of latents."""

    @property
    def width(self) -> int:
        """Number of units in each hidden layer."""

    @property
    def layers(self) -> int:
        """Number of hidden layers."""

    @property
    def architecture(self) -> Architecture:
        """Kind of network for images."""

    @property
    def activation(self) -> Activation:
        """Hidden units of generator and discriminator, for data that are vectors."""

    @property
    def orthogonal_gain(self) -> float:
        """Gain of their orthogonal initial weights, with tanh units."""

    def bounded(self, shape: Sequence[int]) -> bool:
        """Whether data points of this shape lie in [0, 1]."""

    def generator(self, shape: Sequence[int]) -> nn.Sequential:
        """The generator that the other systems have."""


class Centred(nn.Module):
    """Map [0, 1] to [-1, 1], the papers' range, since the reach of a score of known slope depends on its input's scale."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """2 x - 1."""
        return 2 * x - 1


def make_generator(system: WithArchitecture, shape: Sequence[int]) -> nn.Sequential:
    """Make the network from codes to data points: SN-GAN's standard CNN where `standard`, otherwise that of other systems."""
    if not standard(system, shape):
        network = system.generator(shape)
        return with_tanh(network, system.orthogonal_gain) if tanh(system, shape) else network
    network = standard_generator(system.latent_dim, shape)
    return network.append(nn.Sigmoid()) if system.bounded(shape) else network


def make_judge(system: WithArchitecture, shape: Sequence[int]) -> nn.Sequential:
    """Make the network from data points to one score, shape (batch, 1), with spectral and without batch normalisation."""
    if standard(system, shape):
        network = standard_discriminator(shape)
    else:
        network = discriminator(shape, width=system.width, layers=system.layers, batch_norm=False)
    network = spectral(with_tanh(network, system.orthogonal_gain) if tanh(system, shape) else network)
    return nn.Sequential(Centred(), *network) if system.bounded(shape) else network


def tanh(system: WithArchitecture, shape: Sequence[int]) -> bool:
    """Whether generator and discriminator of data points of this shape have tanh units.

    Raises:
        InputError: they are wanted of images.
    """
    if system.activation == "tanh" and len(shape) != 1:
        raise InputError(f"activation tanh is for data that are vectors; these have the shape {tuple(shape)}: leave it out.")
    return system.activation == "tanh"


def standard(system: WithArchitecture, shape: Sequence[int]) -> bool:
    """Whether data points of this shape get SN-GAN's standard CNN."""
    fits = len(shape) == 3 and shape[1] % 8 == 0
    return system.architecture == "standard" or (system.architecture == "auto" and fits)
