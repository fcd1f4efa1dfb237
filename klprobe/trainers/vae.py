"""The variational auto-encoder; beta-VAE, and DMVI's VAE with a marginal KL, as weights of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import nn
from torch.distributions import Independent, Normal

from klprobe.trainers._shared import System
from klprobe.trainers._visible import Visible, log_likelihood, make_generator, mean, nll, visible_for
from klprobe.training.data import Batch, TrainingData
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, gaussian_kl, real_loss, reverse_kl
from klprobe.training.networks import code_discriminator, encoder

__all__ = ["VAE"]


@dataclass(frozen=True)
class VAE(System):
    """Variational auto-encoder with a diagonal-Gaussian posterior and prior N(0, I).

    One player owns encoder and generator and minimises E[-log p(x|z)] + beta KL[q(z|x)||p(z)], the mean over the mini-batch
    with one draw of z each. With `marginal_kl_weight` = lambda above 0 it also minimises lambda KL[q(z)||p(z)], estimated by
    a code discriminator C (p(z) is real) as -E_q logit C, and C moves after it, once a step (DMVI section 4.3, Table 4).
    Batch statistics move with every step; encoding uses their running averages.

    Reference: Kingma and Welling (2014); Higgins et al. (2017); set up as in DMVI (Rosca et al. 2018), appendix K.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode", "log_likelihood"})

    beta: float = 1.0
    """Weight of KL[q(z|x)||p(z)]; 1 is the evidence lower bound, 0 an auto-encoder with noise (Higgins et al. 2017)."""
    visible: Visible = "auto"
    """Distribution of a value given the code; auto is bernoulli for data in [0, 1], and laplace for others. bernoulli takes
    grey levels as probabilities; quantized_normal learns a spread for each pixel and code, quantized_normal_shared one for all
    (DMVI section 4.2 does not say which it has); laplace has one scale (AGAN section 3). Only laplace takes data outside
    [0, 1]."""
    laplace_scale: float = 0.1
    """Scale of the Laplace distribution, in the units of the data; 1/scale is the lambda of AGAN, which sweeps 1, 5, 10, 50."""
    levels: int = 256
    """Number of values that a pixel can have, for the quantized normals."""
    marginal_kl_weight: float = 0.0
    """Weight lambda of KL[q(z)||p(z)], which a code discriminator estimates (DMVI Table 4: 0, 1, 2, 10)."""
    lr: float = 1e-3
    """Learning rate of Adam (DMVI Table 5 sweeps 1e-3, 5e-4, 5e-3)."""
    code_lr: float = 5e-4
    """Learning rate of Adam for the code discriminator (that of AAE++ in DMVI Table 5)."""
    code_width: int = 1000
    """Number of units in each hidden layer of the code discriminator (DMVI K.5)."""
    code_layers: int = 3
    """Number of hidden layers of the code discriminator (DMVI K.5)."""

    def settled(self, data: TrainingData) -> Self:
        """The same system; its visible distribution is chosen by the data where it is `auto`."""
        return replace(self, visible=visible_for(self.visible, data))

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder to mean and log-variance, generator to the numbers of p(x|z), and C where there is a marginal KL."""
        networks: dict[str, nn.Module] = {
            "encoder": encoder(shape, 2 * self.latent_dim, width=self.width, layers=self.layers, batch_norm=self.batch_norm),
            "generator": make_generator(self, shape),
        }
        if self.marginal_kl_weight:
            networks["code_discriminator"] = code_discriminator(self.latent_dim, width=self.code_width, layers=self.code_layers)
        return nn.ModuleDict(networks)

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The VAE, then the code discriminator where there is one."""

        def loss(batch: Batch, rng: torch.Generator) -> Loss:
            z, mean, logvar = self.draw(networks, batch.x, rng)
            reconstruction = nll(self, networks["generator"](z), batch.x, rng)
            kl = gaussian_kl(mean, logvar)
            logged = {"nll": reconstruction.detach(), "kl": kl.detach()}
            if not self.marginal_kl_weight:
                return reconstruction + self.beta * kl, logged
            marginal = reverse_kl(networks["code_discriminator"](z))
            total = reconstruction + self.beta * kl + self.marginal_kl_weight * marginal
            return total, logged | {"marginal_kl": marginal.detach()}

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                z, _, _ = self.draw(networks, batch.x, rng)
            judge = networks["code_discriminator"]
            return real_loss(judge(self.prior(len(z), rng))) + fake_loss(judge(z)), {}

        vae = Player("vae", ("encoder", "generator"), loss, self.adam(self.lr))
        if not self.marginal_kl_weight:
            return (vae,)
        return (vae, Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr)))

    def draw(
        self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One z ~ q(z|x) a point, and mean and log-variance of q(z|x); shape (batch, latent_dim) each."""
        mean, logvar = networks["encoder"](x).chunk(2, dim=-1)
        return mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=mean.device), mean, logvar

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Independent:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        mean, logvar = networks["encoder"](x).chunk(2, dim=-1)
        return Independent(Normal(mean, torch.exp(0.5 * logvar), validate_args=False), 1)

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
        """E[x|z], shape (batch, *shape), for codes of shape (batch, latent_dim)."""
        return mean(self, networks["generator"](z))

    def log_likelihood(self, networks: nn.ModuleDict, x: torch.Tensor, z: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        """log p(x|z) in nats, shape (batch,), float64, for x of shape (batch, *shape) and z of shape (batch, latent_dim)."""
        return log_likelihood(self, networks["generator"](z), x, noise)
