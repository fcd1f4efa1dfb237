"""The base of gmm, maf and lstm: fit a normalised density t to draws of q, then report E_q[log t - log p] (Algorithm 3).

KL[q||p] - E_q[log t - log p] = KL[q||t] >= 0, so every such number is a lower bound, whatever t is. All three
therefore treat t alike: it is fitted on whitened codes u = W (z - mean), whose log-determinant is
exact, and is mixed with the prior, so that a poor fit gives a loose bound and not a large negative number.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe import registry
from klprobe.distributions.clusters import cluster_ids
from klprobe.distributions.posteriors import SampleOnly, as_posterior, check_prior, need_volume, prior_log_prob
from klprobe.distributions.statistics import mean_error, point_mean, visits
from klprobe.distributions.tails import outside_prior
from klprobe.distributions.whitening import Whitening, whiten
from klprobe.estimators._descent import Schedule, anneal
from klprobe.estimators._sides import Split, draw_evenly, split_points
from klprobe.types import Estimate, Estimator, InputError, Posterior, Progress, Target, no_progress

FIT_DRAWS, STOP_DRAWS, DRAWS_A_POINT = 40_000, 5_000, 20
"""Largest numbers of codes that fix the whitening and start the model, of codes that validate, and of codes for each point."""
TARGETS: tuple[Target, ...] = ("population", "empirical")
EVALUATIONS = 50
"""Number of checks on the validation codes during a fit, which is also the length of the recorded loss curves."""
BETAS = (0.9, 0.999)
"""Decay rates of Adam's two averages."""
AVERAGE = 0.99
"""Decay rate, for each step, of the running mean of the weights, which is used: 0.3 nats better on 1,800 points."""
ROWS, ROW_NUMBERS = 1024, 2**18
"""Largest numbers of codes, and of values, evaluated together, which limit the memory of a recurrent net in float64, about 4 kB
for each value, and change no result."""
NUMBERS = 16_000_000
"""Number of values drawn together for a report, which limits memory: 40,000 codes of 4,096 latents are 1.3 GB an array."""


@dataclasses.dataclass(frozen=True)
class DensityEstimator(Estimator, abc.ABC):
    """Algorithm 3 for any density: a subclass says which one, and how it starts."""

    preset: Literal["default", "paper"] = "default"
    """Values of the settings that are not given. paper has those of DMVI appendix A.4, which take days on a CPU."""
    steps: int = 3000
    """Largest number of steps of Adam; the fit stops earlier when the density of the validation codes stops improving."""
    batch_size: int = 256
    """Number of fresh codes in a step, drawn at random from the posteriors of the fit points."""
    lr: float = 1e-3
    """Learning rate of Adam at the start of the fit."""
    decay: bool = True
    """Let the learning rate fall to zero along half a cosine."""
    patience: int = 10
    """Number of checks on the validation codes (50 in a whole fit) without an improvement after which the fit stops."""
    whiten: bool = True
    """Whiten the codes, that is remove linear correlations, before the fit; otherwise each latent is only standardised, as is
    usual."""
    num_samples: int = 40_000
    """Number of codes for each reported value."""

    requires: ClassVar[frozenset[str]] = frozenset({"prior-density", "volume"})
    takes: ClassVar[frozenset[str]] = frozenset({"groups"})
    PAPER: ClassVar[Mapping[str, Any]] = {}
    """Settings of `preset="paper"`."""

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 4 if field.name == "num_samples" else 1
            if field.type == "int" and value < least:
                raise InputError(f"{self.method} needs {field.name} to be at least {least}; got {value}.")
        if not 0 < self.lr < math.inf:
            raise InputError(f"{self.method} needs lr to be positive and finite; got {self.lr}.")

    @property
    def method(self) -> str:
        """Name on the command line, which is that of the file."""
        return registry.name_of(self)

    @abc.abstractmethod
    def start(self, fit: torch.Tensor, stop: torch.Tensor, generator: torch.Generator) -> tuple[nn.Module, dict[str, Any]]:
        """Make the model before Adam, and facts about it for `details`.

        Args:
            fit, stop: Whitened codes to start from and to validate on, shapes (m, D) and (k, D), float64.
            generator: Source of all randomness.
        Returns:
            A module that maps u of shape (m, D) to log t(u) in nats, shape (m,), in the precision it trains in.
        """

    def settings(self) -> DensityEstimator:
        """These settings, with the preset's values in place of all defaults."""
        return self if self.preset == "default" else registry.with_preset(self, self.PAPER)

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate E[log t - log p] in nats, a lower bound of KL[q||p] at points not fitted on, of KL[q_N||p] over all points.

        The data points are split in three: t is fitted on fresh codes of the first part, the second chooses the
        weights, the third is reported on, with an error over points. Fresh codes from all N points, independent of t
        given the points, give the empirical bound; its error is that of the draws alone. An encoder known by one
        fixed sample for each point has fresh codes in the third part only, so that only the population's bound is
        reported.

        Returns:
            Population, then empirical; `details` of both: loss curves (-E log t, nats), chosen step, settings, ...
        Raises:
            InputError: there are fewer than 20 points, a latent never varies, or the fit diverged at once.
        Reference: DMVI Algorithm 3 and appendix A.4.
        """
        started, chosen, q = time.perf_counter(), self.settings(), as_posterior(posterior)
        check_prior(q, prior)
        need_volume(q, prior, self.method)
        if infinite := _outside(q, prior):
            told, targets = {"reason": infinite}, TARGETS[: 1 if isinstance(q, SampleOnly) else 2]
            return tuple(Estimate(self.method, target, "lower", math.inf, 0.0, details=told) for target in targets)
        split = split_points(q, generator, method=self.method)
        density, details = chosen._fit(q, prior, split, generator, progress)
        details["fit_seconds"] = time.perf_counter() - started
        reports = {"population": population(density, q, split.report, self.num_samples, generator)}
        if not isinstance(q, SampleOnly):
            reports["empirical"] = empirical(density, q, self.num_samples, generator)
        progress(chosen.steps, chosen.steps, f"KL at least {reports['population'].value:.4g} nats")
        seconds = time.perf_counter() - started
        return tuple(
            Estimate(self.method, target, "lower", r.value, r.std_error, "kl", r.num_samples, seconds, details)  # type: ignore[arg-type]
            for target, r in reports.items()
        )

    def _fit(
        self, q: Posterior, prior: Distribution, split: Split, generator: torch.Generator, progress: Progress
    ) -> tuple[MixedWithPrior, dict[str, Any]]:
        """Fit the density, and say how it was found."""
        fit = _draw(q, split.fit, FIT_DRAWS, generator)
        stop = _draw(q, split.stop, STOP_DRAWS, generator)
        whitening = whiten(fit, stop, correlations=self.whiten)
        white_stop = whitening.white(stop)
        model, details = self.start(whitening.white(fit), white_stop, generator)

        def batch_loss(model: nn.Module) -> torch.Tensor:
            chance = torch.randint(len(split.fit), (self.batch_size,), generator=generator)
            u = whitening.white(q.sample_at(split.fit[chance], generator))
            return -model(u.to(dtype_of(model))).mean()

        gap = whitening.log_det - float(prior_log_prob(prior, stop).mean())
        fitted = anneal(
            model.to(fit.device),
            batch_loss,
            lambda model: -mean_log_density(model, white_stop),
            Schedule(self.steps, self.lr, BETAS, AVERAGE, max(1, self.steps // EVALUATIONS), self.patience),
            progress,
            decay=self.decay,
            method=self.method,
            note=lambda loss: f"KL at least {gap - loss:.4g} nats",
        )
        density = MixedWithPrior.of(fitted.network.double(), whitening, prior, stop)
        return density, details | {
            "curves": {name: [[step, loss - whitening.log_det] for step, loss in c] for name, c in fitted.curves.items()},
            "chosen_step": fitted.best_step,
            "steps_done": fitted.steps_done,
            "diverged_at_step": fitted.diverged_at,
            "parameters": sum(p.numel() for p in model.parameters()),
            "prior_weight": density.weight,
            "whitening_shrinkage": whitening.shrinkage,
            "settings": dataclasses.asdict(self),
        }


def _outside(q: Posterior, prior: Distribution) -> str | None:
    """Why the KL is infinite: codes of some points, one each, lie where the prior's density is 0; None where none does."""
    some = torch.randperm(q.num_points, generator=torch.Generator().manual_seed(0))[:STOP_DRAWS]
    return outside_prior(prior_log_prob(prior, q.sample_at(some, torch.Generator().manual_seed(0))))


class MixedWithPrior(NamedTuple):
    """The density (1 - weight) t(z) + weight p(z), float64."""

    model: nn.Module
    whitening: Whitening
    prior: Distribution
    weight: float

    @classmethod
    def of(cls, model: nn.Module, whitening: Whitening, prior: Distribution, stop: torch.Tensor) -> MixedWithPrior:
        """Mix with the weight under which the validation codes `stop` are most likely."""
        alone = cls(model, whitening, prior, 0.0)
        return alone._replace(weight=best_prior_weight(alone.log_ratio(stop)))

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Log of this density over p(z) in nats, never below log weight; shape (m,)."""
        ratio = log_density(self.model, self.whitening.white(z)) + self.whitening.log_det - prior_log_prob(self.prior, z)
        if self.weight == 0:
            return ratio
        return torch.logaddexp(ratio + math.log1p(-self.weight), torch.full_like(ratio, math.log(self.weight)))


def best_prior_weight(log_ratio: torch.Tensor) -> float:
    """Find w in [0, 1) that maximises mean log((1 - w) t/p + w), a concave function of w, by bisection of its slope."""
    ratio = log_ratio.clamp(max=50.0).exp()
    low, high = 0.0, 1.0
    for _ in range(40):
        w = (low + high) / 2
        slope = ((1 - ratio) / (w + (1 - w) * ratio)).mean()
        low, high = (w, high) if slope > 0 else (low, w)
    return low


def dtype_of(model: nn.Module) -> torch.dtype:
    """Precision of a model's weights."""
    return next(model.parameters()).dtype


def log_density(model: nn.Module, u: torch.Tensor) -> torch.Tensor:
    """Compute log t(u) of many codes in the model's precision, without gradients; shape (m,), float64."""
    size = max(min(ROWS, ROW_NUMBERS // u.shape[1]), 1)
    with torch.no_grad():
        return torch.cat([model(rows.to(dtype_of(model))).double() for rows in u.split(size)])


def mean_log_density(model: nn.Module, u: torch.Tensor) -> float:
    """Mean of `log_density`."""
    return float(log_density(model, u).mean())


class Reported(NamedTuple):
    """A mean log-ratio in nats, its standard error and the codes that it is a mean of."""

    value: float
    std_error: float
    num_samples: int


def population(
    density: MixedWithPrior, q: Posterior, held_out: torch.Tensor, num_samples: int, generator: torch.Generator
) -> Reported:
    """Mean log-ratio at points that t was not fitted on; draws of one point are one cluster of the error."""
    points = held_out if isinstance(q, SampleOnly) else _visit(held_out, num_samples, generator)
    mean = mean_error(_log_ratio(density, q, points, generator), cluster_ids(q, points))
    return Reported(mean.value, mean.std_error, len(points))


def empirical(density: MixedWithPrior, q: Posterior, num_samples: int, generator: torch.Generator) -> Reported:
    """Mean log-ratio at fresh codes of points among all N; the error is about the mean over exactly these N."""
    points = _visit(torch.arange(q.num_points), num_samples, generator)
    values = _log_ratio(density, q, points, generator)
    mean = point_mean(values.cpu().numpy(), points.numpy(), q.num_points)
    return Reported(mean.value, math.sqrt(mean.conditional_variance), len(points))


def _log_ratio(density: MixedWithPrior, q: Posterior, points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Log-ratio at a fresh code of each point, shape (m,), drawn in blocks."""
    blocks = points.split(max(NUMBERS // q.dim, 1))
    return torch.cat([density.log_ratio(q.sample_at(block, generator)) for block in blocks])


def _visit(indices: torch.Tensor, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Visit each point equally often where there are draws enough for two rounds, otherwise once or twice in random order."""
    rounds = num_samples // len(indices)
    return indices.repeat(rounds) if rounds >= 2 else indices[visits(len(indices), generator)[:num_samples]]


def _draw(q: Posterior, indices: torch.Tensor, at_most: int, generator: torch.Generator) -> torch.Tensor:
    """Draw codes of points visited evenly; an encoder known by its samples gives each sample once."""
    each = 1 if isinstance(q, SampleOnly) else DRAWS_A_POINT
    return draw_evenly(q, indices, min(at_most, each * len(indices)), generator)
