"""Types that all rooms share: an estimate and what it claims, a check, a posterior, an estimator.

This module imports nothing of klprobe and no heavy library, so that everything may import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.distributions import Distribution

Bound = Literal["exact", "lower", "upper", "none"]
Target = Literal["empirical", "population"]
Severity = Literal["error", "warning", "unknown"]
"""How grave a check that did not pass is; unknown: what it asks is not known, so that it neither passed nor failed."""
Verdict = Literal["resolved", "floor-limited", "methods-disagree", "impossible"]


class InputError(ValueError):
    """The input cannot be used; the message says what was given and what to do (exit code 2)."""


class RunWarning(UserWarning):
    """Something that a user should know of, and that does not stop the run; the command line prints it."""


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
    """One number, the quantity and target that it estimates, and the side that it bounds.

    Attributes:
        method: Command-line name of the estimator, as `monte-carlo`.
        quantity: Name `kl`, or a finer name when a method reports several (`nwj`, `leave-one-out`, ...).
            `mutual-information` and `average-kl` are not estimates of KL[q||p] and enter no bracket.
        target: Target of the estimate: `empirical` is KL[q_N||p] of the N points at hand; `population` is KL[q||p].
        bound: Side of the target's KL on which the expected value lies.
        value: Value in nats.
        std_error: Standard error in nats; for `empirical` given the N points, for `population` over data sets.
        num_samples: Number of draws of z (0 for a closed form).
        seconds: Wall time of the whole method, in seconds.
        details: Loss curves, chosen settings and warnings of the method, as strict-JSON values.
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
"""Reason for a missing result after Ctrl-C."""


class InterruptedEstimate(KeyboardInterrupt):
    """Raised by Ctrl-C in a method that has an answer already: `estimates` has the estimates so far."""

    def __init__(self, estimates: tuple[Estimate, ...]) -> None:
        super().__init__(INTERRUPTED)
        self.estimates = estimates


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition that must hold for any correct result, whether it holds, and what to do when it does not."""

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

    `interval` is a 95 % confidence interval for the target, which includes all methods' errors; None at an open end.
    """

    lower: Side
    upper: Side
    interval: tuple[float | None, float | None] | None = None


class Progress(Protocol):
    """A function that receives how far a method is."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Receive that `done` of `total` units of work are done; `note` is the current value or loss."""


def no_progress(done: float, total: float, note: str = "") -> None:
    """Receive progress, and do nothing with it."""


class Posterior(Protocol):
    """N conditionals q(z|x_n); any torch Distribution of batch shape (N,) and event shape (D,) can be turned into one.

    `klprobe.distributions.posteriors.as_posterior` does so. Indices name data points; z has shape (m, D), float64.
    """

    has_log_prob: bool
    weights: torch.Tensor | None
    """Weight of each row, shape (N,), of mean 1; None: all weigh the same."""
    groups: torch.Tensor | None
    """Group of each row, shape (N,); None: every row is independent of the others."""

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
    """A frozen dataclass of settings, which keeps no state, so that one instance serves any number of posteriors.

    An estimator inherits from this class, and overrides, by a setting or a class variable, whatever is different for it.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """What the method needs of `posterior-density`, `prior-density` and `volume` (codes neither discrete nor on a simplex)."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Those of `weights` and `groups` of points that the numbers and errors of the method take into account."""
    in_parallel: ClassVar[bool] = False
    """Whether several processes share its work (klprobe.runtime.parallel)."""

    @property
    def preset(self) -> str:
        """Name of a set of settings; `default` has the method's own, and others may be large, and run on all threads."""
        return "default"

    @property
    def width(self) -> int:
        """Number of units in a hidden layer, 0 without networks; small networks run on one thread."""
        return 0

    @property
    def device(self) -> str | None:
        """Device that it computes on; None where the method has no choice."""
        return None

    @property
    def partial(self) -> Path | None:
        """File that keeps the draws until the method is done; None keeps nothing."""
        return None

    @property
    def resume(self) -> bool:
        """Whether it continues from `partial`."""
        return False

    def cost(self, posterior: Posterior) -> str | None:
        """Say how long a long run will take; None where it is short, or not known."""
        return None

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Compute one `Estimate` for each (quantity, target, bound).

        Args:
            posterior: Distribution with batch shape (N,) and event shape (D,).
            prior: Distribution with batch shape () and event shape (D,).
            generator: Source of all randomness, on the CPU; torch's global one is not changed.
            progress: Function that is called now and then with the work done and the work in all.
        Raises:
            CapabilityError: a density that the method needs is missing.
            InputError: there are too few points, or a fit diverged; the message says what to change.
        """
        raise NotImplementedError


LONG_TAIL = 0.7
"""Tail index from which a mean is not to be trusted (Vehtari et al. 2024, section 3)."""
LARGE_SHARE = 0.15
"""Share of the sum of squares that the largest draw has where there is no variance; it falls like 1/n where there is one."""


class Tail(NamedTuple):
    """What the largest of some draws say of their mean.

    Attributes:
        k: The tail's index, about 0 for tails that fall off exponentially, below it for bounded ones; from 0.5 on there is no
            variance.
        share: Part of the draws' sum of squares about their mean that the largest has alone.
    """

    k: float
    share: float

    @property
    def spoils(self) -> bool:
        """Whether the mean is not to be trusted: its tail is long, and more than a short piece of the distribution's end.

        Ratios of densities often have a flat top and a few draws beyond it, on which the index alone gives alarm.
        """
        return self.k >= LONG_TAIL and self.share >= LARGE_SHARE


@dataclasses.dataclass(frozen=True)
class NotDone:
    """A method that gave no estimate, and the reason."""

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
    """The report of some of the latents by themselves, against their own part of the prior.

    Attributes:
        name: Name, such as `level 0`, `channel 3`, `classes`.
        kind: Kind `latents` for some of the continuous ones, or `classes` for a categorical latent.
        size: Number of latents, or of classes.
        average_kl, mutual_information, brackets, estimates: Results for this part alone; `estimates` has all estimates.
        reason: Reason why there are no numbers; None when there are.
    """

    name: str
    kind: str
    size: int
    average_kl: Quantity
    mutual_information: Quantity
    brackets: Mapping[str, Bracket]
    estimates: tuple[Estimate, ...]
    reason: str | None = None
