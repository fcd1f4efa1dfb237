"""The generative adversarial network with spectral normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from klprobe.trainers._shared import System
from klprobe.trainers._spectral import Activation, Architecture, make_generator, make_judge
from klprobe.training.data import Batch
from klprobe.training.loop import Loss, Player
from klprobe.training.losses import hinge_fake, hinge_real

__all__ = ["SNGAN"]


@dataclass(frozen=True)
class SNGAN(System):
    """Generative adversarial network with spectral normalisation and the hinge loss; no encoder.

    A step: the discriminator f lowers E max(0, m - f(x)) + E max(0, m + f(G(z))), `discriminator_steps` times, then the
    generator lowers -E f(G(z)); m = `margin`. f has no batch normalisation; the generator's batch
    statistics and the vectors of f's power iterations move in their own network's turns only. The data lie in
    [0, 1] and the generator ends in a sigmoid, where SN-GAN has [-1, 1] and tanh; f sees them moved to [-1, 1].

    Reference: Miyato et al. (2018), Spectral Normalization for GANs, eqs. 16, 17 and Algorithm 1; set up as in BMS section 4.2.
    """

    latent_dim: int = 128
    """Number of latents (Miyato et al. Table 3: 128; BMS: 100 on images, 32 on 2-D toys)."""
    adam_beta1: float = 0.0
    """Decay rate of Adam's running mean of the gradient (BMS section 4.2)."""
    lr: float = 2e-4
    """Learning rate of Adam for both networks (BMS section 4.2; Miyato et al. Table 1)."""
    architecture: Architecture = "auto"
    """Networks for images. standard is the CNN of SN-GAN; dcgan has the networks of the other systems, of DMVI for 28 pixels
    and of DCGAN for 32 and 64; auto is standard where the side is a multiple of 8 (BMS Table 6 has both)."""
    activation: Activation = "rectifier"
    """Hidden units of generator and discriminator, for data that are vectors: rectifier has ReLUs and leaky ones; tanh has tanh
    units, and orthogonal initial weights (as on the 2-D toys of Metz et al. 2017, appendix A)."""
    orthogonal_gain: float = 1.4
    """Gain of the orthogonal initial weights that come with tanh units (ours: Metz et al. give none)."""
    discriminator_steps: int = 1
    """Number of discriminator updates for each generator update (BMS Algorithm 1: 1; Miyato et al. Table 1: 1, 5)."""
    margin: float = 1.0
    """Score beyond which a point costs the discriminator nothing (Miyato et al. eq. 16). Dividing it by K is the same as
    letting the slope of f reach K."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Generator and spectrally normalised discriminator."""
        return nn.ModuleDict({"generator": make_generator(self, shape), "discriminator": make_judge(self, shape)})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The discriminator, then the generator."""
        generate, judge, steps = networks["generator"], networks["discriminator"], self.discriminator_steps

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                fake = generate(self.prior(len(batch.x), rng))
            return hinge_real(judge(batch.x), self.margin) + hinge_fake(judge(fake), self.margin), {}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            return -judge(generate(self.prior(len(batch.x), rng))).mean(), {}

        return (
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.lr, steps), steps),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr)),
        )
