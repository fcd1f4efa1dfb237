"""Adversarially learned inference, and BiGAN: one game over pairs of data and codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw, draw_fixed, encode, joint_discriminator, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, real_loss

__all__ = ["ALI"]


@dataclass(frozen=True)
class ALI(System):
    """ALI / BiGAN: a discriminator tells (x, z ~ q(z|x)) from (G(p), p ~ p(z)); encoder and generator fool it together.

    A step: the discriminator D takes the encoder's pairs as real and the generator's as fake; then encoder and generator
    lower -log D(G(p), p) - log(1 - D(x, z)), the non-saturating loss, on one mini-batch. BiGAN is posterior =
    deterministic. The joint discriminator is DMVI's (Table 8), not ALI's own; batch statistics of a network move in its
    own turns only.

    Reference: Dumoulin et al. (2017), Algorithm 1; Donahue et al. (2017), Adversarial feature learning.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    posterior: PosteriorKind = "gaussian"
    """Kind of posterior q(z|x) (Dumoulin et al.: gaussian; Donahue et al.: deterministic)."""
    lr: float = 1e-4
    """Learning rate of Adam for all networks (Dumoulin et al., appendix A)."""
    code_width: int = 1000
    """Number of units in each hidden layer of the network that makes features of codes for the discriminator (DMVI K.5)."""
    code_layers: int = 3
    """Number of hidden layers of the network that makes features of codes (DMVI K.5)."""
    head_maps: int = 512
    """Number of feature maps of the joint head of the discriminator, for images only (DMVI Table 8: 512, 1024)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator and joint discriminator."""
        judge = joint_discriminator(self, shape)
        return nn.ModuleDict({"encoder": make_encoder(self, shape), "generator": self.generator(shape), "discriminator": judge})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The discriminator, then encoder and generator as one player."""
        encoder, generate, judge = networks["encoder"], networks["generator"], networks["discriminator"]

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z, code = draw_fixed(self, encoder, batch.x, rng), self.prior(len(batch.x), rng)
            with torch.no_grad():
                sample = generate(code)
            return real_loss(judge(batch.x, z)) + fake_loss(judge(sample, code)), {}

        def pair_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z, code = draw(self, encoder, batch.x, rng), self.prior(len(batch.x), rng)
            return real_loss(judge(generate(code), code)) + fake_loss(judge(batch.x, z)), {}

        return (
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.lr)),
            Player("pair", ("encoder", "generator"), pair_loss, self.adam(self.lr)),
        )

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
