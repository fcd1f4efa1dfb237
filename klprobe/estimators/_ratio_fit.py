"""Learn a log-ratio log q/p from draws of the two: whiten, start convexly, descend, stop on other draws."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import nn

from klprobe.estimators._ratio import CHUNK, RatioNetwork, RatioSettings, Whitening
from klprobe.estimators._ratio_losses import Loss, logistic
from klprobe.estimators._ratio_start import start
from klprobe.estimators._sides import Draw
from klprobe.types import InputError, Progress

MOMENT_DRAWS = 20_000
"""Codes of each side that the whitening is computed from."""
CURVE_POINTS = 100
"""Most points kept of a loss curve."""


class Learned(NamedTuple):
    """A fitted network and how it got there.

    Attributes:
        curves: `train` and `validation`, each a list of [step, loss], at most 100 of them.
        start_loss: Loss on the stop draw after the convex start, before the first step.
        best_step: Step whose weights were kept.
        steps_done: Steps taken until nothing got better.
    """

    network: RatioNetwork
    curves: dict[str, list[list[float]]]
    start_loss: float
    best_step: int
    steps_done: int


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
) -> Learned:
    """Learn log q/p from fresh draws; keep the weights that do best on the stop draws.

    Args:
        draw_q, draw_p: Fresh codes to fit on.
        stop_q, stop_p: Codes to stop by, of other data points, shapes (m, D) and (n, D).
        method: Who asks, for messages.
        loss: What is minimised; its optimum must be the log-ratio.

    Raises:
        InputError: the loss is not finite.
    """
    pooled = torch.cat([draw_q(MOMENT_DRAWS), draw_p(MOMENT_DRAWS)])
    whitening = Whitening.of(pooled) if settings.whiten else Whitening.none(pooled)
    network = RatioNetwork(whitening, settings, generator)
    stop = whitening(stop_q), whitening(stop_p)
    if settings.quadratic:
        start(network, draw_q, draw_p, stop, loss)
    return _descend(network, draw_q, draw_p, stop, settings, generator, progress, method, loss)


def _descend(
    network: RatioNetwork,
    draw_q: Draw,
    draw_p: Draw,
    stop: tuple[torch.Tensor, torch.Tensor],
    settings: RatioSettings,
    generator: torch.Generator,
    progress: Progress,
    method: str,
    loss: Loss,
) -> Learned:
    """Adam on fresh batches; judged, kept and returned is a running average of the weights, which needs no decayed lr."""
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr, betas=settings.betas)

    def stop_loss() -> float:
        with torch.no_grad():
            on_q, on_p = (torch.cat([averaged(rows) for rows in u.split(CHUNK)]) for u in stop)
            return loss(on_q, on_p).item()

    best_loss, best_step, best_weights = stop_loss(), 0, copy.deepcopy(averaged.state_dict())
    train: list[list[float]] = []
    validation: list[list[float]] = [[0, best_loss]]
    recent, step = 0.0, 0
    for step in range(1, settings.steps + 1):
        u_q, u_p = (network.whitening(draw(settings.batch_size)) for draw in (draw_q, draw_p))
        on_q, on_p = network(torch.cat([u_q, u_p]), generator).split(settings.batch_size)
        value = objective = loss(on_q, on_p)
        if settings.gradient_penalty:
            objective = value + settings.gradient_penalty * _slope_excess(network, u_q, u_p, generator)
        if not torch.isfinite(objective):
            raise InputError(
                f"the fit of {method} diverged: its loss is {objective.item()} at step {step} of {settings.steps}. "
                f"Lower --{method}.lr, now {settings.lr:g}."
            )
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
        _follow(averaged, network, min(settings.average, (1 + step) / (10 + step)))
        recent += value.item()
        if step % settings.check_every and step < settings.steps:
            continue
        train.append([step, recent / ((step - 1) % settings.check_every + 1)])
        validation.append([step, stop_loss()])
        recent = 0.0
        progress(step, settings.steps, f"loss {validation[-1][1]:.4f}")
        if validation[-1][1] < best_loss or not settings.patience:
            best_loss, best_step, best_weights = validation[-1][1], step, copy.deepcopy(averaged.state_dict())
        elif step - best_step >= settings.patience * settings.check_every:
            break
    averaged.load_state_dict(best_weights)
    return Learned(averaged, {"train": _thin(train), "validation": _thin(validation)}, validation[0][1], best_step, step)


def _slope_excess(network: RatioNetwork, u_q: torch.Tensor, u_p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """E (|gradient| - 1)^2 at points between a draw of q and a draw of p (Gulrajani et al. 2017, eq. 3)."""
    share = torch.rand(len(u_q), 1, generator=generator).to(u_q.device)
    between = (share * u_q + (1 - share) * u_p).requires_grad_()
    (slope,) = torch.autograd.grad(network(between, generator).sum(), between, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


@torch.no_grad()
def _follow(averaged: nn.Module, network: nn.Module, share: float) -> None:
    """Move the average towards the network: it keeps `share` of itself."""
    for kept, new in zip(averaged.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - share)


def _thin(curve: list[list[float]]) -> list[list[float]]:
    """At most 100 points of a curve, its last among them."""
    stride = math.ceil(len(curve) / CURVE_POINTS)
    return curve[::-1][::stride][::-1]
