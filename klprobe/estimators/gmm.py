"""Gaussian mixture: Algorithm 3 with diagonal components, started by EM and finished by Adam on fresh codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from klprobe.estimators._density import DensityEstimator
from klprobe.estimators._gaussian_mixture import start_mixture

__all__ = ["Gmm"]


@dataclasses.dataclass(frozen=True)
class Gmm(DensityEstimator):
    """Gaussian mixture with diagonal components (Algorithm 3): a lower bound in seconds, good where q(z) falls into groups."""

    components: int = 100
    """Largest number of Gaussians (DMVI: 10, 50, 100). Fewer are tried too, and the number that EM fits best on validation
    codes is kept."""
    em_iterations: int = 20
    """Number of iterations of EM, which starts from k-means and comes before Adam."""
    steps: int = 3000
    """Largest number of steps of Adam; the fit stops earlier when the density of the validation codes stops improving."""
    batch_size: int = 1024
    """Number of fresh codes in a step, drawn at random from the posteriors of the fit points."""
    lr: float = 1e-2
    """Learning rate of Adam at the start of the fit."""

    PAPER: ClassVar[Mapping[str, Any]] = {"components": 100, "lr": 5e-4, "decay": False, "whiten": False, "steps": 100_000}

    def start(self, fit: torch.Tensor, stop: torch.Tensor, generator: torch.Generator) -> tuple[nn.Module, dict[str, Any]]:
        """Start from the mixture after EM."""
        mixture = start_mixture(fit, stop, self.components, self.em_iterations, generator)
        return mixture, {"components": len(mixture.means)}
