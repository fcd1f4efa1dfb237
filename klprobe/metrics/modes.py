"""Modes found, and the share of samples near one: for mixtures whose centres are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klprobe.metrics import Score
from klprobe.metrics._statistics import share_error
from klprobe.types import InputError

__all__ = ["Modes"]


@dataclass(frozen=True)
class Modes:
    """Modes found and % high quality of 2-D samples, as in the tables of VEEGAN and best-of-many.

    Exact samples of a plane's normal lie within 3 standard deviations with probability 1 - exp(-9/2) = 98.89 %. The error of
    `modes` is how much their number varies among sets drawn from these samples (the bootstrap's): modes that a few samples
    found are the ones that other samples would miss.

    Reference: Srivastava et al. (2017), VEEGAN, section 4.1; BMS (Bhattacharyya et al. 2019), Table 1.
    """

    reach: float = 3.0
    """Number of standard deviations within which a sample counts as of high quality (both papers: 3)."""

    def measure(self, samples: torch.Tensor, centres: torch.Tensor, std: float) -> tuple[Score, ...]:
        """`modes` that are the nearest to a high-quality sample, and `high-quality`, the share of samples within reach of one.

        Args:
            samples: Samples, shape (m, D).
            centres: Means of the modes, shape (modes, D).
            std: Standard deviation of each mode in each direction.
        Raises:
            InputError: no samples, shapes that disagree, or a standard deviation that is not positive.
        """
        if samples.dim() != 2 or centres.dim() != 2 or samples.shape[1] != centres.shape[1] or not len(samples):
            raise InputError(
                "modes are counted with samples (m, D) and centres (modes, D); got "
                f"{tuple(samples.shape)}, {tuple(centres.shape)}."
            )
        if not std > 0:
            raise InputError(f"the modes' standard deviation must be positive; got {std}.")
        distance, nearest = torch.cdist(samples.double(), centres.double()).min(1)
        good = distance <= self.reach * std
        share = float(good.double().mean())
        details = {"samples": len(samples), "modes": len(centres), "reach": self.reach}
        found = nearest[good].bincount(minlength=len(centres)).double()
        return (
            Score("modes", int((found > 0).sum()), _count_error(found, len(samples)), "higher", details=details),
            Score("high-quality", share, share_error(share, len(samples)), "closer", details=details),
        )


def _count_error(found: torch.Tensor, total: int) -> float:
    """Standard deviation of the number of modes found by `total` fresh draws from the samples, in closed form.

    A mode with share s is missed with probability (1 - s)^n, and two with shares s, t both with (1 - s - t)^n.

    Args:
        found: Number of samples that found each mode, shape (modes,).
        total: Number of all samples, n.
    """
    share = found[found > 0] / total
    missed = (1 - share) ** total
    both = (1 - share[:, None] - share).clamp(min=0) ** total
    covariance = both - missed[:, None] * missed
    covariance.diagonal().copy_(missed * (1 - missed))
    return math.sqrt(max(0.0, float(covariance.sum())))
