"""Density ratio after an invertible map that makes codes look normal, and a calibrated classifier behind it."""

from __future__ import annotations

import dataclasses

import torch

from klprobe.estimators._gaussianization import Codes, Preparation, most_normal
from klprobe.estimators._ratio_estimator import RatioEstimator
from klprobe.estimators._ratio_losses import Loss, logistic

__all__ = ["Gaussianized"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussianized(RatioEstimator):
    """Density ratio after Gaussianizing the codes: for codes whose independent components are far from normal.

    The map is fitted to the pooled codes, to either side's alone, or is the plain whitening: what makes both sides most
    nearly normal, by held-out likelihood.
    """

    def loss(self) -> Loss:
        """Cross-entropy of the label, q's draws 1."""
        return logistic

    def prepare(self, fit: Codes, stop: Codes, generator: torch.Generator) -> Preparation:
        """The map in place of the whitening."""
        return most_normal(fit, stop, int(torch.randint(2**31 - 1, (), generator=generator)))
