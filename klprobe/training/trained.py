"""A trained system as one class: codes of points, points of codes, densities, samples, and which of these it can do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.distributions import Distribution

from klprobe.distributions.posteriors import (
    ConditionalDistribution,
    DiagonalGaussian,
    SampleOnly,
    diagonal_normal,
    standard_normal,
)
from klprobe.training.checkpoint import Checkpoint, load_checkpoint
from klprobe.training.data import Data
from klprobe.training.loop import Capability
from klprobe.types import CapabilityError, Progress, no_progress

POINTS_AT_ONCE = 1000
"""Largest number of data points encoded at a time, which limits memory and changes no result."""
NOISE_SEED = 0
"""Seed of an implicit encoder's noise where no generator is given, the same for every run."""
LACKS: Mapping[Capability, str] = {
    "encode": "has no encoder",
    "decode": "has no generator",
    "log_likelihood": "has no density p(x|z)",
    "labels": "makes no samples of a class that is asked for, and takes no labels",
    "classify": "learned no classifier from few labels",
    "look": "is not a net that judges samples",
}
"""Words that say that a system lacks a capability."""


class Points(Protocol):
    """Data points that are fetched block by block, as `klprobe.training.data.Data`."""

    @property
    def name(self) -> str:
        """Name of the data in messages."""

    @property
    def labels(self) -> torch.Tensor | None:
        """Classes, shape (N,), where they are known."""

    def __len__(self) -> int: ...

    def floats(self, which: slice) -> torch.Tensor:
        """The chosen points, float32, shape (m, *shape)."""


@dataclasses.dataclass(frozen=True)
class TrainedSystem:
    """A trained system: encoder, decoder, prior and densities, as far as it has them; `klprobe.load_system` reads one.

    Points have shape (m, *shape), codes (m, D), labels (m,). Arguments may lie anywhere, results lie on the CPU. Networks run
    in eval mode and without gradients. A method whose name is not among the `capabilities` raises CapabilityError, as does one
    that is given labels where "labels" is not among them. `generator` is the source of randomness; None: torch's global one.

    Attributes:
        checkpoint: Algorithm, networks in eval mode on the device, settings of the file.
        device: Device that the networks run on.
    """

    checkpoint: Checkpoint
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The name of the system, as in `klprobe train NAME`."""
        return str(self.checkpoint.settings["system"])

    @property
    def settings(self) -> dict[str, Any]:
        """Settings in the file: those of the algorithm, data set, seed, steps, versions."""
        return self.checkpoint.settings

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a data point."""
        return tuple(self.settings["input_shape"])

    @property
    def latent_dim(self) -> int:
        """D, the number of latents."""
        return int(self.checkpoint.algorithm.latent_dim)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Names of the methods that it has; with "labels" it takes labels, and draws samples of a given class."""
        return self.checkpoint.algorithm.capabilities

    @property
    def conditional(self) -> bool:
        """Whether q(z|x, y) and p(x|z, y) need labels."""
        return self.checkpoint.algorithm.conditional

    @property
    def classes(self) -> int:
        """Number of classes of points; CapabilityError without "labels"."""
        self.need("labels")
        return int(self.checkpoint.algorithm.classes)

    @property
    def prior(self) -> Distribution:
        """p(z), N(0, I) unless the system says otherwise."""
        return self.checkpoint.algorithm.prior_distribution or standard_normal(self.latent_dim)

    def need(self, capability: Capability) -> None:
        """Raise CapabilityError, which says what is missing, unless the system has the capability."""
        if capability not in self.capabilities:
            raise CapabilityError(f"{self.name} {LACKS[capability]}")

    def encode(
        self, x: torch.Tensor, labels: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> ConditionalDistribution:
        """q(z|x), or q(z|x, y) of labels, of at least 2 points, batch shape (m,), event shape (D,).

        Args:
            generator: Source of the noise of an encoder without a density; None takes the same noise every time.
        """
        self._known(labels)
        return self._encode(Data("the given points", "given", x, labels), labels, generator, no_progress)

    def encode_data(
        self, data: Points, generator: torch.Generator | None = None, progress: Progress = no_progress
    ) -> ConditionalDistribution:
        """Encode every point of a data set, float32, with the labels of the data where the system needs them.

        Without a density there is one sample for each point. A posterior that runs its network for every density keeps the
        data, on the device, and the network.
        """
        return self._encode(data, data.labels if self.conditional else None, generator, progress)

    @torch.no_grad()
    def _encode(
        self, data: Points, labels: torch.Tensor | None, generator: torch.Generator | None, progress: Progress
    ) -> ConditionalDistribution:
        self.need("encode")
        if self.conditional and labels is None:
            raise CapabilityError(f"the {self.name} encodes data of known class, and {data.name} has no labels")
        algorithm, networks = self.checkpoint.algorithm, self.checkpoint.networks
        seed = NOISE_SEED if generator is None else _seed(generator)
        rng, parts, done = torch.Generator(self.device).manual_seed(seed), [], 0

        def of(which: slice, rng: torch.Generator | None) -> Any:
            known = () if labels is None else (labels[which].to(self.device),)
            return algorithm.encode(networks, data.floats(which).to(self.device), rng, *known)

        some = of(slice(0, 2), torch.Generator(self.device))
        if isinstance(some, ConditionalDistribution) and not isinstance(some, SampleOnly):
            return of(slice(0, len(data)), None)
        # blocks of nearly equal size, so that the last one never holds a single point, which is no posterior
        for indices in torch.arange(len(data)).tensor_split(math.ceil(len(data) / POINTS_AT_ONCE)):
            parts.append(of(slice(done, done + len(indices)), rng))
            done += len(indices)
            progress(done, len(data))
        if isinstance(parts[0], SampleOnly):
            samples = torch.cat([q.samples for q in parts]).cpu()
            return SampleOnly(samples, deterministic=parts[0].deterministic)
        normals = [diagonal_normal(q) for q in parts]
        means, stds = zip(*(normal for normal in normals if normal is not None), strict=True)
        return DiagonalGaussian(torch.cat(means).cpu(), std=torch.cat(stds).cpu())

    def decode(self, z: torch.Tensor, labels: torch.Tensor | None = None, grad: bool = False) -> torch.Tensor:
        """Points of codes, E[x|z] where p(x|z) has a density; `grad`: differentiable in z.

        Raises:
            CapabilityError: the system has no generator, or one that needs labels, which are not given.
        """
        self.need("decode")
        known = self._known(labels)
        if "labels" in self.capabilities and not known:
            raise CapabilityError(f"{self.name} decodes codes of known class only")
        with torch.set_grad_enabled(grad):
            return self.checkpoint.algorithm.decode(self.checkpoint.networks, z.float().to(self.device), *known).cpu()

    def classes_in_turn(self, num: int) -> torch.Tensor | None:
        """The classes 0, 1, 2, ... in turn, shape (num,), for samples of no given class; None without classes."""
        return torch.arange(num) % self.classes if "labels" in self.capabilities else None

    def sample_prior(self, num: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Codes z ~ p(z), float32, of a system with a generator."""
        self.need("decode")
        return self.checkpoint.algorithm.prior(num, self._noise(generator)).cpu()

    def sample(self, num: int, labels: torch.Tensor | None = None, generator: torch.Generator | None = None) -> torch.Tensor:
        """Points G(z), z ~ p(z), shape (num, *shape); of the classes of `labels`, or of every class in turn."""
        self._known(labels)
        return self.decode(self.sample_prior(num, generator), self.classes_in_turn(num) if labels is None else labels)

    @torch.no_grad()
    def reconstruct(
        self, x: torch.Tensor, labels: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Points G(z), z ~ q(z|x), shape of x.

        Raises:
            CapabilityError: the system has no encoder or no generator, or needs labels, which are not given.
        """
        self.need("encode")
        self.need("decode")
        if "labels" in self.capabilities and labels is None:
            raise CapabilityError("a system with classes reconstructs data of known class: choose a data set with labels")
        known, x, rng = self._known(labels), x.to(self.device), self._noise(generator)
        q = self.checkpoint.algorithm.encode(self.checkpoint.networks, x, rng, *known)
        if isinstance(q, SampleOnly):
            z = q.samples
        elif isinstance(q, ConditionalDistribution):
            z = q.sample_at(torch.arange(len(x)), torch.Generator().manual_seed(_seed(rng)))
        else:
            z = q.mean + q.stddev * torch.randn(q.mean.shape, generator=rng, device=rng.device)
        return self.decode(z, labels)

    def draw(
        self, x: torch.Tensor, num: int, labels: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z ~ q(z|x), shape (num, m, D), and their log-densities in nats, shape (num, m)."""
        q = self.encode(x, labels)
        if not q.has_log_prob:
            raise CapabilityError(f"the encoder of {self.name} gives samples and no density log q(z|x)")
        everyone, source = torch.arange(len(x)), generator or torch.Generator().manual_seed(_seed(None))
        z = [q.sample_at(everyone, source) for _ in range(num)]
        return torch.stack(z).cpu(), torch.stack([q.log_prob_at(codes, everyone) for codes in z]).cpu()

    @torch.no_grad()
    def log_likelihood(
        self,
        x: torch.Tensor,
        z: torch.Tensor,
        labels: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """log p(x|z), or log p(x|z, y) of labels, of each pair in nats, shape (m,), float64."""
        self.need("log_likelihood")
        known, rng = self._known(labels), torch.Generator(self.device).manual_seed(_seed(generator))
        x, z = x.to(self.device), z.float().to(self.device)
        return self.checkpoint.algorithm.log_likelihood(self.checkpoint.networks, x, z, rng, *known).cpu()

    @torch.no_grad()
    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of q(y|x), by the classifier that the system learned from few labels, shape (m, classes)."""
        self.need("classify")
        return self.checkpoint.algorithm.classify(self.checkpoint.networks, x.to(self.device)).cpu()

    @torch.no_grad()
    def look(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, shape (m, features), and logits, shape (m, classes), of a net that judges samples."""
        self.need("look")
        features, logits = self.checkpoint.algorithm.look(self.checkpoint.networks, x.to(self.device))
        return features.cpu(), logits.cpu()

    def _known(self, labels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The labels as the last argument of the algorithm's methods, or nothing where there are none."""
        if labels is None:
            return ()
        self.need("labels")
        return (labels.to(self.device),)

    def _noise(self, generator: torch.Generator | None) -> torch.Generator:
        """Return the given generator if it is on the device, otherwise a new one that it seeds."""
        if generator is not None and generator.device.type == torch.device(self.device).type:
            return generator
        return torch.Generator(self.device).manual_seed(_seed(generator))


def _seed(generator: torch.Generator | None) -> int:
    """Draw a seed from a generator on any device, or from torch's global one where there is none."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def load_system(path: Path | str, device: str = "cpu") -> TrainedSystem:
    """Read a checkpoint of `klprobe train` as a system.

    Args:
        path: The safetensors file; reading it runs no code of its own.
        device: Device that the networks run on.
    Raises:
        InputError: missing or damaged file, unknown system, or weights that do not fit the networks.
    """
    return TrainedSystem(load_checkpoint(path, device), device)
