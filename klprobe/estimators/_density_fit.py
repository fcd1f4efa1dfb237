"""Fitting a density to whitened codes: the whitening, one loop of Adam, and the weights that do best on held-out codes."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from klprobe.distributions.flows import Whitening
from klprobe.types import InputError, Progress

EVALUATIONS = 50
"""Looks at the held-out codes during a fit; also the length of the recorded loss curves."""
WARM_UP = 50
"""Steps over which the learning rate rises to its value."""
AVERAGE = 0.99
"""Decay a step of the running mean of the weights, which is what is judged and kept: 0.3 nats better on 1,800 points."""
GRADIENT_NORM = 5.0
"""Longer gradients are shortened to this: a code far out must not throw the fit."""
ROWS, NUMBERS = 1024, 2**18
"""Codes evaluated together at most, and numbers: they bound the memory of a recurrent net in float64, about 4 kB a number,
not the results."""
SHRINKAGES = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the identity tried in the correlation matrix; 1 standardises each latent by itself."""
SMALLEST_EIGENVALUE = 1e-12
"""Smallest eigenvalue of a correlation matrix; smaller ones are rounding errors of float64."""


def whiten(fit: torch.Tensor, stop: torch.Tensor, *, correlations: bool = True) -> Whitening:
    """Standardise by the moments of `fit`, and undo its correlations as far as that helps a Gaussian describe `stop`.

    The inverse square root of the correlation matrix is the symmetric one, which turns the latents as little as can
    be: posteriors are narrow along the latents, and a rotation would hide that from a diagonal model.

    Args:
        fit, stop: Codes, shapes (m, D) and (k, D), float64.
        correlations: Undo correlations at all.
    Raises:
        InputError: a latent is the same number everywhere, so q(z) has no density.
    """
    flat = (fit.amin(0) == fit.amax(0)).nonzero().flatten().tolist()
    if flat:
        raise InputError(
            f"A density model needs latents that vary, but latent {flat[0]} is the same number at every point ({len(flat)} of "
            f"{fit.shape[1]} are such): q(z) has no density, and KL[q||p] is infinite. Drop these latents from q and p."
        )
    mean, std = fit.mean(0), fit.std(0)
    standard, held_out = (fit - mean) / std, (stop - mean) / std
    eigenvalues, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    power = (held_out @ vectors).square().mean(0)

    def spectrum(shrinkage: float) -> torch.Tensor:
        return ((1 - shrinkage) * eigenvalues + shrinkage).clamp(min=SMALLEST_EIGENVALUE)

    def misfit(shrinkage: float) -> float:
        return float((power / spectrum(shrinkage) + spectrum(shrinkage).log()).sum())

    shrinkage = min(SHRINKAGES, key=misfit) if correlations else 1.0
    if shrinkage == 1:
        return Whitening(mean, std, torch.eye(len(std), dtype=std.dtype, device=std.device), float(-std.log().sum()), 1.0)
    scale = spectrum(shrinkage).rsqrt()
    return Whitening(mean, std, (vectors * scale) @ vectors.T, float(scale.log().sum() - std.log().sum()), shrinkage)


class Schedule(NamedTuple):
    """How long and how fast the fit goes; `patience` counts checks on the validation codes without an improvement."""

    steps: int
    lr: float
    decay: bool
    patience: int

    def rate(self, step: int) -> float:
        """Learning rate at a step: a short rise, then half a cosine or a constant."""
        fall = 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps)) if self.decay else 1.0
        return self.lr * min(1.0, step / WARM_UP) * fall


class Fitted(NamedTuple):
    """The model with the weights that did best on the held-out codes, and how it came to them.

    `train` and `validation` hold (step, mean log t(u)); `diverged_at` is the step where the loss was not finite, or None.
    """

    model: nn.Module
    best_step: int
    steps_done: int
    train: list[tuple[int, float]]
    validation: list[tuple[int, float]]
    diverged_at: int | None


def maximise(
    model: nn.Module,
    batch: Callable[[], torch.Tensor],
    stop: torch.Tensor,
    schedule: Schedule,
    *,
    method: str,
    note: Callable[[float], str],
    progress: Progress,
) -> Fitted:
    """Maximise the mean log t of fresh batches by Adam; keep the running mean of the weights where it is best on `stop`.

    Args:
        model: Maps u of shape (m, D) to log t(u), shape (m,).
        batch: Gives fresh whitened codes, shape (b, D).
        stop: Whitened codes of other points, shape (k, D).
        method: Who to name in an error.
        note: What to show of the best value so far.
    Raises:
        InputError: the loss was not finite before anything was learned.
    """
    adam = torch.optim.Adam(model.parameters(), lr=schedule.lr)
    every = max(1, schedule.steps // EVALUATIONS)
    average = copy.deepcopy(model)
    best_value, best_step, best_weights = mean_log_density(average, stop), 0, copy.deepcopy(average.state_dict())
    train, validation = [], [(0, best_value)]
    recent, step, diverged_at = 0.0, 0, None
    for step in range(1, schedule.steps + 1):
        adam.param_groups[0]["lr"] = schedule.rate(step)
        value = model(batch().to(dtype_of(model))).mean()
        if not torch.isfinite(value):
            diverged_at = step
            break
        adam.zero_grad()
        (-value).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        adam.step()
        _average(average, model, min(AVERAGE, step / (step + 9)))
        recent += value.item() / every
        if step % every == 0:
            train.append((step, recent))
            validation.append((step, mean_log_density(average, stop)))
            recent = 0.0
            if validation[-1][1] > best_value:
                best_value, best_step, best_weights = validation[-1][1], step, copy.deepcopy(average.state_dict())
            progress(step, schedule.steps, note(best_value))
            if step - best_step >= schedule.patience * every:
                break
    if diverged_at is not None and best_step == 0:
        raise InputError(
            f"the fit of {method} diverged at step {diverged_at} (loss {-value.item()}), before it had learned anything: "
            f"lower --{method}.lr, now {schedule.lr:g}, or choose among the other --methods."
        )
    average.load_state_dict(best_weights)
    return Fitted(average, best_step, step, train, validation, diverged_at)


def _average(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the running mean of the weights towards the model's."""
    with torch.no_grad():
        for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The precision of a model's weights."""
    return next(model.parameters()).dtype


def log_density(model: nn.Module, u: torch.Tensor) -> torch.Tensor:
    """log t(u) of many codes in the model's precision, without gradients; shape (m,), float64."""
    size = max(min(ROWS, NUMBERS // u.shape[1]), 1)
    with torch.no_grad():
        return torch.cat([model(rows.to(dtype_of(model))).double() for rows in u.split(size)])


def mean_log_density(model: nn.Module, u: torch.Tensor) -> float:
    """Mean of `log_density`."""
    return float(log_density(model, u).mean())


@contextlib.contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Layers made inside take their first weights from `generator`; torch's global generators come back as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
