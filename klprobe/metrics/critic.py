"""Distance between samples and data by Wasserstein critics that had no part in training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from klprobe.metrics import Score, seed_of
from klprobe.metrics._statistics import mean_error
from klprobe.training.losses import gradient_penalty
from klprobe.training.networks import discriminator
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Critic"]

CURVE_POINTS = 20
POINTS_AT_ONCE = 500
COLUMNS = ("step", "mini-batch", "held out")


class Points(NamedTuple):
    """Points that one critic is trained on, and points that it judges."""

    data: torch.Tensor
    samples: torch.Tensor
    held_out: torch.Tensor
    other_samples: torch.Tensor


class Scored(NamedTuple):
    """A critic's values of the data and of the samples that it judges, float64, shape (n,), (m,)."""

    real: torch.Tensor
    fake: torch.Tensor

    @property
    def distance(self) -> float:
        """E f(data) - E f(samples)."""
        return float(self.real.mean() - self.fake.mean())


@dataclass(frozen=True)
class Critic:
    """Independent Wasserstein critic: E f(data) - E f(samples), f trained with a gradient penalty on other data and samples.

    Two critics: one is trained on half of the samples and judges the other half, the other the reverse. They are trained on
    the validation split where the data set has one, and judge held-out data; else they share the held-out data in the same
    way. A critic that learns its points by heart gains nothing, and the curves of both on mini-batch and held-out points are
    in the details. Lower is better (DMVI and AGAN plot minus this). It is near the Wasserstein-1 distance W, but the penalty P
    asks for slopes of 1 and does not enforce them: for data shifted by W the best slope is 1 + W / 2P, and the score
    W (1 + W / 2P). The error holds what the points leave open, and what the two critics differ by beyond that. AGAN starts
    the critic half-way through the system's training; these start after it.

    Reference: Gulrajani et al. (2017); Danihelka et al. (2017); AGAN section 5.1, Fig. 13; DMVI Figs. 4, 5.
    """

    steps: int = 500
    """Number of training steps of each critic; the curves show whether more would help."""
    batch_size: int = 64
    """Number of data points, and of samples, in a mini-batch."""
    lr: float = 5e-4
    """Learning rate of Adam, whose betas are 0.5 and 0.9 (ours; Gulrajani et al.: 1e-4)."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty (Gulrajani et al.: 10)."""
    width: int = 256
    """Number of units in each hidden layer, for data that are vectors; images have the critic's network of WGAN-GP."""

    def measure(
        self,
        samples: torch.Tensor,
        data: torch.Tensor,
        generator: torch.Generator,
        progress: Progress = no_progress,
        validation: torch.Tensor | None = None,
    ) -> tuple[Score, ...]:
        """`critic-distance`.

        Args:
            samples, data: Shape (m, *shape), (n, *shape).
            generator: Source of all randomness.
            progress: Function that is called with the steps of both critics.
            validation: Other data, for training, shape (k, *shape); None: half of `data`.
        Raises:
            InputError: fewer than 4 points of a set, of a shape that no network fits, or a critic that diverges.
        """
        sets = (samples, data) if validation is None else (samples, data, validation)
        if min(map(len, sets)) < 4 or len({points.shape[1:] for points in sets}) > 1 or self.steps < 1:
            raise InputError(
                "critic needs at least 1 step, and at least 4 samples and 4 data of one shape; got "
                f"{self.steps}, and {' and '.join(str(tuple(points.shape)) for points in sets)}."
            )
        fake = _halves(samples, generator)
        real = _halves(data, generator) if validation is None else (data.float(), data.float())
        rounds, curves = [], []
        for i in (0, 1):
            trained_on = real[i] if validation is None else validation.float()
            points = Points(trained_on, fake[i], real[1 - i], fake[1 - i])
            scores, curve = self._train(points, generator, progress, i * self.steps)
            rounds.append(scores)
            curves.append(curve)
        value, error = _combine(rounds, shared=validation is not None)
        details = {
            "steps": self.steps,
            "trained_on": "half of the held-out data" if validation is None else "the validation split",
            "curves": curves,
            "curve_columns": list(COLUMNS),
        }
        return (Score("critic-distance", value, error, "lower", details=details),)

    def _train(
        self, points: Points, generator: torch.Generator, progress: Progress, done: int
    ) -> tuple[Scored, list[list[float]]]:
        """One critic: what it thinks of the points it judges, and its distance on mini-batch and on them as it is trained."""
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(generator))
            critic = discriminator(tuple(points.data.shape[1:]), width=self.width, batch_norm=False)
        adam = torch.optim.Adam(critic.parameters(), self.lr, (0.5, 0.9))
        every, curve = max(1, self.steps // CURVE_POINTS), []
        for step in range(1, self.steps + 1):
            x, y = (
                part[torch.randint(len(part), (self.batch_size,), generator=generator)]
                for part in (points.data, points.samples)
            )
            distance = critic(x).mean() - critic(y).mean()
            loss = self.penalty_weight * gradient_penalty(critic, x, y, generator) - distance
            if not loss.isfinite():
                raise InputError(f"critic diverged at step {step}: lower --critic.lr, now {self.lr:g}.")
            adam.zero_grad()
            loss.backward()
            adam.step()
            if step % every == 0 or step == self.steps:
                far = _judge(critic, points).distance
                curve.append([step, float(distance.detach()), far])
                progress(done + step, 2 * self.steps, f"{far:.4g}")
        return _judge(critic, points), curve


@torch.no_grad()
def _judge(critic: nn.Module, points: Points) -> Scored:
    both = (
        torch.cat([critic(block)[:, 0].double() for block in part.split(POINTS_AT_ONCE)])
        for part in (points.held_out, points.other_samples)
    )
    return Scored(*both)


def _halves(points: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    return points[torch.randperm(len(points), generator=generator)].float().tensor_split(2)


def _combine(rounds: list[Scored], *, shared: bool) -> tuple[float, float]:
    """Mean of two distances, and its error: of the points, and of the critics where they differ by more than points explain.

    Args:
        rounds: Results of both critics, which judge different samples.
        shared: Whether they judge the same data.
    """
    first, second = rounds
    of_fake = math.hypot(mean_error(first.fake), mean_error(second.fake)) / 2
    if shared:
        of_real, apart = (mean_error((first.real + sign * second.real) / 2) for sign in (1, -1))
    else:
        of_real = apart = math.hypot(mean_error(first.real), mean_error(second.real)) / 2
    explained = of_fake**2 + apart**2
    of_critics = max(0.0, (first.distance - second.distance) ** 2 / 4 - explained)
    return (first.distance + second.distance) / 2, math.sqrt(of_fake**2 + of_real**2 + of_critics)
