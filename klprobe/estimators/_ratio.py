"""The network whose output is a log-ratio log q/p, and how it is learned from draws of q and p.

It serves every estimator that learns a ratio. Draws of q have label 1, so that under the logistic loss the network's logit is
log q - log p. Codes are whitened by the pooled moments in float64 before the float32 network sees them; beside the
hidden layers a quadratic form of the whitened code is added to the logit, because first and second moments are
what most ratios differ in first and what a narrow network learns last. To learn it: whiten, start convexly, descend, stop on
other draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from klprobe.distributions.whitening import Preparation, Whitening
from klprobe.estimators._descent import Fitted, Schedule, descend
from klprobe.estimators._sides import POOLED_SHARES, Codes, Draw, moments, quadratic_ratio
from klprobe.types import Progress

Activation = Literal["silu", "leaky-relu"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A function from logits at draws of q and at draws of p to the number that is minimised, shape ()."""
CHUNK = 4_096
"""Number of codes evaluated together, which fit into the processor's cache."""
MOMENT_DRAWS = 20_000
"""Number of codes of each side that the whitening is computed from."""

START_DRAWS, START_PER_WEIGHT, START_NUMBERS, START_ROUNDS = (4_000, 10_000, 100_000), 100, 1e9, 12
"""The first descent uses a hundred codes of each side for every weight, at least the second number and at most the third. With
many latents it uses fewer, so that codes * D^2 stays below START_NUMBERS, but never fewer than the first number. It ends after
START_ROUNDS rounds of five iterations at the latest."""
FEWEST_PER_WEIGHT = 0.25
"""Number of codes for every weight below which a descent would only overfit, so that the moments are kept."""
LEAST_GAIN = 1e-5
"""Smallest gain in the validation loss, in nats, for which another start is taken."""


def logistic(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the labels, 1 for q's draws and 0 for p's, with equal weight of both; log 2 for a logit of 0."""
    return 0.5 * (functional.softplus(-on_q).mean() + functional.softplus(on_p).mean())


@dataclasses.dataclass(frozen=True)
class RatioSettings:
    """Settings for learning a log-ratio; the estimators say what each of them means."""

    layers: int
    width: int
    activation: Activation
    leaky_slope: float
    quadratic: bool
    moment_samples: int
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


def hidden_layers(dim: int, width: int, layers: int, generator: torch.Generator, slope: float = 0.0) -> nn.ModuleList:
    """Make linear layers from D numbers to `width` units, with He et al.'s weights for that slope, and zero biases."""
    hidden = [nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise([dim, *[width] * layers])]
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, a=slope, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(hidden)


class RatioNetwork(nn.Module):
    """logit(u) = MLP(u) + u'Au + b'u + c at whitened codes u; zero everywhere before it is fitted."""

    def __init__(self, whitening: Preparation, settings: RatioSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.whitening, self.settings = whitening, settings
        dim = len(whitening.mean)
        self.hidden = hidden_layers(dim, settings.width, settings.layers, generator, settings.leaky_slope)
        self.head = nn.Parameter(torch.zeros(settings.width if settings.layers else dim))
        self.constant = nn.Parameter(torch.zeros(()))
        if settings.quadratic:
            self.linear, self.form = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim, dim))
        self.to(whitening.mean.device)

    def forward(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Logits, shape (m,), float32; dropout and activation noise are used only when a generator is given.

        Args:
            u: Whitened codes, shape (m, D), float32.
        """
        h = u
        for layer in self.hidden:
            h = self._activate(layer(h))
            if generator is not None:
                h = self._disturb(h, generator)
        logit = h @ self.head + self.constant
        return logit + self.quadratic(u) if self.settings.quadratic else logit

    def quadratic(self, u: torch.Tensor) -> torch.Tensor:
        """The form u'Au / D + b'u, whose D keeps a step of Adam from moving all D^2 terms at once by too much."""
        return ((u @ self.form) * u).sum(-1) / u.shape[1] + u @ self.linear

    def _activate(self, h: torch.Tensor) -> torch.Tensor:
        if self.settings.activation == "silu":
            return functional.silu(h)
        return functional.leaky_relu(h, self.settings.leaky_slope)

    def _disturb(self, h: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.settings.activation_noise:
            h = h + self.settings.activation_noise * torch.randn(h.shape, generator=generator).to(h.device)
        if self.settings.dropout:
            kept = torch.rand(h.shape, generator=generator).to(h.device) >= self.settings.dropout
            h = h * kept / (1 - self.settings.dropout)
        return h

    @torch.no_grad()
    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Logits at codes z, shape (m, D), which are not whitened; shape (m,), float64."""
        return torch.cat([self(self.whitening(rows)).double() for rows in z.split(CHUNK)])


def whitened(fit: Codes, stop: Codes) -> Preparation:
    """Whiten by the moments of both sides' codes."""
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
    """Learn log q/p from fresh draws, and keep the weights that do best on the validation codes.

    Args:
        draw_q, draw_p: Functions that draw fresh codes to fit on.
        stop_q, stop_p: Validation codes, of other data points, shapes (m, D) and (n, D).
        method: Who asks, for messages.
        loss: Loss that is minimised; its optimum must be the log-ratio.
        prepare: Function from codes to fit and to validate on, of both sides, to the invertible map before the network.

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
    """Set the quadratic part to the best on validation codes: zero, the one of the moments, or the one after L-BFGS.

    Args:
        network: Network whose `form`, `linear` and `constant` are set.
        draw_q, draw_p: Functions that draw fresh codes to fit on.
        stop: Whitened validation codes.
        loss: Loss that is convex in the log-ratio.
        moment_samples: Number of codes of each side for the moments; 0 takes a number that suits the weights.
    """
    parameters = [network.form, network.linear, network.constant]

    def stop_loss() -> float:
        with torch.no_grad():
            return float(loss(*(network.quadratic(u) + network.constant for u in stop)))

    best, kept = stop_loss(), _copies(parameters)
    of_q, of_p = (moments(draw, network.whitening, moment_samples) for draw in (draw_q, draw_p))
    for share in POOLED_SHARES:
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
    """Number of codes of each side that the descent uses."""
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
    """Fit by L-BFGS until the validation codes end it; the logistic loss is convex, and this takes seconds, Adam minutes."""
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
