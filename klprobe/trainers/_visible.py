"""Visible distributions p(x|z) with a density: what the generator's numbers mean, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Laplace

from klprobe.training.data import TrainingData
from klprobe.training.losses import bernoulli_nll, laplace_nll, quantized_normal_nll
from klprobe.training.networks import generator

Visible = Literal["auto", "bernoulli", "quantized_normal", "quantized_normal_shared", "laplace"]
QUANTIZED = ("quantized_normal", "quantized_normal_shared")
BERNOULLI = ("bernoulli", "auto")
"""What `auto` is until it has seen the data."""
LOOKED_AT = 2048
"""Data points, spread over all, that are looked at to choose the visible distribution."""


class WithVisible(Protocol):
    """A system with a setting `visible`; which is all that the functions below need."""

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
    def batch_norm(self) -> bool:
        """Whether hidden layers are normalised."""

    @property
    def visible(self) -> Visible:
        """Distribution of a value of a data point."""

    @property
    def laplace_scale(self) -> float:
        """Scale of the Laplace distribution."""

    @property
    def levels(self) -> int:
        """Number of values that a pixel can have."""

    def bounded(self, shape: Sequence[int]) -> bool:
        """Whether data points of this shape lie in [0, 1]."""


def visible_for(visible: Visible, data: TrainingData) -> Visible:
    """The distribution that `auto` stands for: bernoulli for values in [0, 1], laplace for any others."""
    if visible != "auto":
        return visible
    some = data.batch(torch.linspace(0, len(data) - 1, min(len(data), LOOKED_AT)).long()).x
    return "bernoulli" if float(some.min()) >= 0 and float(some.max()) <= 1 else "laplace"


def make_generator(system: WithVisible, shape: Sequence[int], extra: int = 0) -> nn.Sequential:
    """Make the network from codes to the numbers of p(x|z): one for each value, or mean and log std for quantized normals.

    `extra` numbers, such as a class, come with the codes.
    """
    copies, inputs = 2 if system.visible == "quantized_normal" else 1, system.latent_dim + extra
    network = generator(inputs, shape, width=system.width, layers=system.layers, copies=copies, batch_norm=system.batch_norm)
    return network.append(SharedSpread()) if system.visible == "quantized_normal_shared" else network


class SharedSpread(nn.Module):
    """One learned log standard deviation, the same for all values and codes, beside the means."""

    def __init__(self) -> None:
        super().__init__()
        self.raw_log_std = nn.Parameter(torch.zeros(()))

    def forward(self, means: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 2 C, ...) from (batch, C, ...)."""
        return torch.cat([means, self.raw_log_std.expand_as(means)], 1)


def nll(
    system: WithVisible,
    numbers: torch.Tensor,
    x: torch.Tensor,
    noise: torch.Generator,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """-E log p(x|z), nats per data point, shape (); with `weights`, shape (batch,), the points' weighted sum."""
    if system.visible in BERNOULLI:
        return bernoulli_nll(numbers, x, weights)
    if system.visible == "laplace":
        return laplace_nll(mean(system, numbers), x, system.laplace_scale, weights)
    centre, raw_log_std = numbers.chunk(2, dim=1)
    return quantized_normal_nll(centre, raw_log_std, x, noise, system.levels, weights)


def log_likelihood(system: WithVisible, numbers: torch.Tensor, x: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """log p(x|z) of each pair in nats, shape (batch,), float64; for the quantized normals a draw of a lower bound."""
    numbers, x = numbers.double(), x.double()
    if system.visible in BERNOULLI:
        return -F.binary_cross_entropy_with_logits(numbers, x, reduction="none").flatten(1).sum(1)
    if system.visible == "laplace":
        return Laplace(mean(system, numbers), system.laplace_scale).log_prob(x).flatten(1).sum(1)
    pairs = zip(numbers.split(1), x.split(1), strict=True)
    return torch.stack([-nll(system, one, point, noise) for one, point in pairs])


def mean(system: WithVisible, numbers: torch.Tensor) -> torch.Tensor:
    """E[x|z], shape (batch, *shape); a quantized normal's is cut off at the ends of the pixel range."""
    if system.visible in QUANTIZED:
        centre = (system.levels * numbers.chunk(2, dim=1)[0] - 0.5) / (system.levels - 1)
        return centre.clamp(0, 1)
    bounded = system.visible in BERNOULLI or system.bounded(numbers.shape[1:])
    return numbers.sigmoid() if bounded else numbers
