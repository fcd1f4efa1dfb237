"""Learn a log-ratio log q/p from draws of the two: whiten, start convexly, descend, stop on other draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from klprobe.estimators._descent import Fitted, Schedule, descend
from klprobe.estimators._gaussianization import Codes, Preparation
from klprobe.estimators._moments import SHRINKAGES, moments, quadratic_ratio
from klprobe.estimators._ratio import CHUNK, RatioNetwork, RatioSettings
from klprobe.estimators._ratio_losses import Loss, logistic
from klprobe.estimators._sides import Draw
from klprobe.estimators._whitening import Whitening
from klprobe.types import Progress

MOMENT_DRAWS = 20_000
"""Codes of each side that the whitening is computed from."""

START_DRAWS, START_PER_WEIGHT, START_NUMBERS, START_ROUNDS = (4_000, 10_000, 100_000), 100, 1e9, 12
"""The descent sees a hundred codes of each side for every weight, at least the second and at most the third; of many latents
fewer, so that codes * D^2 stays below the fourth number, but never under the first. It ends after so many rounds of five
iterations at the latest."""
FEWEST_PER_WEIGHT = 0.25
"""Codes for every weight below which a descent could only learn them by heart, and the moments stand."""
LEAST_GAIN = 1e-5
"""Nats of the stop loss that a better start must gain."""


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


def start(
    network: RatioNetwork,
    draw_q: Draw,
    draw_p: Draw,
    stop: tuple[torch.Tensor, torch.Tensor],
    loss: Loss,
    moment_samples: int = 0,
) -> None:
    """Fit the quadratic part alone: the best on the stop draws of zero, the moments' one, and what L-BFGS makes of it.

    Args:
        network: Whose `form`, `linear` and `constant` are set.
        draw_q, draw_p: Fresh codes to fit on.
        stop: Whitened codes to choose by.
        loss: Convex in the log-ratio.
        moment_samples: Codes of each side behind the moments; 0 takes as many as the weights are worth.
    """
    parameters = [network.form, network.linear, network.constant]

    def stop_loss() -> float:
        with torch.no_grad():
            return float(loss(*(network.quadratic(u) + network.constant for u in stop)))

    best, kept = stop_loss(), _copies(parameters)
    of_q, of_p = (moments(draw, network.whitening, moment_samples) for draw in (draw_q, draw_p))
    for share in SHRINKAGES:
        _set(parameters, quadratic_ratio(of_q.towards(of_p, share), of_p.towards(of_q, share)))
        value = stop_loss()
        if value < best - LEAST_GAIN:
            best, kept = value, _copies(parameters)
    _set(parameters, kept)
    codes = _codes(len(network.linear))
    if codes < FEWEST_PER_WEIGHT * len(network.linear) ** 2:
        return
    q, p = network.whitening(draw_q(codes)), network.whitening(draw_p(codes))
    _set(parameters, _descend(network, parameters, q, p, loss, stop_loss, best))


def _copies(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    return [w.detach().clone() for w in parameters]


@torch.no_grad()
def _set(parameters: list[nn.Parameter], weights: list[torch.Tensor]) -> None:
    for parameter, new in zip(parameters, weights, strict=True):
        parameter.copy_(new)


def _codes(dim: int) -> int:
    """Codes of each side that the descent sees."""
    least, usual, most = START_DRAWS
    return max(min(max(START_PER_WEIGHT * dim**2, usual), most, int(START_NUMBERS / dim**2)), least)


def _descend(
    network: RatioNetwork,
    parameters: list[nn.Parameter],
    q: torch.Tensor,
    p: torch.Tensor,
    loss: Loss,
    stop_loss: Callable[[], float],
    best: float,
) -> list[torch.Tensor]:
    """L-BFGS, convex under the logistic loss and done in seconds where Adam takes minutes; the stop draws end it."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(*(network.quadratic(u) + network.constant for u in (q, p)))
        value.backward()
        return value

    kept = _copies(parameters)
    for _ in range(START_ROUNDS):
        optimiser.step(closure)
        value = stop_loss()
        if not value < best - LEAST_GAIN:
            break
        best, kept = value, _copies(parameters)
    return kept
