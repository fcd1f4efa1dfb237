"""VEEGAN: a generator, and a reconstructor of its codes, matched on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw, draw_fixed, encode, joint_discriminator, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, l1, real_loss

__all__ = ["VEEGAN"]


@dataclass(frozen=True)
class VEEGAN(System):
    """VEEGAN: KL[p(x|z)p(z) || q(z|x)p(x)] through a joint discriminator, and reconstruction of codes.

    With p ~ p(z), s = G(p), z ~ q(z|x) the reconstructor's code: the joint discriminator D takes (s, p) as label 1 and
    (x, z) as label 0, so that E logit D(s, p) estimates the KL. A step: D; then the generator lowers
    logit D(s, p) + R(p, s); then the reconstructor F lowers R(p, s), all that its gradient of the objective has
    (D's pairs of the first law do not depend on it). One update each, each on a fresh mini-batch. Logged as `bound`: minus
    DMVI eq. 14, E log p(z) - KL - R, which should rise (DMVI Fig. 11). R = |p - F(s)|_1 as in DMVI, and -log q(p|s) for a
    gaussian F, whose draws an l1 norm would rob of their spread: codes of data would then never pass for the prior's.

    Reference: Srivastava et al. (2017), Algorithm 1; set up as in DMVI, appendices F and K.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    posterior: PosteriorKind = "deterministic"
    """Kind of posterior q(z|x) of the reconstructor (ours: DMVI speaks of a reconstructor network and says no more; Srivastava
    et al. section 3 derive the norm from -log q(z|x))."""
    lr: float = 1e-3
    """Learning rate of Adam for generator and reconstructor (DMVI Table 5: 1e-3, 5e-4)."""
    discriminator_lr: float = 1e-4
    """Learning rate of the joint discriminator (DMVI Table 5: 5e-5, 1e-4)."""
    code_width: int = 1000
    """Number of units in each hidden layer of the network that makes features of codes for the discriminator (DMVI K.5)."""
    code_layers: int = 3
    """Number of hidden layers of the network that makes features of codes (DMVI K.5)."""
    head_maps: int = 512
    """Number of feature maps of the joint head of the discriminator, for images only (DMVI Table 8: 512, 1024)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Reconstructor (as `encoder`), generator and joint discriminator."""
        judge = joint_discriminator(self, shape)
        return nn.ModuleDict({"encoder": make_encoder(self, shape), "generator": self.generator(shape), "discriminator": judge})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """Discriminator, generator, reconstructor."""
        reconstructor, generate, judge = networks["encoder"], networks["generator"], networks["discriminator"]

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            code, z = self.prior(len(batch.x), rng), draw_fixed(self, reconstructor, batch.x, rng)
            with torch.no_grad():
                sample = generate(code)
            return real_loss(judge(sample, code)) + fake_loss(judge(batch.x, z)), {}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            code = self.prior(len(batch.x), rng)
            sample = generate(code)
            kl, reconstruction = judge(sample, code).mean(), self.code_loss(reconstructor, sample, code, rng)
            log_prior = -0.5 * (code.square().sum() / len(code) + self.latent_dim * math.log(2 * math.pi))
            logged = {"kl": kl.detach(), "reconstruction": reconstruction.detach()}
            return kl + reconstruction, logged | {"bound": (log_prior - kl - reconstruction).detach()}

        def reconstructor_loss(batch: Batch, rng: torch.Generator) -> Loss:
            code = self.prior(len(batch.x), rng)
            with torch.no_grad():
                sample = generate(code)
            return self.code_loss(reconstructor, sample, code, rng), {}

        return (
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.discriminator_lr)),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr)),
            Player("reconstructor", ("encoder",), reconstructor_loss, self.adam(self.lr)),
        )

    def code_loss(
        self, reconstructor: nn.Module, sample: torch.Tensor, code: torch.Tensor, noise: torch.Generator
    ) -> torch.Tensor:
        """R, shape (): -E log q(code|sample) of a gaussian reconstructor, |code - F(sample)|_1 of another."""
        if self.posterior != "gaussian":
            return l1(code, draw(self, reconstructor, sample, noise))
        mean, logvar = reconstructor(sample).chunk(2, dim=-1)
        squares = (code - mean).square() * torch.exp(-logvar)
        return 0.5 * (squares + logvar + math.log(2 * math.pi)).sum() / len(code)

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
