"""AAE++: the adversarial auto-encoder with a data discriminator on reconstructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw, draw_fixed, encode, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, l1, real_loss, reverse_kl
from klprobe.training.networks import code_discriminator, discriminator

__all__ = ["AAEPlus"]


@dataclass(frozen=True)
class AAEPlus(System):
    """AAE++: an adversarial auto-encoder whose reconstructions must pass for data.

    A step, with z ~ q(z|x) and x' = G(z): the encoder lowers lambda_E |x - x'|_1 + R_C(z); the generator lowers
    lambda_G |x - x'|_1 + R_D(x'); the discriminator D takes data as real and x' as fake; the code discriminator C takes
    p(z) as real and z as fake. R = -logit. One update each, in this order, each on a fresh mini-batch; batch statistics
    of a network move in its own turns only. Samples G(z), z ~ p(z), are never shown to D: that is AAE-GAN.

    Reference: DMVI (Rosca et al. 2018), section 6.3 and Algorithm 4 without its terms in p(z) for the data.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    posterior: PosteriorKind = "deterministic"
    """Kind of posterior q(z|x) (AGAN H.4: a convolutional network without an activation at its end)."""
    lr: float = 5e-4
    """Learning rate of Adam for encoder and generator (DMVI Table 5: 1e-4, 5e-4)."""
    discriminator_lr: float = 5e-4
    """Learning rate of the discriminator (DMVI Table 5)."""
    code_lr: float = 5e-4
    """Learning rate of the code discriminator (DMVI Table 5)."""
    encoder_weight: float = 1.0
    """Weight of the reconstruction error in the encoder's loss (DMVI K.1: 1, 5, 10, 50); the error is a sum over pixels."""
    generator_weight: float = 1.0
    """Weight of the reconstruction error in the generator's loss (DMVI K.1: 1, 5, 10, 50)."""
    code_width: int = 1000
    """Number of units in each hidden layer of the code discriminator (DMVI K.5)."""
    code_layers: int = 3
    """Number of hidden layers of the code discriminator (DMVI K.5)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator, discriminator and code discriminator."""
        return nn.ModuleDict(
            {
                "encoder": make_encoder(self, shape),
                "generator": self.generator(shape),
                "discriminator": discriminator(shape, width=self.width, layers=self.layers),
                "code_discriminator": code_discriminator(self.latent_dim, width=self.code_width, layers=self.code_layers),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """Encoder, generator, discriminator, code discriminator."""
        encoder, generate = networks["encoder"], networks["generator"]
        judge, judge_code = networks["discriminator"], networks["code_discriminator"]

        def encoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw(self, encoder, batch.x, rng)
            reconstruction, marginal = l1(batch.x, generate(z)), reverse_kl(judge_code(z))
            logged = {"reconstruction": reconstruction.detach(), "marginal_kl": marginal.detach()}
            return self.encoder_weight * reconstruction + marginal, logged

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            again = generate(draw_fixed(self, encoder, batch.x, rng))
            return self.generator_weight * l1(batch.x, again) + reverse_kl(judge(again)), {}

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                again = generate(draw_fixed(self, encoder, batch.x, rng))
            return real_loss(judge(batch.x)) + fake_loss(judge(again)), {}

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw_fixed(self, encoder, batch.x, rng)
            return real_loss(judge_code(self.prior(len(z), rng))) + fake_loss(judge_code(z)), {}

        return (
            Player("encoder", ("encoder",), encoder_loss, self.adam(self.lr)),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr)),
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.discriminator_lr)),
            Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr)),
        )

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
