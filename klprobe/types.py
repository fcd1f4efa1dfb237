"""What everyone agrees on: an estimate and what it claims, a check, a posterior, an estimator.

This module imports nothing of klprobe and no heavy library, so that everything may import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.distributions import Distribution

Bound = Literal["exact", "lower", "upper", "none"]
Target = Literal["empirical", "population"]
Severity = Literal["error", "warning"]
Verdict = Literal["resolved", "floor-limited", "methods-disagree", "impossible"]


class InputError(ValueError):
    """The input cannot be used; the message says what was given and what to do (exit code 2)."""


class CapabilityError(InputError):
    """A method needs something that this posterior or prior cannot give, such as a density."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number in nats with its standard error; `value` None means no finite value, and `reason` says why."""

    value: float | None
    std_error: float | None = 0.0
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One number, what it speaks of and which side it errs on.

    Attributes:
        method: Command-line name of the estimator, as `monte-carlo`.
        quantity: `kl`, or the finer name when a method reports several (`nwj`, `leave-one-out`, ...).
            `mutual-information` and `average-kl` are not estimates of KL[q||p] and enter no bracket.
        target: `empirical` is KL[q_N||p] of the N points at hand; `population` is KL[q||p].
        bound: Which side of the target's KL the expected value lies on.
        value: Nats.
        std_error: Nats; for `empirical` conditional on the N points, for `population` over data sets.
        num_samples: Draws of z behind the value (0 for a closed form).
        seconds: Wall time of the whole method.
        details: What the method learned: loss curves, chosen settings, warnings. Strict-JSON values only.
    """

    method: str
    target: Target
    bound: Bound
    value: float
    std_error: float
    quantity: str = "kl"
    num_samples: int = 0
    seconds: float = 0.0
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


NOT_A_KL = frozenset({"mutual-information", "average-kl"})
"""Quantities that an estimator may report beside the KL and that never enter a bracket."""


INTERRUPTED = "the run was interrupted"
"""Why something that was asked for is not there after Ctrl-C."""


class InterruptedEstimate(KeyboardInterrupt):
    """Ctrl-C in the middle of a method that can say something already: `estimates` is what it has."""

    def __init__(self, estimates: tuple[Estimate, ...]) -> None:
        super().__init__(INTERRUPTED)
        self.estimates = estimates


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that must hold of any correct result, whether it did, and what to do when it did not."""

    name: str
    severity: Severity
    passed: bool
    message: str


@dataclasses.dataclass(frozen=True)
class Side:
    """One end of a bracket: the value and standard error of the method that gives the best bound."""

    value: float | None
    std_error: float | None
    method: str | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Bracket:
    """[best lower bound, best upper bound] of one target, in nats.

    `interval` is a 95 % confidence interval for the target, all methods' errors considered; None at an open end.
    """

    lower: Side
    upper: Side
    interval: tuple[float | None, float | None] | None = None


class Progress(Protocol):
    """Receives how far a method is; what it does with that is the caller's business."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Say that `done` of `total` units of work are behind us; `note` is the current value or loss."""


def no_progress(done: float, total: float, note: str = "") -> None:
    """The progress receiver that does nothing."""


class Posterior(Protocol):
    """N conditionals q(z|x_n). Any torch Distribution of batch shape (N,) and event shape (D,) can be made one.

    `klprobe.distributions.posteriors.as_posterior` makes it. Indices name data points; z has shape (m, D), float64.
    """

    has_log_prob: bool

    @property
    def num_points(self) -> int:
        """N, the number of data points."""

    @property
    def dim(self) -> int:
        """D, the number of latents."""

    @property
    def mean(self) -> torch.Tensor:
        """Means, shape (N, D); NotImplementedError where they are not known."""

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw z_i ~ q(z|x_{indices_i}); shape (m, D), float64."""

    def log_prob_at(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_{indices_i}) in nats; shape (m,), float64. Raises CapabilityError without a density."""

    def log_prob_matrix(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_n) of every pair in nats; shape (len(z), len(indices)), float64."""

    def select(self, indices: torch.Tensor) -> Posterior:
        """The posterior of a subset of the points, in the order of `indices`."""


@runtime_checkable
class Estimator(Protocol):
    """A frozen dataclass of settings; keeps no state, so one instance serves any number of posteriors.

    An estimator inherits from this class, and overrides, by a setting or a class variable, what does not hold of it.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """Of `posterior-density`, `prior-density` and `volume` (codes neither discrete nor on a simplex): what the method needs."""
    in_parallel: ClassVar[bool] = False
    """Whether several processes share its work (klprobe.runtime.parallel)."""

    @property
    def preset(self) -> str:
        """Name of a set of settings, `default` for a method's own; others may be large, and run on all threads."""
        return "default"

    @property
    def width(self) -> int:
        """Units of a hidden layer, 0 without networks: small networks run on one thread."""
        return 0

    @property
    def device(self) -> str | None:
        """Where it computes, `cpu` unless told otherwise; None: the method has no choice."""
        return None

    @property
    def partial(self) -> Path | None:
        """File that keeps what is done until the method is; None: nothing is kept."""
        return None

    @property
    def resume(self) -> bool:
        """Whether it goes on from `partial`."""
        return False

    def cost(self, posterior: Posterior) -> str | None:
        """What a run that will be long takes, in words; None where it is not long, or not known."""
        return None

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """One `Estimate` per (quantity, target, bound).

        Args:
            posterior: Distribution with batch shape (N,) and event shape (D,).
            prior: Distribution with batch shape () and event shape (D,).
            generator: Source of all randomness, on the CPU; the global one is left untouched.
            progress: Called now and then with the work done and the work in all.
        Raises:
            CapabilityError: a needed density is missing.
            InputError: too few points, a fit that diverged, and what to change.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class NotDone:
    """A method that was asked for and gave no estimate, and why."""

    method: str
    reason: str


@dataclasses.dataclass(frozen=True)
class RadiusHistogram:
    """Densities of |z| under q(z) and p(z) over common bins; shapes (bins + 1,), (bins,), (bins,)."""

    edges: tuple[float, ...]
    posterior: tuple[float, ...]
    prior: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class PartReport:
    """What is known of some of the latents by themselves, against their own part of the prior.

    Attributes:
        name: As `level 0`, `channel 3`, `classes`.
        kind: `latents`, some of the continuous ones, or `classes`, a categorical latent.
        size: How many latents, or classes.
        average_kl, mutual_information, brackets, estimates: As in the report, of this part alone; `estimates` holds all three.
        reason: Why there are no numbers; None when there are.
    """

    name: str
    kind: str
    size: int
    average_kl: Quantity
    mutual_information: Quantity
    brackets: Mapping[str, Bracket]
    estimates: tuple[Estimate, ...]
    reason: str | None = None
