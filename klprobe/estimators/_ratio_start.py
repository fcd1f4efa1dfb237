"""Where the quadratic part of a log-ratio begins: at the moments of both sides, then downhill, both judged on the stop draws.

The quadratic part has D^2 weights. Moments find them in one pass over as many codes as there are, which in hundreds of latents
is the only way to see enough of them; between two Gaussians they are all there is to find. Between others they are a guess,
which the logistic regression that follows improves where the codes are many for its weights, and which is dropped where
zero does better.

Reference: Friedman (1989), Regularized discriminant analysis, for shrinking both covariances towards the pooled one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from klprobe.estimators._moments import SHRINKAGES, moments, quadratic_ratio
from klprobe.estimators._ratio import RatioNetwork
from klprobe.estimators._ratio_losses import Loss
from klprobe.estimators._sides import Draw

START_DRAWS, START_PER_WEIGHT, START_NUMBERS, START_ROUNDS = (4_000, 10_000, 100_000), 100, 1e9, 12
"""The descent sees a hundred codes of each side for every weight, at least the second and at most the third; of many latents
fewer, so that codes * D^2 stays below the fourth number, but never under the first. It ends after so many rounds of five
iterations at the latest."""
FEWEST_PER_WEIGHT = 0.25
"""Codes for every weight below which a descent could only learn them by heart, and the moments stand."""
LEAST_GAIN = 1e-5
"""Nats of the stop loss that a better start must gain."""


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
