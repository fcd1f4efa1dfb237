"""Adversarial variational Bayes: a VAE whose KL comes from a discriminator of pairs, so that q(z|x) needs no density."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import System, draw, draw_fixed, encode, joint_discriminator, make_encoder
from klprobe.trainers._visible import Visible, make_generator, mean, nll, visible_for
from klprobe.training.data import Batch, TrainingData
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, real_loss

__all__ = ["AdversarialVB"]

LEAST_STD = 1e-3
"""Floor of the auxiliary normal's standard deviation: any such normal keeps the identity, this one keeps it finite (ours)."""


@dataclass(frozen=True)
class AdversarialVB(System):
    """Adversarial variational Bayes: KL[q(z|x)||p(z)] from a discriminator T(x, z), the encoder implicit.

    T takes pairs (x, z ~ q(z|x)) as label 1 and (x, p ~ p(z)) as label 0; at its best T = log q(z|x) - log p(z). A step:
    encoder and generator lower E[T(x, z) - log p(x|z)] on one mini-batch; then T moves (Algorithm 1).

    Adaptive contrast: r(z|x), the normal with the moments of q(z|x), goes in between, KL[q||p] = KL[q||r] + E_q[log r -
    log p], and T compares the standardised codes with N(0, I) (section 4, Algorithm 2). The moments are those of
    `contrast_samples` draws and held fixed, as the identity allows; the paper takes them from a special encoder.
    DMVI Fig. 17 is without.

    Reference: Mescheder et al. (2017), Adversarial variational Bayes.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    posterior: Literal["implicit", "gaussian"] = "implicit"
    """Kind of posterior q(z|x) (Mescheder et al.: implicit)."""
    adaptive_contrast: bool = False
    """Let the discriminator compare q(z|x) with a normal near it instead of p(z) (DMVI appendix J: no)."""
    contrast_samples: int = 8
    """Number of draws from each q(z|x) that the moments of this normal are computed from (ours)."""
    visible: Visible = "auto"
    """Distribution of a value given the code; auto is bernoulli for data in [0, 1], and laplace, which alone takes others, for
    others (Mescheder et al. section 6.2:
    bernoulli)."""
    laplace_scale: float = 0.1
    """Scale of the Laplace distribution, in the units of the data (ours)."""
    levels: int = 256
    """Number of values that a pixel can have, for quantized_normal."""
    lr: float = 5e-4
    """Learning rate of Adam for encoder and generator (that of DMVI's hybrids; DMVI gives none for this system)."""
    discriminator_lr: float = 5e-4
    """Learning rate of the discriminator (that of DMVI's hybrids; DMVI gives none for this system)."""
    code_width: int = 1000
    """Number of units in each hidden layer of the network that makes features of codes for the discriminator (DMVI K.5)."""
    code_layers: int = 3
    """Number of hidden layers of the network that makes features of codes (DMVI K.5)."""
    head_maps: int = 512
    """Number of feature maps of the joint head of the discriminator, for images only (DMVI Table 8: 512, 1024)."""

    def settled(self, data: TrainingData) -> Self:
        """The same system; its visible distribution is chosen by the data where it is `auto`."""
        return replace(self, visible=visible_for(self.visible, data))

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator to the numbers of p(x|z), joint discriminator."""
        judge = joint_discriminator(self, shape)
        return nn.ModuleDict(
            {"encoder": make_encoder(self, shape), "generator": make_generator(self, shape), "discriminator": judge}
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """Encoder and generator as one player, then the discriminator."""
        encoder, generate, judge = networks["encoder"], networks["generator"], networks["discriminator"]

        def model_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw(self, encoder, batch.x, rng)
            standardised, log_ratio = self.contrast(encoder, batch.x, z, rng)
            reconstruction = nll(self, generate(z), batch.x, rng)
            kl = judge(batch.x, standardised).mean() + log_ratio
            return reconstruction + kl, {"nll": reconstruction.detach(), "kl": kl.detach()}

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw_fixed(self, encoder, batch.x, rng)
            standardised, _ = self.contrast(encoder, batch.x, z, rng)
            return real_loss(judge(batch.x, standardised)) + fake_loss(judge(batch.x, self.prior(len(z), rng))), {}

        return (
            Player("model", ("encoder", "generator"), model_loss, self.adam(self.lr)),
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.discriminator_lr)),
        )

    def contrast(
        self, encoder: nn.Module, x: torch.Tensor, z: torch.Tensor, noise: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes as the discriminator sees them, shape of z, and E_q[log r(z|x) - log p(z)], shape (); z and 0 without."""
        if not self.adaptive_contrast:
            return z, z.new_zeros(())
        draws = draw_fixed(self, encoder, x.repeat(self.contrast_samples, *[1] * (x.dim() - 1)), noise)
        draws = draws.reshape(self.contrast_samples, *z.shape)
        std = draws.std(0, correction=0).clamp_min(LEAST_STD)
        standardised = (z - draws.mean(0)) / std
        log_ratio = 0.5 * (z.square() - standardised.square()) - std.log()
        return standardised, log_ratio.sum() / len(z)

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
        """E[x|z], shape (batch, *shape), for codes of shape (batch, latent_dim)."""
        return mean(self, networks["generator"](z))
