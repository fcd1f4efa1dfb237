"""Modes found, and the share of samples near one: for mixtures whose centres are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klprobe.metrics._shared import Score
from klprobe.types import InputError

__all__ = ["Modes"]


@dataclass(frozen=True)
class Modes:
    """Modes found and % high quality of 2-D samples, as in the tables of VEEGAN and best-of-many.

    Exact samples of a plane's normal lie within 3 standard deviations with probability 1 - exp(-9/2) = 98.89 %.

    Reference: Srivastava et al. (2017), VEEGAN, section 4.1; BMS (Bhattacharyya et al. 2019), Table 1.
    """

    reach: float = 3.0
    """Standard deviations within which a sample is of high quality (both papers: 3)."""

    def measure(self, samples: torch.Tensor, centres: torch.Tensor, std: float) -> tuple[Score, ...]:
        """`modes` that are the nearest to a high-quality sample, and `high-quality`, the share of samples within reach of one.

        Args:
            samples: Shape (m, D).
            centres: Of the modes, shape (modes, D).
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
        lucky = "a mode that one sample more would find is not counted: no error is known"
        return (
            Score("modes", len(nearest[good].unique()), None, "higher", reason=lucky, details=details),
            Score("high-quality", share, math.sqrt(share * (1 - share) / len(samples)), "closer", details=details),
        )
