"""The network that stands for a log-ratio log q/p, and the whitening before it.

For every estimator that learns a ratio. Draws of q carry label 1, so under the logistic loss the network's logit is
log q - log p. Codes are whitened by the pooled moments in float64 before the float32 network sees them; beside the
hidden layers a quadratic form of the whitened code leads straight to the logit, because first and second moments are
what most ratios differ in first and what a narrow network learns last.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from klprobe.estimators._gaussianization import Preparation

Activation = Literal["silu", "leaky-relu"]

CHUNK = 4_096
"""Codes evaluated together: what fits the processor's cache."""


@dataclasses.dataclass(frozen=True)
class RatioSettings:
    """How a log-ratio is learned; the estimators say what each field means to their users."""

    layers: int
    width: int
    activation: Activation
    leaky_slope: float
    quadratic: bool
    moment_samples: int
    dropout: float
    activation_noise: float
    gradient_penalty: float
    steps: int
    batch_size: int
    lr: float
    betas: tuple[float, float]
    average: float
    check_every: int
    patience: int


class RatioNetwork(nn.Module):
    """logit(u) = MLP(u) + u'Au + b'u + c at whitened codes u; zero everywhere before it is fitted."""

    def __init__(self, whitening: Preparation, settings: RatioSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.whitening, self.settings = whitening, settings
        dim = len(whitening.mean)
        sizes = [dim, *[settings.width] * settings.layers]
        layers = [nn.utils.skip_init(nn.Linear, fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, a=settings.leaky_slope, generator=generator)
            nn.init.zeros_(layer.bias)
        self.hidden = nn.ModuleList(layers)
        self.head = nn.Parameter(torch.zeros(sizes[-1]))
        self.constant = nn.Parameter(torch.zeros(()))
        if settings.quadratic:
            self.linear, self.form = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim, dim))
        self.to(whitening.mean.device)

    def forward(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Logits, shape (m,), float32; with a generator, dropout and activation noise are at work.

        Args:
            u: Whitened codes, shape (m, D), float32.
        """
        h = u
        for layer in self.hidden:
            h = self._activate(layer(h))
            if generator is not None:
                h = self._disturb(h, generator)
        logit = h @ self.head + self.constant
        return logit + self.quadratic(u) if self.settings.quadratic else logit

    def quadratic(self, u: torch.Tensor) -> torch.Tensor:
        """u'Au / D + b'u: without the D a step of Adam would move all D^2 terms at once by too much."""
        return ((u @ self.form) * u).sum(-1) / u.shape[1] + u @ self.linear

    def _activate(self, h: torch.Tensor) -> torch.Tensor:
        if self.settings.activation == "silu":
            return functional.silu(h)
        return functional.leaky_relu(h, self.settings.leaky_slope)

    def _disturb(self, h: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.settings.activation_noise:
            h = h + self.settings.activation_noise * torch.randn(h.shape, generator=generator).to(h.device)
        if self.settings.dropout:
            kept = torch.rand(h.shape, generator=generator).to(h.device) >= self.settings.dropout
            h = h * kept / (1 - self.settings.dropout)
        return h

    @torch.no_grad()
    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Logits at codes z, shape (m, D), as they come; shape (m,), float64."""
        return torch.cat([self(self.whitening(rows)).double() for rows in z.split(CHUNK)])
