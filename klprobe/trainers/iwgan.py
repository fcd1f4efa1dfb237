"""The importance-weighted GAN: samples that fool the discriminator better count more; plain, and by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from klprobe.trainers._classes import beside, check_labels
from klprobe.trainers._shared import System
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, importance_weights, real_loss
from klprobe.training.networks import discriminator, generator

__all__ = ["IWGAN"]


@dataclass(frozen=True)
class IWGAN(System):
    """Importance-weighted generative adversarial network, IWCGAN with classes; no encoder. `--no-weighted`: GAN and CGAN.

    A step: the discriminator lowers -E log D(x) - E log(1 - D(G(z))), then the generator lowers -sum_i w_i log D(G(z_i)) over
    a mini-batch, where w is the softmax of the discriminator's logits, held fixed (eq. 16). Equal weights give the plain GAN.
    With `conditional` a one-hot label is joined to the code and to the discriminator's input, fakes have the labels of the
    mini-batch, and the softmax runs over all classes (the paper does not say). Batch statistics of a network move in its own
    turns only. The data lie in [0, 1] and the generator ends in a sigmoid, where DCGAN has [-1, 1] and tanh.

    Reference: UNIFY (Hu et al. 2018), eq. 16 and appendix I.1; set up as in Radford et al. (2016), Mirza and Osindero (2014).
    """

    latent_dim: int = 100
    """Number of latents (Radford et al. Figure 1)."""
    batch_size: int = 128
    """Number of data points in a mini-batch, the k of eq. 16 (Radford et al. section 4)."""
    adam_beta2: float = 0.999
    """Decay rate of Adam's running mean of the squared gradient (that of Adam's authors, which Radford et al. section 4
    keep)."""
    lr: float = 2e-4
    """Learning rate of Adam for both networks (Radford et al. section 4)."""
    weighted: bool = True
    """Weight the samples by their importance; without weights this is a plain GAN."""
    conditional: bool = False
    """Make samples of a class that is asked for: IWCGAN, or CGAN without weights."""
    classes: int = 10
    """Number of classes, for conditional samples; labels count from 0."""

    @property
    def by_class(self) -> bool:
        """Whether codes are decoded to points of a class."""
        return self.conditional

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Labels, where samples are of a class that is asked for."""
        return frozenset({"decode", "labels"} if self.by_class else {"decode"})

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Generator and discriminator."""
        extra = self.classes if self.conditional else 0
        inputs = self.latent_dim + extra
        make = generator(inputs, shape, width=self.width, layers=self.layers, batch_norm=self.batch_norm)
        if self.bounded(shape):
            make.append(nn.Sigmoid())
        judge = discriminator(shape, width=self.width, layers=self.layers, extra=extra)
        return nn.ModuleDict({"generator": make, "discriminator": judge})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The discriminator, then the generator."""

        def logits(x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return networks["discriminator"](beside(self, x, labels))

        def fakes(batch: Batch, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
            labels = check_labels(self, batch.labels, "iwgan") if self.conditional else None
            return self.decode(networks, self.prior(len(batch.x), rng), labels), labels

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                x, labels = fakes(batch, rng)
            return real_loss(logits(batch.x, labels)) + fake_loss(logits(x, labels)), {}

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            judged = logits(*fakes(batch, rng))
            weights = importance_weights(judged)
            logged = {"effective_share": 1 / (weights.square().sum() * len(weights))}
            return real_loss(judged, weights if self.weighted else None), logged

        return (
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.lr)),
            Player("generator", ("generator",), generator_loss, self.adam(self.lr)),
        )

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Data points of codes and, with `conditional`, of their classes, shape (batch,); shape (batch, *shape)."""
        return networks["generator"](beside(self, z, labels))
