"""Density ratio by classification: a network tells draws of q from draws of p, its logit is log q/p (Algorithm 2)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch.distributions import Distribution

from klprobe.distributions import SampleOnly, as_posterior, check_prior, sample_prior
from klprobe.estimators._ratio import Activation, RatioNetwork, RatioSettings
from klprobe.estimators._ratio_fit import Draw, learn_ratio
from klprobe.estimators._ratio_report import RatioOnQ, calibration, log_normaliser, ratio_estimates, share_above_ceiling
from klprobe.estimators._shared import draw_evenly, split_points, visit_evenly
from klprobe.types import Estimate, InputError, Posterior, Progress, no_progress

__all__ = ["Classifier"]

METHOD = "classifier"
STOP_DRAWS = 20_000
"""Codes of each side that choose the weights."""
NORMALISER_SHARE = 10
"""Donsker and Varadhan's constant comes from one such part of the number of prior codes that are reported on."""
CUT_SHARE, MORE_PRIOR = 0.01, 4
"""Where the ceiling cuts more than this share of the stop codes, so many times the prior codes are drawn to raise it."""
ROWS = 65_536
"""Prior codes drawn together for the report; bounds memory, not results."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Density ratio of a classifier between q(z) and p(z) (Algorithm 2), with NWJ and Donsker-Varadhan bounds."""

    preset: Literal["default", "paper"] = "default"
    """Numbers for settings left alone: `default` fits two CPU cores, `paper` is DMVI's Table 2 (hours, a GPU)."""
    layers: int = 3
    """Hidden layers; DMVI tries 3 to 10."""
    width: int = 128
    """Units of a hidden layer (paper: 5000)."""
    activation: Activation = "silu"
    """Of the hidden units (paper: leaky-relu); the smooth one learns fine structure in fewer steps."""
    leaky_slope: float = 0.2
    """Slope of the leaky ReLU below zero (DMVI appendix A.3)."""
    quadratic: bool = True
    """Add a quadratic form of the code to the logit, fitted first and convexly (paper: no)."""
    whiten: bool = True
    """Whiten the codes by the pooled covariance of both sides (paper: no)."""
    dropout: float = 0.0
    """Share of hidden units left out in a step (an option of DMVI Table 3, without its value)."""
    activation_noise: float = 0.0
    """Standard deviation of Gaussian noise on hidden units (an option of DMVI Tables 2 and 3, without its value)."""
    gradient_penalty: float = 0.0
    """Weight of (|gradient| - 1)^2 between the two clouds (an option of DMVI Table 2; 10 in Gulrajani et al. 2017)."""
    steps: int = 8000
    """Steps of Adam at most (paper: 500,000)."""
    batch_size: int = 256
    """Fresh codes of each side in a step (paper: not stated; 64 is DMVI's batch elsewhere)."""
    lr: float = 3e-3
    """Learning rate of Adam (paper: 5e-4)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of Adam's two averages (paper: both 0.9)."""
    average: float = 0.998
    """Decay rate, per step, of the running average of the weights that is reported on (paper: 0, none)."""
    check_every: int = 200
    """Steps between two looks at the stop draw (paper: 5000)."""
    patience: int = 8
    """Looks without an improvement before the fit stops; 0 takes all steps and keeps the last weights (paper: 0)."""
    num_samples: int = 100_000
    """Codes of q behind each reported expectation."""
    num_prior_samples: int = 1_000_000
    """Codes of p behind each reported expectation, n, or four times that where logits reach log n - 5."""

    requires: ClassVar[frozenset[str]] = frozenset()
    PAPER: ClassVar[Mapping[str, Any]] = {
        "width": 5000,
        "activation": "leaky-relu",
        "quadratic": False,
        "whiten": False,
        "steps": 500_000,
        "batch_size": 64,
        "lr": 5e-4,
        "betas": (0.9, 0.9),
        "average": 0.0,
        "check_every": 5000,
        "patience": 0,
    }
    """What `preset="paper"` sets."""

    def __post_init__(self) -> None:
        """Refuse settings that give no answer."""
        for name, least, most in _RANGES:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not least <= number < most:
                    raise InputError(f"{METHOD} needs {name} from {least:g} up to, not including, {most:g}; got {number:g}.")

    def settings(self) -> Classifier:
        """These settings, with the preset's numbers for all that stand at their defaults."""
        if self.preset == "default":
            return self
        untouched = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) == f.default}
        return dataclasses.replace(self, **{name: value for name, value in self.PAPER.items() if name in untouched})

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Mean logit (no bound), NWJ and Donsker-Varadhan, clipped (lower bounds) and not, for both targets.

        The data points are split in three: the network learns from fresh codes of the first part, the second chooses
        its weights, the third is reported on, for the population. Fresh codes from all N points, independent of the
        network given the points, bound the empirical KL; an encoder known by one fixed sample a point has no fresh
        codes, so its estimates are of the population only. Needs samples, no density of either side.

        Returns:
            Five estimates for each target. `details` of the first: loss curves, settings, chosen step, calibration.
        Raises:
            InputError: fewer than 20 points, or a fit that diverged.
        Reference: DMVI Algorithm 2 and appendix A.3; `_ratio_report` for the five numbers.
        """
        started, chosen, q = time.perf_counter(), self.settings(), as_posterior(posterior)
        check_prior(q, prior)
        points = split_points(q.num_points, generator, method=METHOD)
        stop_q = draw_evenly(q, points.stop, STOP_DRAWS, generator)

        def draw_q(count: int) -> torch.Tensor:
            chance = torch.randint(len(points.fit), (count,), generator=generator)
            return q.sample_at(points.fit[chance], generator)

        def draw_p(count: int) -> torch.Tensor:
            return sample_prior(prior, count, generator).to(stop_q.device)

        ratio = RatioSettings(**{f.name: getattr(chosen, f.name) for f in dataclasses.fields(RatioSettings)})
        learned = learn_ratio(draw_q, draw_p, stop_q, draw_p(STOP_DRAWS), ratio, generator, progress, method=METHOD)
        network = learned.network
        constant = log_normaliser(_on_prior(network, draw_p, chosen.num_prior_samples // NORMALISER_SHARE))
        cut = share_above_ceiling(network.log_ratio(stop_q), chosen.num_prior_samples)
        on_p = _on_prior(network, draw_p, chosen.num_prior_samples * (MORE_PRIOR if cut > CUT_SHARE else 1))
        reported = _on_posterior(network, q, points.report, chosen.num_samples, generator)
        details = {
            "curves": learned.curves,
            "chosen_step": learned.best_step,
            "steps_done": learned.steps_done,
            "start_loss": learned.start_loss,
            "calibration": calibration(reported[0].log_ratio, on_p),
            "settings": dataclasses.asdict(chosen),
        }
        found = [e for on_q in reported for e in ratio_estimates(METHOD, on_q, on_p, constant)]
        found[0] = dataclasses.replace(found[0], details=details)
        progress(chosen.steps, chosen.steps, f"at least {found[1].value:.3g} nats")
        seconds = time.perf_counter() - started
        return tuple(dataclasses.replace(e, seconds=seconds) for e in found)


_RANGES = (
    ("layers", 1, 1000),
    ("width", 1, 1e6),
    ("leaky_slope", 0, 1),
    ("dropout", 0, 1),
    ("activation_noise", 0, 1e6),
    ("gradient_penalty", 0, 1e6),
    ("steps", 1, 1e9),
    ("batch_size", 1, 1e7),
    ("lr", 1e-30, 1e30),
    ("betas", 0, 1),
    ("average", 0, 1),
    ("check_every", 1, 1e9),
    ("patience", 0, 1e9),
    ("num_samples", 4, 1e10),
    ("num_prior_samples", 1000, 1e10),
)
"""Settings with the least value and the value that they stay below; a bound needs log n - 5 nats of prior codes."""


def _on_prior(network: RatioNetwork, draw_p: Draw, count: int) -> torch.Tensor:
    """Logits at fresh prior codes, shape (count,)."""
    sizes = [ROWS] * (count // ROWS) + [count % ROWS] * (count % ROWS > 0)
    return torch.cat([network.log_ratio(draw_p(size)) for size in sizes])


def _on_posterior(
    network: RatioNetwork, q: Posterior, held_out: torch.Tensor, num_samples: int, generator: torch.Generator
) -> list[RatioOnQ]:
    """Logits at codes of held-out points, then at fresh codes of all points, each visited at least twice for the error."""
    if isinstance(q, SampleOnly):
        return [RatioOnQ("population", network.log_ratio(q.sample_at(held_out, generator)), held_out, q.num_points)]
    visited = visit_evenly(held_out, num_samples, generator)
    twice = visit_evenly(torch.arange(q.num_points), num_samples // 2, generator).repeat(2)
    return [
        RatioOnQ("population", network.log_ratio(q.sample_at(visited, generator)), visited, q.num_points),
        RatioOnQ("empirical", network.log_ratio(q.sample_at(twice, generator)), twice, q.num_points),
    ]
