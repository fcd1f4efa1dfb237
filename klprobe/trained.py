"""A trained system as metrics ask it: codes of points, points of codes, densities."""

from __future__ import annotations

import dataclasses

import torch
from torch.distributions import Distribution

from klprobe.checkpoint import Checkpoint
from klprobe.datasets._shared import Data
from klprobe.distributions import ConditionalDistribution, standard_normal
from klprobe.encoders.klprobe_checkpoint import encode
from klprobe.pictures import has_classes
from klprobe.types import CapabilityError


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint as metrics ask it (`klprobe.metrics._shared.Model`), on its device; what comes out is on the CPU."""

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
            raise CapabilityError(f"{self._system} decodes codes of known class only")
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
