"""VAE/GAN: a VAE that reconstructs in the features of a discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw_fixed, encode, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, gaussian_kl, real_loss
from klprobe.training.networks import discriminator

__all__ = ["VAEGAN"]


@dataclass(frozen=True)
class VAEGAN(System):
    """VAE/GAN: analytic KL, reconstruction in discriminator features, adversarial samples and reconstructions.

    With f the features before the discriminator's last layer, z ~ q(z|x), x' = G(z), s = G(p), p ~ p(z), and
    L = |f(x) - f(x')|^2 / 2, a step: the encoder lowers KL[q(z|x)||p(z)] + L; the generator lowers
    gamma L - log D(x') - log D(s); the discriminator takes data as real, x' and s as fake, and does not see L. Deviations:
    the generator's loss is the non-saturating one, f is the last hidden layer (the paper picks one by hand), Adam stands
    for RMSProp, and each update has a fresh mini-batch.

    Reference: Larsen et al. (2016), Autoencoding beyond pixels using a learned similarity metric, Algorithm 1.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    posterior: ClassVar[PosteriorKind] = "gaussian"
    lr: float = 3e-4
    """Learning rate of Adam for all three networks (Larsen et al. section 4, with RMSProp)."""
    gamma: float = 1.0
    """Weight of the reconstruction error in the generator's loss (ours: the paper gives no value)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder to mean and log-variance, generator, discriminator."""
        return nn.ModuleDict(
            {
                "encoder": make_encoder(self, shape),
                "generator": self.generator(shape),
                "discriminator": discriminator(shape, width=self.width, layers=self.layers),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """Encoder, generator, discriminator."""
        encoder, generate, judge = networks["encoder"], networks["generator"], networks["discriminator"]
        *hidden, last = judge.children()
        features = nn.Sequential(*hidden)

        def encoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            mean, logvar = encoder(batch.x).chunk(2, dim=-1)
            z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=rng, device=mean.device)
            reconstruction, kl = distance(features(batch.x), features(generate(z))), gaussian_kl(mean, logvar)
            return reconstruction + kl, {"reconstruction": reconstruction.detach(), "kl": kl.detach()}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            again = features(generate(draw_fixed(self, encoder, batch.x, rng)))
            sample = generate(self.prior(len(batch.x), rng))
            adversarial = real_loss(last(again)) + real_loss(judge(sample))
            return self.gamma * distance(features(batch.x), again) + adversarial, {"adversarial": adversarial.detach()}

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                again = generate(draw_fixed(self, encoder, batch.x, rng))
                sample = generate(self.prior(len(batch.x), rng))
            return real_loss(judge(batch.x)) + fake_loss(judge(again)) + fake_loss(judge(sample)), {}

        return (
            Player("encoder", ("encoder",), encoder_loss, self.adam(self.lr)),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr)),
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.lr)),
        )

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """E |a - b|^2 / 2, a normal's negative log-likelihood of unit variance without its constant; shape ()."""
    return 0.5 * (a - b).square().sum() / len(a)
