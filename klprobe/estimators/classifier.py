"""Density ratio by classification: a network separates draws of q from draws of p, and its logit is log q/p (Algorithm 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from klprobe import registry
from klprobe.distributions.whitening import Preparation, Whitening
from klprobe.estimators._ratio import Loss, logistic, whitened
from klprobe.estimators._ratio_estimator import RatioEstimator
from klprobe.estimators._sides import Codes

__all__ = ["Classifier"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(RatioEstimator):
    """Density ratio of a classifier between q(z) and p(z) (Algorithm 2), with NWJ and Donsker-Varadhan bounds."""

    preset: Literal["default", "paper"] = "default"
    """Values of the settings that are not given. default suits two CPU cores, and paper is Table 2 of DMVI (hours on a GPU)."""
    whiten: bool = True
    """Whiten the codes by the pooled covariance of q and p (paper: no)."""

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
        "calibrate": "none",
    }
    """Settings of `preset="paper"`."""

    def settings(self) -> Classifier:
        """These settings, with the preset's values in place of all defaults."""
        return self if self.preset == "default" else registry.with_preset(self, self.PAPER)

    def loss(self) -> Loss:
        """Cross-entropy of the label, which is 1 for draws of q."""
        return logistic

    def prepare(self, fit: Codes, stop: Codes, generator: torch.Generator) -> Preparation:
        """Whiten the codes, or leave them as they are."""
        return whitened(fit, stop) if self.whiten else Whitening.none(fit[0])
