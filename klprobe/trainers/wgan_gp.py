"""The Wasserstein GAN with gradient penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from klprobe.trainers._shared import System
from klprobe.training.data import Batch
from klprobe.training.loop import Loss, Player
from klprobe.training.losses import gradient_penalty
from klprobe.training.networks import discriminator

__all__ = ["WGANGP"]


@dataclass(frozen=True)
class WGANGP(System):
    """Wasserstein GAN with a gradient penalty; no encoder.

    A step: the critic f lowers E f(G(z)) - E f(x) + penalty * E (|grad f| - 1)^2, `critic_steps` times, each on a fresh
    mini-batch; then the generator lowers -E f(G(z)). The critic has no batch normalisation, though DMVI says "everywhere":
    the penalty is on the gradient of each point alone (Gulrajani et al., section 4).

    Reference: Gulrajani et al. (2017), Algorithm 1; set up as in DMVI appendix K.
    """

    lr: float = 1e-4
    """Learning rate of Adam for both networks (Gulrajani et al. Algorithm 1; DMVI Table 5: 1e-4, 2e-4, 3e-4)."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty (Gulrajani et al.; DMVI K.1)."""
    critic_steps: int = 5
    """Number of critic updates for each generator update (Gulrajani et al.; DMVI K.3)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Generator and critic."""
        return nn.ModuleDict(
            {
                "generator": self.generator(shape),
                "critic": discriminator(shape, width=self.width, layers=self.layers, batch_norm=False),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The critic, then the generator."""
        generate, critic = networks["generator"], networks["critic"]

        def critic_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                fake = generate(self.prior(len(batch.x), rng))
            distance = critic(batch.x).mean() - critic(fake).mean()
            penalty = gradient_penalty(critic, batch.x, fake, rng)
            return self.penalty_weight * penalty - distance, {"distance": distance.detach(), "penalty": penalty.detach()}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            return -critic(generate(self.prior(len(batch.x), rng))).mean(), {}

        return (
            Player("critic", ("critic",), critic_loss, self.adam(self.lr, self.critic_steps), updates=self.critic_steps),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr)),
        )
