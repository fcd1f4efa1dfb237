"""Density ratio after an invertible map that makes pooled codes look normal, and a calibrated classifier behind it."""

from __future__ import annotations

import dataclasses

import torch

from klprobe.estimators._gaussianization import Gaussianization
from klprobe.estimators._ratio_estimator import RatioEstimator
from klprobe.estimators._ratio_losses import Loss, logistic

__all__ = ["Gaussianized"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussianized(RatioEstimator):
    """Density ratio after Gaussianizing the pooled codes: for codes whose independent components are far from normal.

    Where q and p hardly overlap, the pooled codes are two lumps that the map presses together, and the mean log-ratio comes out
    far too high (analyses/dimension_scaling); the bounds hold.
    """

    def loss(self) -> Loss:
        """Cross-entropy of the label, q's draws 1."""
        return logistic

    def prepare(self, z: torch.Tensor, generator: torch.Generator) -> Gaussianization:
        """The map in place of the whitening."""
        return Gaussianization.of(z, int(torch.randint(2**31 - 1, (), generator=generator)))
