"""The base of classifier and critic: a network whose output is log q/p, fitted on disjoint draws, and what it reports."""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.distributions import Distribution

from klprobe import registry
from klprobe.distributions.whitening import Preparation
from klprobe.estimators._ratio import Activation, Loss, RatioSettings, learn_ratio, whitened
from klprobe.estimators._ratio_report import FIT_LEFT_OUT, calibration, evaluate
from klprobe.estimators._sides import Codes, Sides
from klprobe.types import Estimate, Estimator, InputError, Progress, no_progress

STOP_DRAWS = 20_000
"""Number of validation codes of each side, which choose the weights and the calibration."""
Calibration = Literal["none", "temperature", "isotonic"]

ROUNDS, REACH = 60, 7.0
"""Number of halvings of the interval for the temperature's logarithm, and half the width that it has first."""
SPREAD = 0.5
"""Standard deviation of the temperature's logarithm before any draw is seen."""

Change = Callable[[torch.Tensor], torch.Tensor]
"""A function from log-ratios to log-ratios, elementwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatioEstimator(Estimator, abc.ABC):
    """A network that learns log q/p; a subclass says by which loss."""

    layers: int = 3
    """Number of hidden layers (DMVI tries 3 to 10)."""
    width: int = 128
    """Number of units in each hidden layer (paper: 5000)."""
    activation: Activation = "silu"
    """Activation of the hidden units (paper: leaky-relu); the smooth silu learns fine structure in fewer steps."""
    leaky_slope: float = 0.2
    """Slope of the leaky ReLU below zero (DMVI appendix A.3)."""
    quadratic: bool = True
    """Add a quadratic form of the code to the logit. It is fitted first, which is a convex problem (paper: no)."""
    dropout: float = 0.0
    """Share of the hidden units that a step leaves out (an option of DMVI Table 3, which gives no value)."""
    activation_noise: float = 0.0
    """Standard deviation of Gaussian noise on the hidden units (an option of DMVI Tables 2 and 3, which give no value)."""
    gradient_penalty: float = 0.0
    """Weight of the penalty (|gradient| - 1)^2 between codes of q and of p (an option of DMVI Table 2; 10 in Gulrajani et al.
    2017)."""
    steps: int = 8000
    """Largest number of steps of Adam (paper: 500,000)."""
    batch_size: int = 256
    """Number of fresh codes of q, and of p, in a step (paper: not stated; DMVI has 64 elsewhere)."""
    lr: float = 3e-3
    """Learning rate of Adam at the start of the fit (paper: 5e-4)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of Adam's two running averages (paper: both 0.9)."""
    average: float = 0.998
    """Decay rate, for each step, of the running average of the weights, which is what the report uses (paper: 0, no
    average)."""
    check_every: int = 200
    """Number of steps between two checks on the validation codes (paper: 5000)."""
    patience: int = 4
    """Number of checks without an improvement after which the learning rate falls; the third time, the fit stops. With 0 it
    takes all steps and keeps the last weights (paper: 0)."""
    num_samples: int = 100_000
    """Number of codes of q for each reported expectation."""
    num_prior_samples: int = 1_000_000
    """Number n of codes of p for each reported expectation. It is four times that where logits reach log n - 5, and at most
    10^8 / D beyond 100 latents."""
    moment_samples: int = 0
    """Number of codes of q, and of p, that mean and covariance are computed from. 0 takes 400 for each weight of a quadratic
    form, between 20,000 and 400,000 of them, and 200,000 in a thousand latents."""

    calibrate: Calibration = "temperature"
    """How the log-ratio is corrected on the validation codes: divided by a temperature, or mapped by a clipped isotonic
    regression."""

    requires: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset({"groups"})

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        for name, least, most in _RANGES:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not least <= number < most:
                    raise InputError(
                        f"{self.method} needs {name} from {least:g} up to, not including, {most:g}; got {number:g}."
                    )

    @property
    def method(self) -> str:
        """Name on the command line, which is that of the file."""
        return registry.name_of(self)

    def settings(self) -> RatioEstimator:
        """These settings, with a preset's values where there is one."""
        return self

    def prepare(self, fit: Codes, stop: Codes, generator: torch.Generator) -> Preparation:
        """Make the invertible map of the codes before the network, from codes to fit and to validate on, of both sides."""
        return whitened(fit, stop)

    @abc.abstractmethod
    def loss(self) -> Loss:
        """Loss that is minimised; its optimum must be log q/p."""

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate the mean log-ratio (no bound), NWJ and Donsker-Varadhan, clipped (lower bounds) and not, for both targets.

        The data points are split in three: the network learns from fresh codes of the first part, the second chooses
        its weights, the third is reported on, for the population. Fresh codes from all N points, independent of the
        network given the points, bound the empirical KL; an encoder known by one fixed sample per point has no fresh
        codes, so its estimates are of the population only. Needs samples, no density of either side.

        Returns:
            Five estimates for each target. `details` of the first: loss curves, settings, chosen step, calibration.
        Raises:
            InputError: there are fewer than 20 points or prior samples, or the fit diverged.
        Reference: DMVI Algorithm 2 and appendix A.3; `_ratio_report` for the five numbers.
        """
        started, chosen = time.perf_counter(), self.settings()
        sides = Sides.of(posterior, prior, generator, method=self.method)
        stop_q = sides.once_q(sides.points.stop, STOP_DRAWS)
        stop_p = sides.prior.stop(STOP_DRAWS)
        ratio = RatioSettings(**{f.name: getattr(chosen, f.name) for f in dataclasses.fields(RatioSettings)})
        learned = learn_ratio(
            sides.fit_q,
            sides.fit_p,
            stop_q,
            stop_p,
            ratio,
            generator,
            progress,
            method=self.method,
            loss=chosen.loss(),
            prepare=lambda fit, stop: chosen.prepare(fit, stop, generator),
        )

        log_ratio = learned.network.log_ratio
        on_stop = log_ratio(stop_q), log_ratio(stop_p)
        logits = evaluate(sides, log_ratio, on_stop[0], chosen.num_samples, chosen.num_prior_samples)
        details: dict[str, Any] = {
            "curves": learned.curves,
            "chosen_step": learned.best_step,
            "steps_done": learned.steps_done,
            "start_loss": learned.start_loss,
            "error": FIT_LEFT_OUT,
            "calibration": calibration(logits.on_q[0].log_ratio, logits.on_p),
            "settings": dataclasses.asdict(chosen),
        }
        if chosen.calibrate != "none":
            change, facts = calibrated(chosen.calibrate, *on_stop)
            logits = logits.mapped(change)
            details["calibration_after"] = facts | calibration(logits.on_q[0].log_ratio, logits.on_p)
        found = logits.estimates(self.method)
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
    ("moment_samples", 0, 1e10),
)
"""Settings with their least value and the value that they stay below; a bound needs prior codes for log n - 5 nats."""


def calibrated(
    kind: Literal["temperature", "isotonic"], on_q: torch.Tensor, on_p: torch.Tensor
) -> tuple[Change, dict[str, Any]]:
    """Fit the map after which log-ratios agree with the frequency of the label at held-out draws, and describe it.

    Args:
        kind: `temperature` divides by one number; `isotonic` maps by a rising step function, joined by lines, that can
            say no more than the draws behind each of its ends.
        on_q, on_p: Log-ratios at held-out draws of q (label 1) and of p (label 0), shapes (m,) and (n,), float64.
    Reference: Guo et al. (2017), section 4.2; Zadrozny and Elkan (2002).
    """
    if kind == "temperature":
        temperature = best_temperature(on_q, on_p)
        return (lambda f: f / temperature), {"temperature": temperature}
    return _isotonic(on_q, on_p), {}


def best_temperature(on_q: torch.Tensor, on_p: torch.Tensor) -> float:
    """Find the temperature T for which f / T has the least log-loss, with equal weight of both classes and a prior near 1.

    As a prior, log T is normal with standard deviation 1/2. With thousands of draws that overlap this has no effect; where
    the two sides are told apart without a mistake, so that every T would do, it makes T = 1.
    """
    low, high, draws = -REACH, REACH, len(on_q) + len(on_p)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        slope = math.exp(-middle)
        loss = 0.5 * ((on_p * torch.sigmoid(slope * on_p)).mean() - (on_q * torch.sigmoid(-slope * on_q)).mean())
        # derivative of the summed log-loss and of the prior by log 1/T, which is above zero where 1/T is too large
        gradient = draws * slope * float(loss) - middle / SPREAD**2
        low, high = (middle, high) if gradient > 0 else (low, middle)
    return math.exp((low + high) / 2)


def _isotonic(on_q: torch.Tensor, on_p: torch.Tensor) -> Change:
    from sklearn.isotonic import IsotonicRegression

    f = torch.cat([on_q, on_p]).cpu().numpy()
    label = np.r_[np.ones(len(on_q)), np.zeros(len(on_p))]
    weight = np.r_[np.full(len(on_q), 1 / len(on_q)), np.full(len(on_p), 1 / len(on_p))]
    # the ends have draws of one class alone; one more draw of the other class keeps their probabilities finite
    low, high = 1 / (len(on_q) + 1), len(on_p) / (len(on_p) + 1)
    rising = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(f, label, sample_weight=weight)

    def change(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rising.predict(values.cpu().numpy())).to(values).logit()

    return change
