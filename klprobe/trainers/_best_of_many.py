"""Shared by the best-of-many-samples systems: many draws of a posterior, and the weight of their reconstructions."""

from __future__ import annotations

import math

import torch
from torch import nn

from klprobe.trainers._shared import WithPosterior, draw
from klprobe.types import InputError


def draw_many(
    system: WithPosterior, network: nn.Module, x: torch.Tensor, num_draws: int, noise: torch.Generator
) -> torch.Tensor:
    """Draw that many z ~ q(z|x) per point, differentiable, shape (num_draws, batch, latent_dim); one pass if q is normal."""
    if system.posterior == "gaussian":
        mean, logvar = network(x).chunk(2, dim=-1)
        return mean + torch.exp(0.5 * logvar) * torch.randn((num_draws, *mean.shape), generator=noise, device=x.device)
    return draw(system, network, torch.cat([x] * num_draws), noise).unflatten(0, (num_draws, len(x)))


def weight(given: float | None, x: torch.Tensor) -> float:
    """Weight of |x - x'|_1 for data x, shape (batch, ...): the given one, or 1 / sqrt(D) for D values a point.

    The norm's gradient has length sqrt(D), so by default a reconstruction pulls with a slope of 1, as D_I does at most,
    however many pixels there are.
    """
    return 1 / math.sqrt(x[0].numel()) if given is None else given


def check_draws(system: WithPosterior, num_draws: int) -> None:
    """Raise InputError for many draws of a deterministic q(z|x), which are all equal."""
    if system.posterior == "deterministic" and num_draws > 1:
        raise InputError(
            f"Best-of-many needs draws that differ, but a deterministic posterior gives {num_draws} times the same one. "
            "Take posterior = gaussian or implicit, or draws = 1."
        )
