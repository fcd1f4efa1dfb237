"""Learn a log-ratio log q/p from draws of the two: whiten, start convexly, descend, stop on other draws."""

from __future__ import annotations

from collections.abc import Callable

import torch

from klprobe.estimators._descent import Fitted, Schedule, descend
from klprobe.estimators._gaussianization import Codes, Preparation
from klprobe.estimators._ratio import CHUNK, RatioNetwork, RatioSettings
from klprobe.estimators._ratio_losses import Loss, logistic
from klprobe.estimators._ratio_start import start
from klprobe.estimators._sides import Draw
from klprobe.estimators._whitening import Whitening
from klprobe.types import Progress

MOMENT_DRAWS = 20_000
"""Codes of each side that the whitening is computed from."""


def whitened(fit: Codes, stop: Codes) -> Preparation:
    """The whitening by the moments of both sides' codes."""
    return Whitening.of(torch.cat(fit))


def learn_ratio(
    draw_q: Draw,
    draw_p: Draw,
    stop_q: torch.Tensor,
    stop_p: torch.Tensor,
    settings: RatioSettings,
    generator: torch.Generator,
    progress: Progress,
    *,
    method: str,
    loss: Loss = logistic,
    prepare: Callable[[Codes, Codes], Preparation] = whitened,
) -> Fitted[RatioNetwork]:
    """Learn log q/p from fresh draws; keep the weights that do best on the stop draws.

    Args:
        draw_q, draw_p: Fresh codes to fit on.
        stop_q, stop_p: Codes to stop by, of other data points, shapes (m, D) and (n, D).
        method: Who asks, for messages.
        loss: What is minimised; its optimum must be the log-ratio.
        prepare: From codes to fit and codes to choose by, of both sides, to the invertible map before the network.

    Raises:
        InputError: the loss is not finite.
    """
    whitening = prepare((draw_q(MOMENT_DRAWS), draw_p(MOMENT_DRAWS)), (stop_q, stop_p))
    network = RatioNetwork(whitening, settings, generator)
    stop = whitening(stop_q), whitening(stop_p)
    if settings.quadratic:
        start(network, draw_q, draw_p, stop, loss, settings.moment_samples)

    def batch_loss(network: RatioNetwork) -> torch.Tensor:
        u_q, u_p = (whitening(draw(settings.batch_size)) for draw in (draw_q, draw_p))
        value = loss(*network(torch.cat([u_q, u_p]), generator).split(settings.batch_size))
        if settings.gradient_penalty:
            value = value + settings.gradient_penalty * _slope_excess(network, u_q, u_p, generator)
        return value

    def stop_loss(network: RatioNetwork) -> float:
        on_q, on_p = (torch.cat([network(rows) for rows in u.split(CHUNK)]) for u in stop)
        return loss(on_q, on_p).item()

    schedule = Schedule(**{name: getattr(settings, name) for name in Schedule._fields})
    return descend(network, batch_loss, stop_loss, schedule, progress, method=method)


def _slope_excess(network: RatioNetwork, u_q: torch.Tensor, u_p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """E (|gradient| - 1)^2 at points between a draw of q and a draw of p (Gulrajani et al. 2017, eq. 3)."""
    share = torch.rand(len(u_q), 1, generator=generator).to(u_q.device)
    between = (share * u_q + (1 - share) * u_p).requires_grad_()
    (slope,) = torch.autograd.grad(network(between, generator).sum(), between, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()
