"""The "best-of-many-samples" variational auto-encoder, without a discriminator of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._best_of_many import check_draws, draw_many, weight
from klprobe.trainers._shared import PosteriorKind, System, draw_fixed, encode, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import best_match, fake_loss, real_loss, reverse_kl
from klprobe.training.networks import code_discriminator

__all__ = ["BMSVAE"]


@dataclass(frozen=True)
class BMSVAE(System):
    """Best-of-many-samples VAE: only the nearest of T reconstructions counts, and a classifier pulls q(z) towards p(z).

    With z_i ~ q(z|x), i = 1..T = `draws`, a step: encoder and generator together lower
    w min_i |x - G(z_i)|_1 - mean_i logit C(z_i); then the code discriminator C takes p(z) as real and one z a point as fake,
    on a fresh mini-batch. The first term is -max_i log p(x|z_i) of eq. 3, the second estimates KL[q(z)||p(z)] and is averaged
    over the draws (the paper does not say); the norm is a sum over values. T = 1 is an adversarial auto-encoder. Batch
    statistics of a network move in its own turns only.

    Reference: BMS ("Best-of-Many-Samples" Distribution Matching, 2020), eqs. 3 and 7 without D_I, section 3.3; values are
    those for CIFAR-10 (section 4.2).
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    latent_dim: int = 100
    """Number of latents (BMS section 4.2: 100; 32 on 2-D toys)."""
    adam_beta1: float = 0.0
    """Decay rate of Adam's running mean of the gradient (BMS section 4.2)."""
    draws: int = 10
    """Number T of draws of q(z|x), of which the best one counts (BMS Tables 1 and 6: 10, 30)."""
    posterior: PosteriorKind = "gaussian"
    """Kind of posterior q(z|x) (ours: BMS does not say). Draws must differ, so deterministic needs draws = 1."""
    reconstruction_weight: float | None = None
    """Weight w of the reconstruction error, which is beta times lambda of BMS, against a KL of weight 1. By default it is 1 /
    sqrt(D) for points of D values, so that the term has a slope of 1 for any number of pixels (ours: BMS gives no value;
    alpha-GAN sweeps 1, 5, 10, 50)."""
    lr: float = 2e-4
    """Learning rate of Adam for encoder and generator (BMS section 4.2)."""
    code_lr: float = 2e-4
    """Learning rate of the code discriminator (BMS section 4.2)."""
    code_width: int = 750
    """Number of units in each hidden layer of the code discriminator (BMS section 4.2)."""
    code_layers: int = 3
    """Number of hidden layers of the code discriminator (BMS section 4.2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_draws(self, self.draws)

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator and code discriminator."""
        return nn.ModuleDict(
            {
                "encoder": make_encoder(self, shape),
                "generator": self.generator(shape),
                "code_discriminator": code_discriminator(self.latent_dim, width=self.code_width, layers=self.code_layers),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The auto-encoder, then the code discriminator."""
        encoder, generate, judge = (networks[name] for name in ("encoder", "generator", "code_discriminator"))

        def autoencoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw_many(self, encoder, batch.x, self.draws, rng)
            again = generate(z.flatten(0, 1)).unflatten(0, z.shape[:2])
            reconstruction, marginal = best_match(batch.x, again), reverse_kl(judge(z))
            logged = {"reconstruction": reconstruction.detach(), "marginal_kl": marginal.detach()}
            return weight(self.reconstruction_weight, batch.x) * reconstruction + marginal, logged

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw_fixed(self, encoder, batch.x, rng)
            return real_loss(judge(self.prior(len(z), rng))) + fake_loss(judge(z)), {}

        return (
            Player("autoencoder", ("encoder", "generator"), autoencoder_loss, self.adam(self.lr)),
            Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr)),
        )

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
