"""How far samples are from data by a Wasserstein critic that had no part in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from klprobe.losses import gradient_penalty
from klprobe.metrics._shared import Score, seed_of
from klprobe.metrics._statistics import mean_error
from klprobe.networks import discriminator
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Critic"]

CURVE_POINTS = 20
POINTS_AT_ONCE = 500


@dataclass(frozen=True)
class Critic:
    """Independent Wasserstein critic: E f(data) - E f(samples), f trained with a gradient penalty on other data and samples.

    Half of both sets trains the critic, the other half is judged, so a critic that learns its points by heart gains nothing;
    the curve on both is in the details. Lower is better (DMVI and AGAN plot minus this). It is near the Wasserstein-1
    distance W, but the penalty P asks for slopes of 1 and does not enforce them: for data shifted by W the best slope is
    1 + W / 2P, and the score W (1 + W / 2P). AGAN starts the critic half-way through the system's training; this one starts
    after it.

    Reference: Gulrajani et al. (2017); Danihelka et al. (2017); AGAN section 5.1, Fig. 13; DMVI Figs. 4, 5.
    """

    steps: int = 1000
    """Steps of the critic."""
    batch_size: int = 64
    """Data, and samples, in a mini-batch."""
    lr: float = 5e-4
    """Adam's learning rate, with betas 0.5 and 0.9 (ours; Gulrajani et al.: 1e-4)."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty (Gulrajani et al.: 10)."""
    width: int = 256
    """Units of a hidden layer, for vectors; images have the critic's network of WGAN-GP."""

    def measure(
        self, samples: torch.Tensor, data: torch.Tensor, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Score, ...]:
        """`critic-distance`.

        Raises:
            InputError: fewer than 4 points of either set, of a shape that no network fits, or a critic that diverges.
        """
        if min(len(samples), len(data)) < 4 or samples.shape[1:] != data.shape[1:]:
            raise InputError(
                f"critic needs at least 4 samples and 4 data of one shape; got {tuple(samples.shape)} and {tuple(data.shape)}."
            )
        halves = [x[torch.randperm(len(x), generator=generator)].float().tensor_split(2) for x in (data, samples)]
        (real, real_other), (fake, fake_other) = halves
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(generator))
            critic = discriminator(tuple(data.shape[1:]), width=self.width, batch_norm=False)
        adam = torch.optim.Adam(critic.parameters(), self.lr, (0.5, 0.9))
        every, curve = max(1, self.steps // CURVE_POINTS), []
        for step in range(1, self.steps + 1):
            x, y = (half[torch.randint(len(half), (self.batch_size,), generator=generator)] for half in (real, fake))
            distance = critic(x).mean() - critic(y).mean()
            loss = self.penalty_weight * gradient_penalty(critic, x, y, generator) - distance
            if not loss.isfinite():
                raise InputError(f"critic diverged at step {step}: lower --critic.lr, now {self.lr:g}.")
            adam.zero_grad()
            loss.backward()
            adam.step()
            if step % every == 0:
                far = _distance(_judge(critic, real_other), _judge(critic, fake_other))
                curve.append([step, float(distance.detach()), far])
                progress(step, self.steps, f"{far:.4g}")
        judged = [_judge(critic, half) for half in (real_other, fake_other)]
        error = math.hypot(*(mean_error(values) for values in judged))
        details = {"steps": self.steps, "curve": curve, "curve_columns": ["step", "mini-batch", "held out"]}
        return (Score("critic-distance", _distance(*judged), error, "lower", details=details),)


@torch.no_grad()
def _judge(critic: nn.Module, points: torch.Tensor) -> torch.Tensor:
    return torch.cat([critic(block)[:, 0].double() for block in points.split(POINTS_AT_ONCE)])


def _distance(real: torch.Tensor, fake: torch.Tensor) -> float:
    return float(real.mean() - fake.mean())
