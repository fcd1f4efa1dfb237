"""The Wasserstein auto-encoder, with its two penalties on the codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._shared import PosteriorKind, System, draw, draw_fixed, encode, make_encoder
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, imq_mmd, real_loss, squared_error
from klprobe.training.networks import code_discriminator

__all__ = ["WAE"]


@dataclass(frozen=True)
class WAE(System):
    """Wasserstein auto-encoder: squared error, and q(z) pulled towards p(z) by the MMD or by a code discriminator.

    With z ~ q(z|x) and p ~ p(z), a step of WAE-MMD: encoder and generator together lower |x - G(z)|^2 + lambda MMD(z, p),
    the unbiased squared MMD of the mini-batch under the inverse multiquadratic kernel. Of WAE-GAN: they lower
    |x - G(z)|^2 - lambda log C(z), then the code discriminator C takes p as real and z as fake on a fresh mini-batch (in the
    paper C moves first). The norm is a sum over values. Deviations: the learning rate is constant, C's units are leaky, and
    the networks are those of the other systems.

    Reference: Tolstikhin et al. (2018), Wasserstein Auto-Encoders, Algorithms 1 and 2; values are those for MNIST.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    batch_size: int = 100
    """Number of data points in a mini-batch (Tolstikhin et al. section 4 on MNIST); the MMD needs many."""
    adam_beta2: float = 0.999
    """Decay rate of Adam's running mean of the squared gradient (Tolstikhin et al. section 4)."""
    divergence: Literal["mmd", "gan"] = "mmd"
    """How q(z) is pulled towards p(z): mmd is WAE-MMD, and gan is WAE-GAN with a code discriminator."""
    posterior: PosteriorKind = "deterministic"
    """Kind of posterior q(z|x) (Tolstikhin et al. section 4)."""
    divergence_weight: float = 10.0
    """Weight lambda of the penalty on the codes (Tolstikhin et al. section 4 on MNIST)."""
    lr: float = 1e-3
    """Learning rate of Adam for encoder and generator (Tolstikhin et al. section 4 on MNIST, before its decay)."""
    code_lr: float = 5e-4
    """Learning rate of the code discriminator, WAE-GAN only (Tolstikhin et al. section 4 on MNIST, before its decay)."""
    code_width: int = 512
    """Number of units in each hidden layer of the code discriminator (Tolstikhin et al. appendix)."""
    code_layers: int = 4
    """Number of hidden layers of the code discriminator (Tolstikhin et al. appendix)."""

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator and, for WAE-GAN, code discriminator."""
        networks: dict[str, nn.Module] = {"encoder": make_encoder(self, shape), "generator": self.generator(shape)}
        if self.divergence == "gan":
            networks["code_discriminator"] = code_discriminator(self.latent_dim, width=self.code_width, layers=self.code_layers)
        return nn.ModuleDict(networks)

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The auto-encoder, then WAE-GAN's code discriminator."""
        encoder, generate = networks["encoder"], networks["generator"]

        def autoencoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw(self, encoder, batch.x, rng)
            reconstruction = squared_error(batch.x, generate(z))
            if self.divergence == "mmd":
                penalty = imq_mmd(z, self.prior(len(z), rng))
            else:
                penalty = real_loss(networks["code_discriminator"](z))
            logged = {"reconstruction": reconstruction.detach(), "penalty": penalty.detach()}
            return reconstruction + self.divergence_weight * penalty, logged

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            judge, z = networks["code_discriminator"], draw_fixed(self, encoder, batch.x, rng)
            return real_loss(judge(self.prior(len(z), rng))) + fake_loss(judge(z)), {}

        autoencoder = Player("autoencoder", ("encoder", "generator"), autoencoder_loss, self.adam(self.lr))
        if self.divergence == "mmd":
            return (autoencoder,)
        return (autoencoder, Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr)))

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
