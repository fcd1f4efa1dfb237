"""Modes found, and the share of samples near one: for mixtures whose centres are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from klprobe.types import InputError

__all__ = ["Modes"]


class ModeCount(NamedTuple):
    """What samples show of the modes.

    Attributes:
        modes: Modes that are the nearest to at least one high-quality sample.
        high_quality: Share of samples within `reach` standard deviations of a mode.
        std_error: Standard error of `high_quality`, over independent samples.
    """

    modes: int
    high_quality: float
    std_error: float


@dataclass(frozen=True)
class Modes:
    """Modes found and % high quality of 2-D samples, as in the tables of VEEGAN and best-of-many.

    Exact samples of a plane's normal lie within 3 standard deviations with probability 1 - exp(-9/2) = 98.89 %.

    Reference: Srivastava et al. (2017), VEEGAN, section 4.1; BMS (Bhattacharyya et al. 2019), Table 1.
    """

    reach: float = 3.0
    """Standard deviations within which a sample is of high quality (both papers: 3)."""

    def measure(self, samples: torch.Tensor, centres: torch.Tensor, std: float) -> ModeCount:
        """Count.

        Args:
            samples: Shape (m, D).
            centres: Of the modes, shape (modes, D).
            std: Standard deviation of each mode in each direction.
        Raises:
            InputError: no samples, shapes that disagree, or a standard deviation that is not positive.
        """
        if samples.dim() != 2 or centres.dim() != 2 or samples.shape[1] != centres.shape[1] or not len(samples):
            raise InputError(
                f"modes are counted with samples (m, D) and centres (modes, D); got {tuple(samples.shape)}, {tuple(centres.shape)}."
            )
        if not std > 0:
            raise InputError(f"the modes' standard deviation must be positive; got {std}.")
        distance, nearest = torch.cdist(samples.double(), centres.double()).min(1)
        good = distance <= self.reach * std
        share = float(good.double().mean())
        return ModeCount(len(nearest[good].unique()), share, math.sqrt(share * (1 - share) / len(samples)))
