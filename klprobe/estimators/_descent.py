"""The descent that all networks share that learn from fresh draws: Adam, a running average of the weights, validation codes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn

from klprobe.types import InputError, Progress

DROPS, DROP = 2, 0.2
"""Times that the learning rate falls, by that factor and from the best weights on, before patience is at its end."""
CURVE_POINTS = 100
"""Most points kept of a loss curve."""
Network = TypeVar("Network", bound=nn.Module)


class Schedule(NamedTuple):
    """How long and how fast the descent goes; the estimators say what each field means to their users."""

    steps: int
    lr: float
    betas: tuple[float, float]
    average: float
    check_every: int
    patience: int


class Fitted(NamedTuple, Generic[Network]):
    """The network that was kept and how it came about.

    Attributes:
        curves: `train` and `validation`, each a list of [step, loss], at most 100 of them.
        start_loss: Loss on the stop draw before the first step.
        best_step: Step whose weights were kept.
        steps_done: Steps taken until nothing got better.
    """

    network: Network
    curves: dict[str, list[list[float]]]
    start_loss: float
    best_step: int
    steps_done: int


def descend(
    network: Network,
    batch_loss: Callable[[Network], torch.Tensor],
    stop_loss: Callable[[Network], float],
    schedule: Schedule,
    progress: Progress,
    *,
    method: str,
) -> Fitted[Network]:
    """Adam on fresh batches; judged, kept and returned is a running average of the weights.

    Where nothing gets better for a while the learning rate falls: what a good start needs is often smaller than the noise of
    the steps that a bad one needs.

    Args:
        network: What is trained, in place.
        batch_loss: Of a fresh batch, shape ().
        stop_loss: On draws that are never trained on; chooses the step. With no patience the last step is kept.
        method: Who asks, for messages.
    Raises:
        InputError: the loss is not finite.
    """
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=schedule.lr, betas=schedule.betas)

    def judge() -> float:
        with torch.no_grad():
            return stop_loss(averaged)

    best_loss, best_step, kept = judge(), 0, copy.deepcopy(averaged.state_dict())
    train: list[list[float]] = []
    validation: list[list[float]] = [[0, best_loss]]
    recent, step, since, drops = 0.0, 0, 0, 0
    for step in range(1, schedule.steps + 1):
        loss = batch_loss(network)
        if not torch.isfinite(loss):
            raise InputError(
                f"the fit of {method} diverged: its loss is {loss.item()} at step {step} of {schedule.steps}. "
                f"Lower --{method}.lr, now {schedule.lr:g}."
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        _follow(averaged, network, min(schedule.average, (1 + step) / (10 + step)))
        recent += loss.item()
        if step % schedule.check_every and step < schedule.steps:
            continue
        train.append([step, recent / ((step - 1) % schedule.check_every + 1)])
        validation.append([step, judge()])
        recent = 0.0
        progress(step, schedule.steps, f"loss {validation[-1][1]:.4f}")
        if validation[-1][1] < best_loss or not schedule.patience:
            best_loss, best_step, kept = validation[-1][1], step, copy.deepcopy(averaged.state_dict())
            since = step
        elif step - since >= schedule.patience * schedule.check_every:
            if drops == DROPS:
                break
            since, drops = step, drops + 1
            for part in (network, averaged):
                part.load_state_dict(kept)
            for group in optimiser.param_groups:
                group["lr"] *= DROP
    averaged.load_state_dict(kept)
    return Fitted(averaged, {"train": _thin(train), "validation": _thin(validation)}, validation[0][1], best_step, step)


@torch.no_grad()
def _follow(averaged: nn.Module, network: nn.Module, share: float) -> None:
    """Move the average towards the network: it keeps `share` of itself."""
    for kept, new in zip(averaged.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - share)


def _thin(curve: list[list[float]]) -> list[list[float]]:
    """At most 100 points of a curve, its last among them."""
    stride = max(math.ceil(len(curve) / CURVE_POINTS), 1)
    return curve[::-1][::stride][::-1]
