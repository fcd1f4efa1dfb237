"""A log-ratio log q/p learned from draws of the two: the network, its convex start, the loop that fits it.

For every estimator that learns a ratio. Draws of q carry label 1, so under the logistic loss the network's logit is
log q - log p. Codes are whitened by the pooled moments in float64 before the float32 network sees them; beside the
hidden layers a quadratic form of the whitened code leads straight to the logit, because first and second moments are
what most ratios differ in first and what a narrow network learns last.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from klprobe.types import InputError, Progress

Draw = Callable[[int], torch.Tensor]
"""Gives that many fresh codes, shape (m, D), float64."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits at draws of q and at draws of p to the number that is minimised, shape ()."""

MOMENT_DRAWS = 20_000
"""Codes of each side that the whitening is computed from."""
START_DRAWS, START_PER_WEIGHT, START_NUMBERS, START_ROUNDS = (4_000, 10_000, 50_000), 100, 1.25e8, 12
"""The convex start sees a hundred codes of each side for every weight, at least the second and at most the third; of many
latents fewer, so that codes * D^2 stays below the fourth number, but never under the first. It ends after so many rounds of
five iterations at the latest."""
SMALLEST_EIGENVALUE = 1e-10
"""Of the pooled correlation matrix: flatter directions carry rounding, and are left as they are."""
CHUNK = 4_096
"""Codes evaluated together: what fits the processor's cache."""
CURVE_POINTS = 100
"""Most points kept of a loss curve."""


@dataclasses.dataclass(frozen=True)
class RatioSettings:
    """How a log-ratio is learned; the estimators say what each field means to their users."""

    layers: int
    width: int
    leaky_slope: float
    quadratic: bool
    whiten: bool
    dropout: float
    activation_noise: float
    gradient_penalty: float
    steps: int
    batch_size: int
    lr: float
    betas: tuple[float, float]
    average: float
    check_every: int
    patience: int


def logistic(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the labels, q's draws 1 and p's 0, both classes weighing the same; log 2 for a logit of 0."""
    return 0.5 * (functional.softplus(-on_q).mean() + functional.softplus(on_p).mean())


class Whitening(NamedTuple):
    """u = ((z - mean) / std) @ rotation, float64."""

    mean: torch.Tensor
    std: torch.Tensor
    rotation: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor) -> Whitening:
        """From pooled codes of both sides; each latent is first standardised, so that scales may differ by 10^9."""
        mean, std = z.mean(0), z.std(0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        standard = (z - mean) / std
        eigenvalues, vectors = torch.linalg.eigh(standard.T @ standard / len(z))
        scale = torch.where(eigenvalues > SMALLEST_EIGENVALUE, eigenvalues, torch.ones_like(eigenvalues)).rsqrt()
        return cls(mean, std, (vectors * scale) @ vectors.T)

    @classmethod
    def none(cls, z: torch.Tensor) -> Whitening:
        """Leaves codes as they are."""
        return cls(torch.zeros_like(z[0]), torch.ones_like(z[0]), torch.eye(z.shape[1], dtype=z.dtype, device=z.device))

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return (((z - self.mean) / self.std) @ self.rotation).float()


class RatioNetwork(nn.Module):
    """logit(u) = MLP(u) + u'Au + b'u + c at whitened codes u; zero everywhere before it is fitted."""

    def __init__(self, whitening: Whitening, settings: RatioSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.whitening, self.settings = whitening, settings
        dim = len(whitening.mean)
        sizes = [dim, *[settings.width] * settings.layers]
        layers = [nn.utils.skip_init(nn.Linear, fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, a=settings.leaky_slope, generator=generator)
            nn.init.zeros_(layer.bias)
        self.hidden = nn.ModuleList(layers)
        self.head = nn.Parameter(torch.zeros(sizes[-1]))
        self.constant = nn.Parameter(torch.zeros(()))
        if settings.quadratic:
            self.linear, self.form = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim, dim))
        self.to(whitening.mean.device)

    def forward(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Logits, shape (m,), float32; with a generator, dropout and activation noise are at work.

        Args:
            u: Whitened codes, shape (m, D), float32.
        """
        h = u
        for layer in self.hidden:
            h = functional.leaky_relu(layer(h), self.settings.leaky_slope)
            if generator is not None:
                h = self._disturb(h, generator)
        logit = h @ self.head + self.constant
        return logit + self.quadratic(u) if self.settings.quadratic else logit

    def quadratic(self, u: torch.Tensor) -> torch.Tensor:
        """u'Au / D + b'u: without the D a step of Adam would move all D^2 terms at once by too much."""
        return ((u @ self.form) * u).sum(-1) / u.shape[1] + u @ self.linear

    def _disturb(self, h: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.settings.activation_noise:
            h = h + self.settings.activation_noise * torch.randn(h.shape, generator=generator).to(h.device)
        if self.settings.dropout:
            kept = torch.rand(h.shape, generator=generator).to(h.device) >= self.settings.dropout
            h = h * kept / (1 - self.settings.dropout)
        return h

    @torch.no_grad()
    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Logits at codes z, shape (m, D), as they come; shape (m,), float64."""
        return torch.cat([self(self.whitening(rows)).double() for rows in z.split(CHUNK)])


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
        _start(network, draw_q, draw_p, stop, loss)
    return _descend(network, draw_q, draw_p, stop, settings, generator, progress, method, loss)


def _start(network: RatioNetwork, draw_q: Draw, draw_p: Draw, stop: tuple[torch.Tensor, torch.Tensor], loss: Loss) -> None:
    """Fit the quadratic part alone by L-BFGS: convex under the logistic loss, and done in seconds where Adam takes minutes.

    The stop draws end it, which is all that keeps D^2 weights in check when there are few points.
    """
    dim = stop[0].shape[1]
    least, usual, most = START_DRAWS
    count = max(min(max(START_PER_WEIGHT * dim**2, usual), most, int(START_NUMBERS / dim**2)), least)
    q, p = network.whitening(draw_q(count)), network.whitening(draw_p(count))
    parameters = [network.form, network.linear, network.constant]
    optimiser = torch.optim.LBFGS(parameters, max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def logits(u: torch.Tensor) -> torch.Tensor:
        return network.quadratic(u) + network.constant

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(logits(q), logits(p))
        value.backward()
        return value

    def stop_loss() -> float:
        with torch.no_grad():
            return loss(logits(stop[0]), logits(stop[1])).item()

    best, kept = stop_loss(), [w.detach().clone() for w in parameters]
    for _ in range(START_ROUNDS):
        optimiser.step(closure)
        value = stop_loss()
        if not value < best - 1e-5:
            break
        best, kept = value, [w.detach().clone() for w in parameters]
    with torch.no_grad():
        for parameter, weights in zip(parameters, kept, strict=True):
            parameter.copy_(weights)


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
