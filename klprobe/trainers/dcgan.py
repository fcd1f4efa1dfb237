"""The generative adversarial network, as DCGAN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from klprobe.trainers._shared import System
from klprobe.training.data import Batch
from klprobe.training.loop import Loss, Player
from klprobe.training.losses import fake_loss, real_loss
from klprobe.training.networks import discriminator

__all__ = ["DCGAN"]


@dataclass(frozen=True)
class DCGAN(System):
    """Generative adversarial network, non-saturating loss; no encoder.

    A step: the discriminator lowers -E log D(x) - E log(1 - D(G(z))), then the generator lowers -E log D(G(z)),
    `generator_steps` times. Batch statistics of a network move in its own turns only. The data lie in [0, 1] and the
    generator ends in a sigmoid, where DCGAN has [-1, 1] and tanh.

    Reference: Goodfellow et al. (2014); Radford et al. (2016); set up as in DMVI appendix K.
    """

    lr: float = 2e-4
    """Learning rate of Adam for both networks (DMVI Table 5, AGAN Table 2: 1e-4, 2e-4, 3e-4)."""
    generator_steps: int = 1
    """Number of generator updates for each discriminator update (DMVI K.3: 1; AGAN section 6: 2)."""
    dropout: float = 0.8
    """Share of the discriminator's last features that is dropped, for images only (DMVI Table 6: "dropout of 0.8"; the paper
    does not say whether that is the share dropped, as read here, or the share kept)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Generator and discriminator."""
        judge = discriminator(shape, width=self.width, layers=self.layers, dropout=self.dropout)
        return nn.ModuleDict({"generator": self.generator(shape), "discriminator": judge})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The discriminator, then the generator."""
        generate, judge = networks["generator"], networks["discriminator"]

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                fake = generate(self.prior(len(batch.x), rng))
            return real_loss(judge(batch.x)) + fake_loss(judge(fake)), {}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            return real_loss(judge(generate(self.prior(len(batch.x), rng)))), {}

        return (
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.lr)),
            Player(
                "generator",
                ("generator",),
                generator_loss,
                self.adam(self.lr, self.generator_steps),
                updates=self.generator_steps,
            ),
        )
