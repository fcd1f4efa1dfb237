"""The descent of all networks that learn from fresh draws: Adam, a running average of the weights, validation codes.

`Descent` has what is done at every step and at every check. There are two schedules of the learning rate, which give different
numbers. `descend` lowers it when nothing gets better, which suits a ratio that starts near its optimum, and stops at a loss
that is not finite, since a ratio learned until then cannot be trusted. `anneal` raises and lowers it with the number of steps,
and shortens long gradients, which a density needs, because its loss has no bound; the best weights so far are a density like
any other, so that a loss that is not finite only ends the fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn

from klprobe.types import InputError, Progress

DROPS, DROP = 2, 0.2
"""Number of times that the learning rate falls before the fit stops, and the factor, each time from the best weights on."""
WARM_UP = 50
"""Number of steps over which an annealed learning rate rises to its value."""
GRADIENT_NORM = 5.0
"""Largest norm of the gradient in an annealed fit, so that a code far out cannot spoil the fit."""
CURVE_POINTS = 100
"""Largest number of points that are kept of a loss curve."""
Network = TypeVar("Network", bound=nn.Module)


class Schedule(NamedTuple):
    """Length and learning rate of the descent; the settings of the estimators say what each field means."""

    steps: int
    lr: float
    betas: tuple[float, float]
    average: float
    check_every: int
    patience: int


class Fitted(NamedTuple, Generic[Network]):
    """The network that was kept, and how it was found.

    Attributes:
        curves: `train` and `validation`, each a list of [step, loss], at most 100 of them.
        start_loss: Loss on the validation codes before the first step.
        best_step: Step whose weights were kept.
        steps_done: Number of steps taken until nothing got better.
        diverged_at: Step where the loss was not finite, or None.
    """

    network: Network
    curves: dict[str, list[list[float]]]
    start_loss: float
    best_step: int
    steps_done: int
    diverged_at: int | None = None


class Descent(Generic[Network]):
    """Adam on a network, and the running average of its weights, which is checked, kept and returned.

    Args:
        network: What is trained, in place.
        stop_loss: On draws that are never trained on; chooses the step.
        schedule: With no patience the last weights that were looked at are kept, else the best.
    """

    def __init__(self, network: Network, stop_loss: Callable[[Network], float], schedule: Schedule) -> None:
        self.network, self.averaged, self.stop_loss = network, copy.deepcopy(network), stop_loss
        self.keep_last = not schedule.patience
        self.adam = torch.optim.Adam(network.parameters(), lr=schedule.lr, betas=schedule.betas)
        self.train: list[list[float]] = []
        self.validation: list[list[float]] = []
        self.best_loss = math.inf
        self._judge(0)
        self._keep()

    def step(self, loss: torch.Tensor, share: float, longest: float | None = None) -> None:
        """Take a step of Adam, its gradient no longer than `longest`; then move the average, which keeps `share` of itself."""
        self.adam.zero_grad()
        loss.backward()
        if longest is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), longest)
        self.adam.step()
        with torch.no_grad():
            for kept, new in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(new, 1 - share)

    def look(self, step: int) -> bool:
        """Check the average on the validation codes; return whether it got better, and is kept."""
        self._judge(step)
        better = self.validation[-1][1] < self.best_loss or self.keep_last
        if better:
            self._keep()
        return better

    def _judge(self, step: int) -> None:
        with torch.no_grad():
            self.validation.append([step, self.stop_loss(self.averaged)])

    def _keep(self) -> None:
        step, self.best_loss = self.validation[-1]
        self.best_step, self.kept = int(step), copy.deepcopy(self.averaged.state_dict())

    def go_back(self, factor: float) -> None:
        """Go back to the best weights, and multiply the learning rate by a factor."""
        for part in (self.network, self.averaged):
            part.load_state_dict(self.kept)
        for group in self.adam.param_groups:
            group["lr"] *= factor

    def fitted(self, steps_done: int, diverged_at: int | None = None) -> Fitted[Network]:
        """The network with the weights that were kept."""
        self.averaged.load_state_dict(self.kept)
        curves = {"train": _thin(self.train), "validation": _thin(self.validation)}
        return Fitted(self.averaged, curves, self.validation[0][1], self.best_step, steps_done, diverged_at)


def descend(
    network: Network,
    batch_loss: Callable[[Network], torch.Tensor],
    stop_loss: Callable[[Network], float],
    schedule: Schedule,
    progress: Progress,
    *,
    method: str,
) -> Fitted[Network]:
    """Train by Adam on fresh batches; a running average of the weights is checked, kept and returned.

    Where nothing gets better for a while the learning rate falls, because a good start often needs smaller steps than a bad
    start.

    Args:
        network: What is trained, in place.
        batch_loss: Function that returns the loss of a fresh batch, shape ().
        stop_loss: Loss on codes that are never trained on, which chooses the step. With no patience the last step is kept.
        method: Who asks, for messages.
    Raises:
        InputError: the loss is not finite.
    """
    descent = Descent(network, stop_loss, schedule)
    recent, step, since, drops = 0.0, 0, 0, 0
    for step in range(1, schedule.steps + 1):
        loss = batch_loss(network)
        if not torch.isfinite(loss):
            raise InputError(
                f"the fit of {method} diverged: its loss is {loss.item()} at step {step} of {schedule.steps}. "
                f"Lower --{method}.lr, now {schedule.lr:g}."
            )
        descent.step(loss, min(schedule.average, (1 + step) / (10 + step)))
        recent += loss.item()
        if step % schedule.check_every and step < schedule.steps:
            continue
        descent.train.append([step, recent / ((step - 1) % schedule.check_every + 1)])
        recent, better = 0.0, descent.look(step)
        progress(step, schedule.steps, f"loss {descent.validation[-1][1]:.4f}")
        if better:
            since = step
        elif step - since >= schedule.patience * schedule.check_every:
            if drops == DROPS:
                break
            since, drops = step, drops + 1
            descent.go_back(DROP)
    return descent.fitted(step)


def anneal(
    network: Network,
    batch_loss: Callable[[Network], torch.Tensor],
    stop_loss: Callable[[Network], float],
    schedule: Schedule,
    progress: Progress,
    *,
    decay: bool,
    method: str,
    note: Callable[[float], str],
) -> Fitted[Network]:
    """Train as `descend` does, with a learning rate that depends on the step; it ends after `patience` checks without gain.

    Args:
        decay: Whether the learning rate falls to zero along half a cosine, after its short rise.
        note: Function that turns the best loss so far into a text to show.
    Raises:
        InputError: the loss was not finite before anything was learned.
    """
    descent, every = Descent(network, stop_loss, schedule), schedule.check_every
    recent, step = 0.0, 0
    for step in range(1, schedule.steps + 1):
        descent.adam.param_groups[0]["lr"] = _rate(schedule, step, decay)
        loss = batch_loss(network)
        if not torch.isfinite(loss):
            if descent.best_step:
                return descent.fitted(step, diverged_at=step)
            raise InputError(
                f"the fit of {method} diverged at step {step} (loss {loss.item()}), before it had learned anything: "
                f"lower --{method}.lr, now {schedule.lr:g}, or choose among the other --methods."
            )
        descent.step(loss, min(schedule.average, step / (step + 9)), GRADIENT_NORM)
        recent += loss.item() / every
        if step % every:
            continue
        descent.train.append([step, recent])
        recent = 0.0
        descent.look(step)
        progress(step, schedule.steps, note(descent.best_loss))
        if step - descent.best_step >= schedule.patience * every:
            break
    return descent.fitted(step)


def _rate(schedule: Schedule, step: int, decay: bool) -> float:
    """Learning rate at a step, which rises for a short time, and then follows half a cosine or is constant."""
    fall = 0.5 * (1 + math.cos(math.pi * (step - 1) / schedule.steps)) if decay else 1.0
    return schedule.lr * min(1.0, step / WARM_UP) * fall


def _thin(curve: list[list[float]]) -> list[list[float]]:
    """Keep at most 100 points of a curve, among them the last."""
    stride = max(math.ceil(len(curve) / CURVE_POINTS), 1)
    return curve[::-1][::stride][::-1]
