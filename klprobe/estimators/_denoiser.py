"""Denoisers of q and of p at several noise levels: the best linear one of each in closed form, and one network for the rest.

Codes u are whitened by the pooled moments; y = u + noise / sqrt(g) at signal-to-noise ratios g. What is learned and reported is
the error in units of the noise, sqrt(g) (u - D(y)), which is of order one at all levels. Both sides share one network, told
which side it serves, so that what it cannot learn is missing on both and cancels in the difference.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from klprobe.estimators._moments import Moments


@dataclasses.dataclass(frozen=True)
class Levels:
    """Log signal-to-noise ratios on an even grid and the weights of their sum, as an integral over the whole line.

    An even grid's sum converges exponentially for what is analytic. Beyond its ends the integrand falls as g and as 1/g, so
    that what is left out is a geometric series of the last term.
    """

    log_snr: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def even(cls, lowest: float, highest: float, count: int, like: torch.Tensor) -> Levels:
        """`count` levels from `lowest` to `highest`."""
        step = (highest - lowest) / (count - 1)
        weights = torch.full((count,), step, dtype=torch.float64, device=like.device)
        weights[[0, -1]] = step / (1 - math.exp(-step))
        return cls(torch.linspace(lowest, highest, count, dtype=torch.float64, device=like.device), weights)

    def __len__(self) -> int:
        return len(self.log_snr)


class Linear(NamedTuple):
    """The best linear denoiser of one side at each level: D(y) = mean + gain (y - mean).

    Attributes:
        mean: Shape (D,), float32.
        gain: Shape (levels, D, D), float32.
    """

    mean: torch.Tensor
    gain: torch.Tensor

    @classmethod
    def of(cls, side: Moments, levels: Levels) -> Linear:
        """From mean and covariance S: gain = S (S + 1/g)^-1. Exact for a Gaussian."""
        values, vectors = torch.linalg.eigh(side.covariance)
        signal = levels.log_snr.exp()[:, None] * values.clamp(min=0.0)
        gain = (vectors * (signal / (1 + signal))[:, None, :]) @ vectors.T
        return cls(side.mean.float(), gain.float())


class Residual(nn.Module):
    """What is missing to the linear denoisers, in units of the noise; zero before it is trained."""

    def __init__(self, dim: int, levels: Levels, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [dim, *[width] * layers]
        hidden = [nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes)]
        for layer in hidden:
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.hidden = nn.ModuleList(hidden)
        self.shift = nn.Parameter(0.5 * torch.randn(layers, 2, len(levels), width, generator=generator))
        self.head = nn.Parameter(torch.zeros(width, dim))
        snr = levels.log_snr.exp()
        self.scale_in, self.scale_out = (snr / (1 + snr)).sqrt().float(), (2 * snr.sqrt() / (1 + snr)).float()
        self.to(levels.log_snr.device)

    def forward(self, y: torch.Tensor, side: int) -> torch.Tensor:
        """Shape (levels, m, D) from noisy codes of that shape; side 0 is q, 1 is p.

        The output is scaled as what a denoiser adds to a linear one falls at either end: sqrt(g) where noise drowns all,
        1 / sqrt(g) where it moves a code by less than the density varies over.
        """
        h = y * self.scale_in[:, None, None]
        for layer, shift in zip(self.hidden, self.shift, strict=True):
            h = functional.silu(layer(h) + shift[side][:, None, :])
        return (h @ self.head) * self.scale_out[:, None, None]


class Denoisers(NamedTuple):
    """Both sides' denoisers.

    Attributes:
        linear: Of q and of p.
        residual: What is missing to them; None for nothing.
        exact_p: p is Gaussian with known moments, and its linear denoiser all there is.
    """

    levels: Levels
    linear: tuple[Linear, Linear]
    residual: Residual | None
    exact_p: bool

    def errors(self, u: torch.Tensor, noise: torch.Tensor, side: int) -> torch.Tensor:
        """sqrt(g) (u - D_side(u + noise / sqrt(g))), shape (levels, m, D).

        Args:
            u: Whitened codes, shape (levels, m, D) or (m, D) for the same at all levels, float32.
            noise: Standard normal, shape (levels, m, D), float32.
        """
        root = (0.5 * self.levels.log_snr).exp().float()[:, None, None]
        y, linear = u + noise / root, self.linear[side]
        missing = root * (u - linear.mean - (y - linear.mean) @ linear.gain)
        return missing if self.residual is None or (side and self.exact_p) else missing - self.residual(y, side)

    def losses(self, u: torch.Tensor, noise: torch.Tensor, side: int) -> torch.Tensor:
        """Squared errors of a side's denoiser, shape (levels, m), float32."""
        return self.errors(u, noise, side).square().sum(-1)

    def integrand(self, u: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Half the difference of both denoisers' squared errors at draws of q, shape (levels, m), float64."""
        on_q, on_p = self.errors(u, noise, 0), self.errors(u, noise, 1)
        return 0.5 * ((on_p - on_q).double() * (on_p + on_q).double()).sum(-1)
