"""AAE-GAN, also called alpha-GAN: AAE++ whose samples must pass for data too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw, draw_fixed, encode, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import empirical_kl, fake_loss, l1, real_loss, reverse_kl
from klprobe.training.networks import code_discriminator, discriminator

__all__ = ["AAEGAN"]

PRESETS = {"dmvi": (1, 1000), "agan": (2, 750)}
"""Updates of encoder and of generator for each of the discriminators', and units of the code discriminator's layers: DMVI K.3
and K.5; AGAN section 6 and H.4."""


@dataclass(frozen=True)
class AAEGAN(System):
    """AAE-GAN (alpha-GAN): auto-encoder with discriminators of codes and of data, the latter for samples as well.

    A step, with z ~ q(z|x), x' = G(z), s = G(p), p ~ p(z), R = -logit: the encoder lowers lambda_E |x - x'|_1 + R_C(z); the
    generator lowers lambda_G |x - x'|_1 + R_D(x') + R_D(s); the discriminator D takes data as real, x' and s as fake; the
    code discriminator C takes p(z) as real and z as fake. With kl = empirical R_C gives way to the KL between a mini-batch's
    moments and N(0, I), and there is no C (AGAN eq. 18). Each update has a fresh mini-batch; batch statistics of a network
    move in its own turns only. A code reconstruction, |p - E(s)|_1, may be added to both (the CycleGAN-like variant of
    AGAN section 4; the paper names no norm).

    Reference: AGAN (Rosca et al. 2017), Algorithm 1; DMVI (Rosca et al. 2018), Algorithm 4.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    preset: Literal["dmvi", "agan"] = "dmvi"
    """Paper whose number of updates and code discriminator are used where `updates` and `code_width` are not given."""
    kl: Literal["discriminator", "empirical"] = "discriminator"
    """How KL[q(z)||p(z)] is estimated: by a code discriminator (AGAN Algorithm 1), or from moments (its appendix D)."""
    posterior: PosteriorKind = "deterministic"
    """Kind of posterior q(z|x) (AGAN H.4: a convolutional network without an activation at its end)."""
    lr: float = 5e-4
    """Learning rate of Adam for encoder and generator (DMVI Table 5, AGAN Table 2: 1e-4, 5e-4)."""
    discriminator_lr: float = 5e-4
    """Learning rate of the discriminator (DMVI Table 5, AGAN Table 2)."""
    code_lr: float = 5e-4
    """Learning rate of the code discriminator (DMVI Table 5, AGAN Table 2)."""
    encoder_weight: float = 1.0
    """Weight of the reconstruction error in the encoder's loss (both papers: 1, 5, 10, 50); the error is a sum over pixels."""
    generator_weight: float = 1.0
    """Weight of the reconstruction error in the generator's loss (both papers: 1, 5, 10, 50)."""
    code_reconstruction_weight: float = 0.0
    """Weight of |p - E(G(p))|_1 in the losses of encoder and generator; 0 leaves it out (AGAN section 4 mentions the
    variant)."""
    data_weight: float = 2.0
    """Weight of -log D(x) for real data, against the two kinds of fakes (2 in the exact line of Algorithm 1, 1 in its
    approximate one)."""
    updates: int | None = None
    """Number of updates of encoder and of generator in a step; by default that of the preset, 1 (dmvi) or 2 (agan)."""
    code_width: int | None = None
    """Number of units in each hidden layer of the code discriminator; by default that of the preset, 1000 (dmvi) or 750
    (agan)."""
    code_layers: int = 3
    """Number of hidden layers of the code discriminator (DMVI K.5, AGAN H.4)."""

    def __post_init__(self) -> None:
        for name, of_preset in zip(("updates", "code_width"), PRESETS[self.preset], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, of_preset)  # the checkpoint then says what was done
        super().__post_init__()

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator, discriminator and, unless the KL is empirical, code discriminator."""
        networks = {
            "encoder": make_encoder(self, shape),
            "generator": self.generator(shape),
            "discriminator": discriminator(shape, width=self.width, layers=self.layers),
        }
        if self.kl == "discriminator":
            assert self.code_width is not None  # a preset has stood in
            networks["code_discriminator"] = code_discriminator(self.latent_dim, width=self.code_width, layers=self.code_layers)
        return nn.ModuleDict(networks)

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """Encoder, generator, discriminator and, unless the KL is empirical, code discriminator."""
        encoder, generate, judge = networks["encoder"], networks["generator"], networks["discriminator"]

        def encoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw(self, encoder, batch.x, rng)
            reconstruction = l1(batch.x, generate(z))
            kl = empirical_kl(z) if self.kl == "empirical" else reverse_kl(networks["code_discriminator"](z))
            total = self.encoder_weight * reconstruction + kl + self._code_reconstruction(networks, len(z), rng)
            return total, {"reconstruction": reconstruction.detach(), "marginal_kl": kl.detach()}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            again = generate(draw_fixed(self, encoder, batch.x, rng))
            sample = generate(self.prior(len(batch.x), rng))
            adversarial = reverse_kl(judge(again)) + reverse_kl(judge(sample))
            total = self.generator_weight * l1(batch.x, again) + adversarial
            return total + self._code_reconstruction(networks, len(batch.x), rng), {"adversarial": adversarial.detach()}

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                again = generate(draw(self, encoder, batch.x, rng))
                sample = generate(self.prior(len(batch.x), rng))
            return self.data_weight * real_loss(judge(batch.x)) + fake_loss(judge(again)) + fake_loss(judge(sample)), {}

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            judge_code, z = networks["code_discriminator"], draw_fixed(self, encoder, batch.x, rng)
            return real_loss(judge_code(self.prior(len(z), rng))) + fake_loss(judge_code(z)), {}

        updates = self.updates or 1
        players = (
            Player("encoder", ("encoder",), encoder_loss, self.adam(self.lr, updates), updates),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr, updates), updates),
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.discriminator_lr)),
        )
        if self.kl == "empirical":
            return players
        return (*players, Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr)))

    def _code_reconstruction(self, networks: nn.ModuleDict, num_samples: int, rng: torch.Generator) -> torch.Tensor | float:
        """Weighted |p - E(G(p))|_1 with p ~ p(z)."""
        if not self.code_reconstruction_weight:
            return 0.0
        code = self.prior(num_samples, rng)
        again = draw(self, networks["encoder"], networks["generator"](code), rng)
        return self.code_reconstruction_weight * l1(code, again)

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
