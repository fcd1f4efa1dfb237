"""KL as an integral over noise levels of how much larger the error of p's denoiser is than that of q's on draws of q.

Each side has a denoiser at several noise levels: the best linear one, in closed form, and a network for the rest.
Codes u are whitened by the pooled moments; y = u + noise / sqrt(g) at signal-to-noise ratios g. The error that is learned and
reported is in units of the noise, sqrt(g) (u - D(y)), which is of order one at all levels. Both sides share one network, whose
input says which side it is, so that what it cannot learn is missing on both sides and cancels in the difference.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.distributions import Distribution, MultivariateNormal
from torch.nn import functional

from klprobe.distributions.clusters import cluster_ids
from klprobe.distributions.posteriors import SampleOnly, diagonal_normal, need_volume
from klprobe.distributions.statistics import MeanError, mean_error, visit_evenly
from klprobe.distributions.whitening import Whitening
from klprobe.estimators._descent import Fitted, Schedule, descend
from klprobe.estimators._ratio import MOMENT_DRAWS, hidden_layers
from klprobe.estimators._ratio_report import FIT_LEFT_OUT, RatioOnQ
from klprobe.estimators._sides import POOLED_SHARES, Moments, Sides, moments
from klprobe.types import Estimate, Estimator, InputError, Progress, Target, no_progress

__all__ = ["Denoising"]

METHOD = "denoising"
STOP_DRAWS = 4000
"""Number of validation codes of each side, which choose shrinkage and weights, at all levels."""
SURE = 3.0
"""Number of standard errors by which a shrinkage must do better on the validation codes."""
NUMBERS = 8_000_000
"""Number of values evaluated together: codes times levels times D."""


@dataclasses.dataclass(frozen=True)
class Denoising(Estimator):
    """Difference of denoising errors of q and p over noise levels: works for large KL and many latents; no bound."""

    lowest: float = -6.0
    """Natural logarithm of the smallest signal-to-noise ratio of whitened codes."""
    highest: float = 9.0
    """Natural logarithm of the largest signal-to-noise ratio. Structure finer than exp(-highest / 2) standard deviations is
    guessed from the last level."""
    levels: int = 11
    """Number of noise levels, evenly spaced in the logarithm."""
    width: int = 256
    """Number of units in each hidden layer of the network that learns what is not linear."""
    layers: int = 2
    """Number of hidden layers of that network."""
    steps: int = 4000
    """Largest number of steps of Adam."""
    batch_size: int = 512
    """Number of fresh codes of q, and of p, in a step, spread over the levels."""
    lr: float = 2e-3
    """Learning rate of Adam at the start of the fit."""
    average: float = 0.998
    """Decay rate, for each step, of the running average of the weights, which is what the report uses."""
    check_every: int = 200
    """Number of steps between two checks on the validation codes."""
    patience: int = 1
    """Number of checks without an improvement after which the learning rate falls; the third time, the fit stops."""
    num_samples: int = 50_000
    """Number of codes of q for each reported value; each is used at all levels."""
    moment_samples: int = 0
    """Number of codes of q, and of p, that mean and covariance are computed from. 0 takes 400 for each weight of a quadratic
    form, between 20,000 and 400,000 of them, and 200,000 in a thousand latents."""

    requires: ClassVar[frozenset[str]] = frozenset({"volume"})
    takes: ClassVar[frozenset[str]] = frozenset({"groups"})

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        least = {"levels": 3, "width": 1, "layers": 1, "steps": 0, "check_every": 1, "num_samples": 4, "moment_samples": 0}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise InputError(f"{METHOD} needs {name} to be at least {number}; got {getattr(self, name)}.")
        if not self.lowest < self.highest or not self.lr > 0 or not 0 <= self.average < 1 or self.batch_size < self.levels:
            raise InputError(
                f"{METHOD} needs lowest < highest, lr > 0, average in [0, 1), and a batch_size of at least one code a level; "
                f"got {self.lowest:g}, {self.highest:g}, {self.lr:g}, {self.average:g}, {self.batch_size}."
            )

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate 1/2 int_0^inf E_q |z - D_p(z_g)|^2 - |z - D_q(z_g)|^2 dg = KL[q||p], z_g = z + N(0, I/g).

        Here D is a side's best denoiser. A worse denoiser of q lowers the value and a worse one of p mostly raises it, so it
        is no bound; the ceiling log n of methods that average e^f does not apply. The standard error is that of the draws,
        and leaves out the errors of the denoisers. These learn from fresh codes of the first part of the points and from
        prior draws; the second part chooses, and the third is reported on. A Gaussian prior's denoiser is exact.

        Returns:
            One estimate of the population's KL and, unless the encoder is known by its samples, one of the empirical's.
        Raises:
            InputError: there are fewer than 20 points or prior samples, or the fit diverged.
        Reference: Verdu (2010), Mismatched estimation and relative entropy; Kong, Brekelmans and Ver Steeg (2023);
            Franzese, Bounoua and Michiardi (2024).
        """
        started = time.perf_counter()
        sides = Sides.of(posterior, prior, generator, method=METHOD)
        need_volume(sides.q, prior, METHOD)
        stop = sides.once_q(sides.points.stop, STOP_DRAWS), sides.prior.stop(STOP_DRAWS)
        pooled = torch.cat([sides.fit_q(MOMENT_DRAWS), sides.fit_p(MOMENT_DRAWS)])
        whitening = Whitening.of(pooled)
        draws = tuple(whitening(codes) for codes in stop)
        levels = Levels.even(self.lowest, self.highest, self.levels, pooled)
        known = _gaussian_moments(prior, whitening)
        of_q = moments(sides.fit_q, whitening, self.moment_samples)
        of_p = moments(sides.fit_p, whitening, self.moment_samples) if known is None else known
        residual = Residual(pooled.shape[1], levels, self.width, self.layers, generator)
        noises = [_noise((len(levels), *u.shape), u, generator) for u in draws]
        linear_q, share_q = _best_linear(of_q, of_p, levels, draws[0], noises[0])
        linear_p, share_p = (Linear.of(known, levels), 0.0) if known else _best_linear(of_p, of_q, levels, draws[1], noises[1])
        denoisers = Denoisers(levels, (linear_q, linear_p), None, known is not None)
        fitted = self._fit(denoisers, residual, sides, whitening, draws, noises, progress)
        denoisers = denoisers._replace(residual=fitted.network)
        found = [self._report(denoisers, sides, whitening, "population")]
        if not isinstance(sides.q, SampleOnly):
            found.append(self._report(denoisers, sides, whitening, "empirical"))
        details = {
            "curves": fitted.curves,
            "chosen_step": fitted.best_step,
            "steps_done": fitted.steps_done,
            "shrinkage_q": share_q,
            "shrinkage_p": share_p,
            "prior_denoiser": "exact" if known else "learned",
            "error": FIT_LEFT_OUT,
            "settings": dataclasses.asdict(self),
        }
        progress(self.steps, self.steps, f"about {found[0].value:.3g} nats")
        seconds = time.perf_counter() - started
        return tuple(dataclasses.replace(e, seconds=seconds, details={**e.details, **details}) for e in found)

    def _fit(
        self,
        denoisers: Denoisers,
        residual: Residual,
        sides: Sides,
        whitening: Whitening,
        stop: tuple[torch.Tensor, ...],
        noises: list[torch.Tensor],
        progress: Progress,
    ) -> Fitted[Residual]:
        """Fit the network on fresh codes, and keep the weights that do best on the validation codes of both sides."""
        learners = (0,) if denoisers.exact_p else (0, 1)
        draws, rows = (sides.fit_q, sides.fit_p), self.batch_size // self.levels

        def batch_loss(network: Residual) -> torch.Tensor:
            now, losses = denoisers._replace(residual=network), []
            for side in learners:
                u = whitening(draws[side](rows * self.levels)).reshape(self.levels, rows, -1)
                losses.append(now.losses(u, _noise(u.shape, u, sides.generator), side).mean())
            return torch.stack(losses).sum()

        def stop_loss(network: Residual) -> float:
            now = denoisers._replace(residual=network)
            each = [_losses(now, stop[side], noises[side], side).mean(1) for side in learners]
            return float(torch.stack(each).sum(0) @ denoisers.levels.weights)

        schedule = Schedule(self.steps, self.lr, (0.9, 0.99), self.average, self.check_every, self.patience)
        return descend(residual, batch_loss, stop_loss, schedule, progress, method=METHOD)

    def _report(self, denoisers: Denoisers, sides: Sides, whitening: Whitening, target: Target) -> Estimate:
        """Compute the integral at codes that nothing was fitted on, with its error over points."""
        q, generator, weights = sides.q, sides.generator, denoisers.levels.weights
        if target == "empirical":
            points = visit_evenly(torch.arange(q.num_points), self.num_samples // 2, generator).repeat(2)
        else:
            held_out = sides.points.report
            points = held_out if isinstance(q, SampleOnly) else visit_evenly(held_out, self.num_samples, generator)
        values, levels = [], torch.zeros_like(weights)
        with torch.no_grad():
            for rows in points.split(_rows(self.levels, q.dim)):
                u = whitening(q.sample_at(rows, generator))
                part = denoisers.integrand(u, _noise((self.levels, *u.shape), u, generator))
                values.append(weights @ part)
                levels += part.sum(1) / len(points)
        counted = points if target == "empirical" else cluster_ids(q, points)
        mean = RatioOnQ(target, torch.cat(values), counted, q.num_points).mean(torch.cat(values))
        details = {
            "integrand": [[float(t), float(v)] for t, v in zip(denoisers.levels.log_snr, levels, strict=True)],
            "beyond_the_grid": float(sum(levels[i] * (weights[i] - weights[1]) for i in (0, -1))),
        }
        return Estimate(METHOD, target, "none", mean.value, mean.std_error, "kl", len(points), details=details)


@dataclasses.dataclass(frozen=True)
class Levels:
    """Log signal-to-noise ratios on an even grid, and the weights with which their sum is an integral over the whole line.

    An even grid's sum converges exponentially for what is analytic. Beyond its ends the integrand falls as g and as 1/g, so
    that what is left out is a geometric series of the last term.
    """

    log_snr: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def even(cls, lowest: float, highest: float, count: int, like: torch.Tensor) -> Levels:
        """Make `count` levels from `lowest` to `highest`."""
        step = (highest - lowest) / (count - 1)
        weights = torch.full((count,), step, dtype=torch.float64, device=like.device)
        weights[[0, -1]] = step / (1 - math.exp(-step))
        return cls(torch.linspace(lowest, highest, count, dtype=torch.float64, device=like.device), weights)

    def __len__(self) -> int:
        return len(self.log_snr)


class Linear(NamedTuple):
    """The best linear denoiser of one side at each level: D(y) = mean + gain (y - mean).

    Attributes:
        mean: Mean, shape (D,), float32.
        gain: Matrices, shape (levels, D, D), float32.
    """

    mean: torch.Tensor
    gain: torch.Tensor

    @classmethod
    def of(cls, side: Moments, levels: Levels) -> Linear:
        """Make it from mean and covariance S: gain = S (S + 1/g)^-1, which is exact for a Gaussian."""
        values, vectors = torch.linalg.eigh(side.covariance)
        signal = levels.log_snr.exp()[:, None] * values.clamp(min=0.0)
        gain = (vectors * (signal / (1 + signal))[:, None, :]) @ vectors.T
        return cls(side.mean.float(), gain.float())


class Residual(nn.Module):
    """Network that corrects the linear denoisers, in units of the noise; zero before it is trained."""

    def __init__(self, dim: int, levels: Levels, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden_layers(dim, width, layers, generator)
        self.shift = nn.Parameter(0.5 * torch.randn(layers, 2, len(levels), width, generator=generator))
        self.head = nn.Parameter(torch.zeros(width, dim))
        snr = levels.log_snr.exp()
        self.scale_in, self.scale_out = (snr / (1 + snr)).sqrt().float(), (2 * snr.sqrt() / (1 + snr)).float()
        self.to(levels.log_snr.device)

    def forward(self, y: torch.Tensor, side: int) -> torch.Tensor:
        """Correction, shape (levels, m, D), at noisy codes of that shape; side 0 is q, 1 is p.

        The output is scaled as the correction of a linear denoiser falls at both ends: sqrt(g) where the noise is larger
        than the codes, 1 / sqrt(g) where it moves a code by less than the density varies over.
        """
        h = y * self.scale_in[:, None, None]
        for layer, shift in zip(self.hidden, self.shift, strict=True):
            h = functional.silu(layer(h) + shift[side][:, None, :])
        return (h @ self.head) * self.scale_out[:, None, None]


class Denoisers(NamedTuple):
    """The denoisers of both sides.

    Attributes:
        linear: Linear denoisers of q and of p.
        residual: Network that corrects them; None where there is no correction.
        exact_p: Whether p is a Gaussian with known moments, whose linear denoiser is exact.
    """

    levels: Levels
    linear: tuple[Linear, Linear]
    residual: Residual | None
    exact_p: bool

    def errors(self, u: torch.Tensor, noise: torch.Tensor, side: int) -> torch.Tensor:
        """Compute the errors sqrt(g) (u - D_side(u + noise / sqrt(g))), shape (levels, m, D).

        Args:
            u: Whitened codes, shape (levels, m, D) or (m, D) for the same at all levels, float32.
            noise: Standard normal noise, shape (levels, m, D), float32.
        """
        root = (0.5 * self.levels.log_snr).exp().float()[:, None, None]
        y, linear = u + noise / root, self.linear[side]
        missing = root * (u - linear.mean - (y - linear.mean) @ linear.gain)
        return missing if self.residual is None or (side and self.exact_p) else missing - self.residual(y, side)

    def losses(self, u: torch.Tensor, noise: torch.Tensor, side: int) -> torch.Tensor:
        """Squared errors of a side's denoiser, shape (levels, m), float32."""
        return self.errors(u, noise, side).square().sum(-1)

    def integrand(self, u: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Half the difference of both denoisers' squared errors at draws of q, shape (levels, m), float64."""
        on_q, on_p = self.errors(u, noise, 0), self.errors(u, noise, 1)
        return 0.5 * ((on_p - on_q).double() * (on_p + on_q).double()).sum(-1)


def _gaussian_moments(prior: Distribution, whitening: Whitening) -> Moments | None:
    """Mean and covariance of whitened prior codes where the prior is a known Gaussian; otherwise None."""
    normal = diagonal_normal(prior)
    if normal is not None:
        mean, covariance = normal[0].double(), torch.diag(normal[1].double().square())
    elif isinstance(prior, MultivariateNormal):
        mean, covariance = prior.loc.double(), prior.covariance_matrix.double()
    else:
        return None
    to_white = whitening.rotation / whitening.std[:, None]
    return Moments((mean - whitening.mean) @ to_white, to_white.T @ covariance @ to_white)


def _best_linear(own: Moments, other: Moments, levels: Levels, u: torch.Tensor, noise: torch.Tensor) -> tuple[Linear, float]:
    """Compute the linear denoiser, shrunk towards the other side's as far as the validation codes show a clear gain.

    An error of p's denoiser in the direction of q's moves the KL in first order, so the choice must not depend on chance.
    """
    best, chosen = None, (0.0, Linear.of(own, levels))
    for share in POOLED_SHARES:
        linear = Linear.of(own.towards(other, share), levels) if share else chosen[1]
        losses = levels.weights @ _losses(Denoisers(levels, (linear, linear), None, True), u, noise, 1)
        gain = mean_error(best - losses) if best is not None else MeanError(math.inf, 0.0)
        if gain.value > SURE * gain.std_error:
            best, chosen = losses, (share, linear)
        elif gain.value < -SURE * gain.std_error:
            break
    return chosen[1], chosen[0]


@torch.no_grad()
def _losses(denoisers: Denoisers, u: torch.Tensor, noise: torch.Tensor, side: int) -> torch.Tensor:
    """Squared errors of one side, shape (levels, m), float64."""
    size = _rows(len(denoisers.levels), u.shape[1])
    parts = zip(u.split(size), noise.split(size, 1), strict=True)
    return torch.cat([denoisers.losses(v, e, side).double() for v, e in parts], 1)


def _noise(shape: tuple[int, ...], like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal noise, float32, on the device of `like`."""
    return torch.randn(shape, generator=generator).to(like.device)


def _rows(levels: int, dim: int) -> int:
    """Number of codes evaluated together."""
    return max(NUMBERS // (levels * dim), 16)
