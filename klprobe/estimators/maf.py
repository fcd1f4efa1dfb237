"""Masked autoregressive flow: Algorithm 3 with `klprobe.distributions.flows.Flow`, which can be kept and used as a prior."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.distributions.flows import Flow, save_flow
from klprobe.estimators._density import DensityEstimator, MixedWithPrior
from klprobe.estimators._gaussian_mixture import start_mixture
from klprobe.estimators._sides import Split
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.randomness import seeded
from klprobe.types import InputError, Posterior, Progress

__all__ = ["Maf"]

EM_ITERATIONS = 10
"""Number of iterations of EM, enough for a base that the flows then improve."""


@dataclasses.dataclass(frozen=True)
class Maf(DensityEstimator):
    """Masked autoregressive flow (Algorithm 3): for latents that depend on each other."""

    flows: int = 3
    """Number of affine autoregressive transforms in a row; the order of the latents is reversed after each."""
    width: int = 256
    """Number of hidden units in each layer."""
    layers: int = 1
    """Number of hidden layers that each network has after its first one."""
    components: int = 30
    """Largest number of Gaussians in the density that the flows transform, started by EM; 1 is the standard normal of the
    paper."""
    steps: int = 4000
    """Largest number of steps of Adam; the fit stops earlier when the density of the validation codes stops improving."""
    lr: float = 3e-3
    """Learning rate of Adam at the start of the fit."""
    save: Path | None = None
    """File to save the fitted flow to, for a later --prior flow:FILE; by default it is not saved."""

    PAPER: ClassVar[Mapping[str, Any]] = {
        "flows": 3,
        "width": 1024,
        "layers": 2,
        "components": 1,
        "lr": 5e-4,
        "decay": False,
        "whiten": False,
        "steps": 100_000,
    }

    def start(self, fit: torch.Tensor, stop: torch.Tensor, generator: torch.Generator) -> tuple[nn.Module, dict[str, Any]]:
        """Start from flows near the identity over a mixture after a few iterations of EM."""
        base = start_mixture(fit, stop, self.components, EM_ITERATIONS, generator)
        with seeded(generator):
            return Flow(base.float(), fit.shape[1], self.flows, self.width, self.layers), {"components": len(base.means)}

    def _fit(
        self, q: Posterior, prior: Distribution, split: Split, generator: torch.Generator, progress: Progress
    ) -> tuple[MixedWithPrior, dict[str, Any]]:
        """Fit the density, then save the flow to `save`, without the share of the prior that the bound adds."""
        if self.save is not None:
            _check_folder(self.save)
        density, details = super()._fit(q, prior, split, generator, progress)
        details["settings"]["save"] = None if self.save is None else str(self.save)
        if self.save is not None and isinstance(density.model, Flow):
            told = {name: details[name] for name in ("settings", "chosen_step", "whitening_shrinkage", "prior_weight")}
            save_flow(self.save, density.model, density.whitening, {**told, "versions": versions(), "commit": commit()})
        return density, details


def _check_folder(path: Path) -> None:
    """Raise InputError before the fit where its result could not be saved."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--maf.save {path} cannot be written: give a file in a folder that exists and can be written to.")
