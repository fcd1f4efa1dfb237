"""The adversarial generator-encoder on the unit sphere: a game without a discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Distribution, constraints

from klprobe.distributions.posteriors import SampleOnly
from klprobe.trainers._shared import System
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import cosine_distance, empirical_kl
from klprobe.training.networks import encoder
from klprobe.types import CapabilityError

__all__ = ["AGE"]


@dataclass(frozen=True)
class AGE(System):
    """Adversarial generator-encoder: codes lie on the unit sphere, under a uniform prior.

    With e(x) the encoder's output over its length, p uniform on the sphere, s = G(p), and KL the empirical one of a
    mini-batch's codes, a step: the encoder lowers KL(e(x)) - KL(e(s)) + mu mean|x - G(e(x))|; then the generator lowers
    KL(e(s)) + lambda (1 - cos(p, e(s))), `generator_steps` times, each on a fresh mini-batch. AGAN speaks of the unit ball,
    the authors' code uses the sphere. Deviations: codes are scaled by sqrt(latent_dim) inside the KL, so that a uniform
    code has the unit variances it is compared with; the encoder is that of the other systems, with ReLUs, where AGAN H.4 has
    the authors', with leaky units; learning rate and weights stay constant, as in AGAN.

    Reference: Ulyanov et al. (2018), It takes (only) two; set up as in AGAN appendix H.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    lr: float = 2e-4
    """Learning rate of Adam for both networks (AGAN Table 2: 1e-4, 2e-4, 5e-4)."""
    reconstruction_weight: float = 1000.0
    """Weight mu of the reconstruction error of the data, a mean over pixels (AGAN H.1: 100, 500, 1000, 2000; the authors'
    published commands: 10, on pixels of twice the range beside a KL of twice the size, which is 10 here as well)."""
    code_reconstruction_weight: float = 10.0
    """Weight lambda of the reconstruction error of the codes (AGAN H.1; the 1000 of the authors' commands multiplies a cosine
    that their program also averages over the latents, 64 or 128: here that is some 8 or 4)."""
    generator_steps: int = 2
    """Number of generator updates for each encoder update (AGAN section 6: "multiple times"; the number is ours)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, before its output is put on the sphere, and generator."""
        return nn.ModuleDict(
            {
                "encoder": encoder(shape, self.latent_dim, width=self.width, layers=self.layers, batch_norm=self.batch_norm),
                "generator": self.generator(shape),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The encoder, then the generator."""
        generate = networks["generator"]

        def code(x: torch.Tensor) -> torch.Tensor:
            return F.normalize(networks["encoder"](x))

        def encoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                sample = generate(self.prior(len(batch.x), rng))
            z = code(batch.x)
            data, fake = self.divergence(z), self.divergence(code(sample))
            reconstruction = (batch.x - generate(z)).abs().mean()
            logged = {"reconstruction": reconstruction.detach(), "kl_data": data.detach(), "kl_samples": fake.detach()}
            return data - fake + self.reconstruction_weight * reconstruction, logged

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            p = self.prior(len(batch.x), rng)
            again = code(generate(p))
            return self.divergence(again) + self.code_reconstruction_weight * cosine_distance(p, again), {}

        return (
            Player("encoder", ("encoder",), encoder_loss, self.adam(self.lr)),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr, self.generator_steps), self.generator_steps),
        )

    def divergence(self, z: torch.Tensor) -> torch.Tensor:
        """Empirical KL per dimension of codes on the unit sphere, shape (batch, latent_dim), from the uniform ones."""
        return empirical_kl(z * self.latent_dim**0.5)

    def prior(self, num_samples: int, noise: torch.Generator) -> torch.Tensor:
        """Draws uniform on the unit sphere, shape (num_samples, latent_dim), on the generator's device."""
        return F.normalize(super().prior(num_samples, noise))

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> SampleOnly:
        """The code of each point on the unit sphere, shape (batch, latent_dim); put the networks in eval mode first."""
        return SampleOnly(F.normalize(networks["encoder"](x)), deterministic=True)

    @property
    def prior_distribution(self) -> Distribution:
        """p(z), for estimators."""
        return UniformOnSphere(self.latent_dim)


class UniformOnSphere(Distribution):
    """The uniform law on the unit sphere in `dim` dimensions: it can be drawn from, and has no density over R^dim."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_log_prob = False

    def __init__(self, dim: int) -> None:
        super().__init__(event_shape=torch.Size([dim]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (dim,), float64, from torch's global generator."""
        return F.normalize(torch.randn(*sample_shape, *self.event_shape, dtype=torch.float64), dim=-1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Raise CapabilityError, because the sphere has no volume."""
        raise CapabilityError("The uniform prior on the sphere has no density: use a method that needs samples only.")
