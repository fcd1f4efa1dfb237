"""InfoGAN: a GAN that is paid for making codes that can be read off its samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Distribution, constraints

from klprobe.trainers._shared import System
from klprobe.training.data import Batch
from klprobe.training.loop import Loss, Player
from klprobe.training.losses import fake_loss, gaussian_nll, real_loss
from klprobe.training.networks import discriminator, encoder
from klprobe.types import CapabilityError, InputError

__all__ = ["InfoGAN"]

HEAD = 128
"""Units of the head's hidden layer (Chen et al. Table 1)."""


@dataclass(frozen=True)
class InfoGAN(System):
    """Generative adversarial network with a mutual-information head; no encoder of whole codes.

    z is noise, a class c of uniform prior as one-hot, and continuous codes u, uniform in [-1, 1], side by side. The head Q
    reads c and u off the discriminator's features of G(z): class logits, and mean and log-variance of u. A step: the
    discriminator, with the head, lowers -E log D(x) - E log(1 - D(G(z))) + L, then the generator lowers -E log D(G(z)) + L,
    where L = -`class_weight` E log Q(c|x) - `continuous_weight` E log Q(u|x), on fresh draws each. UNIFY eq. 9 has
    parameters of their own for Q and D; here, as in Chen et al., they share all layers but the last, so that L moves those
    in the discriminator's turn. Logged `information` is the bound on I(c, u; G(z)), in nats. Batch statistics of a network
    move in its own turns only. Data in [0, 1], sigmoid in place of tanh.

    Reference: Chen et al. (2016), eqs. 5, 6 and appendix C.1; UNIFY (Hu et al. 2018), eqs. 9, 10.
    """

    latent_dim: int = 74
    """Number of latents in all: noise, class and continuous latents (Chen et al. C.1: 62 + 10 + 2)."""
    adam_beta2: float = 0.999
    """Decay rate of Adam's running mean of the squared gradient (that of Adam's authors; Chen et al. give none)."""
    classes: int = 10
    """Number of classes of c (Chen et al. C.1: 10)."""
    continuous: int = 2
    """Number of continuous latents u (Chen et al. C.1: 2)."""
    class_weight: float = 1.0
    """Weight lambda of the information about the class (Chen et al. section 7: 1)."""
    continuous_weight: float = 0.1
    """Weight lambda of the information about the continuous latents (ours; Chen et al. section 7: smaller than that of the
    class)."""
    lr: float = 2e-4
    """Learning rate of Adam for the discriminator and the head (Chen et al. appendix C)."""
    generator_lr: float = 1e-3
    """Learning rate of Adam for the generator (Chen et al. appendix C)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes + self.continuous > self.latent_dim:
            raise InputError(
                f"infogan's latents hold {self.classes} classes and {self.continuous} continuous codes: give latent_dim of at "
                f"least {self.classes + self.continuous}; got {self.latent_dim}."
            )

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Generator, discriminator, and the head on the discriminator's features."""
        judge = discriminator(shape, width=self.width, layers=self.layers)
        features = cast(nn.Linear, judge[-1]).in_features
        head = encoder((features,), self.classes + 2 * self.continuous, width=HEAD, layers=1, batch_norm=self.batch_norm)
        return nn.ModuleDict({"generator": self.generator(shape), "discriminator": judge, "head": head})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The discriminator with the head, then the generator."""
        generate, judge = networks["generator"], cast(nn.Sequential, networks["discriminator"])

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = self.prior(len(batch.x), rng)
            with torch.no_grad():
                fake = generate(z)
            features = judge[:-1](fake)
            unread, logged = self.unread(networks["head"](features), z)
            return real_loss(judge(batch.x)) + fake_loss(judge[-1](features)) + unread, logged

        def generator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = self.prior(len(batch.x), rng)
            features = judge[:-1](generate(z))
            unread, logged = self.unread(networks["head"](features), z)
            return real_loss(judge[-1](features)) + unread, logged

        return (
            Player("discriminator", ("discriminator", "head"), discriminator_loss, self.adam(self.lr)),
            Player("generator", ("generator",), generator_loss, self.adam(self.generator_lr)),
        )

    def unread(self, read: torch.Tensor, z: torch.Tensor) -> Loss:
        """L of what the head gives for samples, shape (batch, classes + 2 continuous), and of their codes."""
        logits, mean, logvar = read.split([self.classes, self.continuous, self.continuous], 1)
        _, c, u = z.split([self.latent_dim - self.classes - self.continuous, self.classes, self.continuous], 1)
        of_class, of_rest = F.cross_entropy(logits, c), gaussian_nll(mean, logvar, u)
        information = math.log(self.classes) - of_class + self.continuous * math.log(2) - of_rest
        return self.class_weight * of_class + self.continuous_weight * of_rest, {"information": information.detach()}

    def prior(self, num_samples: int, noise: torch.Generator) -> torch.Tensor:
        """Draws of p(z), shape (num_samples, latent_dim), on the generator's device."""
        free, device = self.latent_dim - self.classes - self.continuous, noise.device
        c = F.one_hot(torch.randint(self.classes, (num_samples,), generator=noise, device=device), self.classes)
        u = 2 * torch.rand(num_samples, self.continuous, generator=noise, device=device) - 1
        return torch.cat([torch.randn(num_samples, free, generator=noise, device=device), c, u], 1)

    @property
    def prior_distribution(self) -> Distribution:
        """p(z), for searches of codes."""
        return CodePrior(self)


class CodePrior(Distribution):
    """p(z) of an InfoGAN: it can be drawn from, and has no density, for classes are one-hot."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_log_prob = False

    def __init__(self, system: InfoGAN) -> None:
        self.system = system
        super().__init__(event_shape=torch.Size([system.latent_dim]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (latent_dim,), float64, from torch's global generator."""
        shape = torch.Size(sample_shape)
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        return self.system.prior(math.prod(shape), rng).double().reshape(shape + self.event_shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Raises CapabilityError: one-hot classes have no density."""
        raise CapabilityError(
            "The prior of infogan has no density (its classes are one-hot): use a method that needs samples only."
        )
