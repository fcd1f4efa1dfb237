"""The adversarial auto-encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw, encode, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, l1, real_loss, reverse_kl
from klprobe.training.networks import code_discriminator

__all__ = ["AAE"]


@dataclass(frozen=True)
class AAE(System):
    """Adversarial auto-encoder: KL[q(z)||p(z)] through a code discriminator in place of the average KL.

    A step: encoder and generator together lower |x - G(z)|_1 + R_C(z), z ~ q(z|x); then the code discriminator C takes p(z)
    as real and the same z as fake: a step takes one mini-batch, as both phases of Makhzani et al. (section 2) do, and encodes
    it once, before the encoder's move; every player of AAE++ and AAE-GAN takes a fresh one. R_C = -logit C, the reverse KL
    (AGAN section 3), where Makhzani et al. have -log C; the norm is a sum over pixels. DMVI leaves open the likelihood of its
    AAE: l1 is that of its AAE++.

    Reference: Makhzani et al. (2015); set up as in DMVI appendix K.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    posterior: PosteriorKind = "deterministic"
    """Kind of posterior q(z|x) (Makhzani et al. section 2 name all three and use the deterministic one)."""
    lr: float = 1e-3
    """Learning rate of Adam for encoder and generator (DMVI Table 5: 1e-3, 5e-4, 5e-3)."""
    code_lr: float = 5e-4
    """Learning rate of the code discriminator (DMVI Table 5: 5e-4, 5e-5, 1e-5)."""
    reconstruction_weight: float = 1.0
    """Weight of the reconstruction error (DMVI K.1: the AAE has no weight)."""
    code_width: int = 1000
    """Number of units in each hidden layer of the code discriminator (DMVI K.5)."""
    code_layers: int = 3
    """Number of hidden layers of the code discriminator (DMVI K.5)."""

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
        codes: list[torch.Tensor] = []  # of the mini-batch that both play on

        def autoencoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw(self, encoder, batch.x, rng)
            codes[:] = [z.detach()]
            reconstruction, marginal = l1(batch.x, generate(z)), reverse_kl(judge(z))
            logged = {"reconstruction": reconstruction.detach(), "marginal_kl": marginal.detach()}
            return self.reconstruction_weight * reconstruction + marginal, logged

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            (z,) = codes
            return real_loss(judge(self.prior(len(z), rng))) + fake_loss(judge(z)), {}

        return (
            Player("autoencoder", ("encoder", "generator"), autoencoder_loss, self.adam(self.lr)),
            Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr), fresh=False),
        )

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
