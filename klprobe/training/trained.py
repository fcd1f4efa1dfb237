"""A trained system as one class: codes of points, points of codes, densities; and what any system can be asked to make."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.distributions.posteriors import (
    ConditionalDistribution,
    DiagonalGaussian,
    SampleOnly,
    diagonal_normal,
    standard_normal,
)
from klprobe.training.checkpoint import Checkpoint
from klprobe.training.data import Data
from klprobe.types import CapabilityError, Progress, no_progress

POINTS_AT_ONCE = 1000
"""Data points encoded at a time, at most: bounds memory, not results (batch statistics are frozen)."""
NOISE_SEED = 0
"""Seed of an implicit encoder's noise: it is drawn once, when the file is read, and is the same for every run."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint as metrics ask it (`klprobe.metrics.Model`), on its device; what comes out is on the CPU."""

    checkpoint: Checkpoint
    device: str = "cpu"

    @property
    def latent_dim(self) -> int:
        """D, the number of latents."""
        return int(self.checkpoint.algorithm.latent_dim)

    @property
    def prior(self) -> Distribution:
        """p(z), N(0, I) unless the system says otherwise."""
        return getattr(self.checkpoint.algorithm, "prior_distribution", None) or standard_normal(self.latent_dim)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Points of codes, differentiable, shape (m, *shape)."""
        self._has("decode", "no generator")
        if has_classes(self.checkpoint.algorithm):
            raise CapabilityError(f"{self._system} decodes only codes whose class is known")
        return self.checkpoint.algorithm.decode(self.checkpoint.networks, z.float().to(self.device)).cpu()

    @property
    def conditional(self) -> bool:
        """Whether q(z|x, y) and p(x|z, y) need labels."""
        return bool(getattr(self.checkpoint.algorithm, "conditional", False))

    def posterior(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> ConditionalDistribution:
        """q(z|x), or q(z|x, y), of at least 2 points, batch shape (m,), event shape (D,), on the CPU."""
        self._has("encode", "no encoder")
        return encode(self.checkpoint, Data("the given points", "given", x, labels), self.device)

    def draw(
        self, x: torch.Tensor, num: int, generator: torch.Generator, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z ~ q(z|x), shape (num, m, D), and their log-densities, shape (num, m)."""
        q = self.posterior(x, labels)
        if not q.has_log_prob:
            raise CapabilityError(f"the encoder of {self._system} gives samples and no density log q(z|x)")
        everyone = torch.arange(len(x))
        z = [q.sample_at(everyone, generator) for _ in range(num)]
        return torch.stack(z).cpu(), torch.stack([q.log_prob_at(codes, everyone) for codes in z]).cpu()

    @torch.no_grad()
    def log_likelihood(
        self, x: torch.Tensor, z: torch.Tensor, generator: torch.Generator, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """log p(x|z), or log p(x|z, y), of each pair in nats, shape (m,)."""
        self._has("log_likelihood", "no density p(x|z)")
        noise = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        x, z = x.to(self.device), z.float().to(self.device)
        known = () if labels is None else (labels.to(self.device),)
        return self.checkpoint.algorithm.log_likelihood(self.checkpoint.networks, x, z, noise, *known).cpu()

    @property
    def _system(self) -> str:
        return str(self.checkpoint.settings["system"])

    def _has(self, method: str, lack: str) -> None:
        if not hasattr(self.checkpoint.algorithm, method):
            raise CapabilityError(f"{self._system} has {lack}")


def encode(trained: Checkpoint, data: Any, device: str = "cpu", progress: Progress = no_progress) -> ConditionalDistribution:
    """q(z|x_n) of every point of a `klprobe.datasets` Data, float32, on the CPU; one sample a point without a density.

    A posterior that runs its network for every density keeps the data, on the device, and the network. A conditional system
    gets the labels of the data: q(z|x_n, y_n).

    Raises:
        CapabilityError: a conditional system, and data without labels.
    """
    noise, parts, done = torch.Generator(device).manual_seed(NOISE_SEED), [], 0
    conditional = getattr(trained.algorithm, "conditional", False)
    if conditional and data.labels is None:
        raise CapabilityError(f"the {trained.settings['system']} encodes data of known class, and {data.name} has no labels")

    def of(which: slice, noise: torch.Generator | None) -> Any:
        known = (data.labels[which].to(device),) if conditional else ()
        return trained.algorithm.encode(trained.networks, data.floats(which).to(device), noise, *known)

    with torch.no_grad():
        some = of(slice(0, 2), torch.Generator(device))
        if isinstance(some, ConditionalDistribution) and not isinstance(some, SampleOnly):
            return of(slice(0, len(data)), None)
        # blocks of nearly equal size: the last one never holds a single point, which is no posterior
        for indices in torch.arange(len(data)).tensor_split(math.ceil(len(data) / POINTS_AT_ONCE)):
            parts.append(of(slice(done, done + len(indices)), noise))
            done += len(indices)
            progress(done, len(data))
    if isinstance(parts[0], SampleOnly):
        samples = torch.cat([q.samples for q in parts]).cpu()
        return SampleOnly(samples, deterministic=parts[0].deterministic)
    normals = [diagonal_normal(q) for q in parts]
    means, stds = zip(*(normal for normal in normals if normal is not None), strict=True)
    return DiagonalGaussian(torch.cat(means).cpu(), std=torch.cat(stds).cpu())


def has_classes(algorithm: Any) -> bool:
    """Whether its codes are decoded to points of a class."""
    return bool(getattr(algorithm, "by_class", False))


def classes_in_turn(algorithm: Any, num: int, device: torch.device | None = None) -> torch.Tensor:
    """The classes 0, 1, 2, ... over and over, shape (num,): those of samples for which none are asked."""
    return torch.arange(num, device=device) % algorithm.classes


def decode(algorithm: Any, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
    """Data points of codes, shape (num, *shape); where there are classes, of every class in turn."""
    if not has_classes(algorithm):
        return algorithm.decode(networks, z)
    return algorithm.decode(networks, z, classes_in_turn(algorithm, len(z), z.device))


@torch.no_grad()
def sample(algorithm: Any, networks: nn.ModuleDict, num: int, noise: torch.Generator) -> torch.Tensor:
    """Data points G(z), z ~ p(z), shape (num, *shape), of networks in eval mode; of every class in turn."""
    return decode(algorithm, networks, algorithm.prior(num, noise))


@torch.no_grad()
def reconstruct(
    algorithm: Any, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """Data points G(z), z ~ q(z|x), shape of x, of networks in eval mode.

    Raises:
        CapabilityError: no `labels`, shape (batch,), where the system has classes.
    """
    known: tuple[torch.Tensor, ...] = ()
    if has_classes(algorithm):
        if labels is None:
            raise CapabilityError("a system with classes reconstructs data of known class: choose a data set with labels")
        known = (labels.to(x.device),)
    q = algorithm.encode(networks, x, noise, *known)
    if isinstance(q, SampleOnly):
        z = q.samples
    elif isinstance(q, ConditionalDistribution):
        seed = int(torch.randint(2**62, (), generator=noise, device=noise.device))
        z = q.sample_at(torch.arange(len(x)), torch.Generator().manual_seed(seed)).to(x)
    else:
        z = q.mean + q.stddev * torch.randn(q.mean.shape, generator=noise, device=noise.device)
    return algorithm.decode(networks, z, *known)
