"""The variational auto-encoder, and beta-VAE as one weight of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.distributions import Independent, Normal

from klprobe.losses import bernoulli_nll, gaussian_kl
from klprobe.networks import encoder, generator
from klprobe.training import Batch, Loss, Player
from klprobe.types import InputError

__all__ = ["VAE"]


@dataclass(frozen=True)
class VAE:
    """Variational auto-encoder with a diagonal-Gaussian posterior and prior N(0, I).

    One player owns both networks and minimises E[-log p(x|z)] + beta KL[q(z|x)||p(z)], the mean over the mini-batch with
    one draw of z each. Batch statistics move with every step; encoding uses their running averages.

    Reference: Kingma and Welling (2014); beta: Higgins et al. (2017); set up as in DMVI (Rosca et al. 2018), appendix K.
    """

    latent_dim: int = 50
    """Number of latents (DMVI Table 1: 50 and 100 on ColorMNIST)."""
    beta: float = 1.0
    """Weight of KL[q(z|x)||p(z)]; 1 is the evidence lower bound, 0 an auto-encoder with noise (Higgins et al. 2017)."""
    visible: Literal["bernoulli"] = "bernoulli"
    """Distribution of a pixel: bernoulli takes grey levels in [0, 1] as probabilities (DMVI section 4.2)."""
    lr: float = 1e-3
    """Adam's learning rate, constant (DMVI Table 5 sweeps 1e-3, 5e-4, 5e-3)."""
    adam_beta1: float = 0.5
    """Adam's decay of the gradient's mean (DMVI appendix K)."""
    adam_beta2: float = 0.9
    """Adam's decay of the squared gradient's mean (DMVI appendix K)."""
    batch_size: int = 64
    """Data points in a mini-batch (DMVI appendix K); batch normalisation needs at least 2."""
    width: int = 256
    """Units of a hidden layer, for vectors only; images have the networks of DMVI Table 7 (ours)."""
    layers: int = 2
    """Hidden layers of encoder and of generator, for vectors only (ours)."""

    def __post_init__(self) -> None:
        for name, low in {"latent_dim": 1, "beta": 0, "batch_size": 2, "width": 1, "layers": 0}.items():
            if not getattr(self, name) >= low:
                raise InputError(f"vae needs {name} of at least {low}; got {getattr(self, name)}.")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"vae needs a finite lr above 0; got {self.lr}.")

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder to mean and log-variance, and generator to logits, for data points of one shape."""
        size = {"width": self.width, "layers": self.layers}
        return nn.ModuleDict(
            {
                "encoder": encoder(shape, 2 * self.latent_dim, **size),
                "generator": generator(self.latent_dim, shape, **size),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The one player, which owns both networks."""

        def loss(batch: Batch, noise: torch.Generator) -> Loss:
            nll, kl = self.terms(networks, batch.x, noise)
            return nll + self.beta * kl, {"nll": nll.detach(), "kl": kl.detach()}

        def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, self.lr, (self.adam_beta1, self.adam_beta2), fused=True)

        return (Player("vae", ("encoder", "generator"), loss, adam),)

    def terms(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The two halves of the negative evidence lower bound, in nats per data point.

        Args:
            networks: As `networks` makes them.
            x: Data points, shape (batch, *shape).
            noise: Source of z, on the device of x.
        Returns:
            E[-log p(x|z)] from one z a point, and E KL[q(z|x)||p(z)]; shape () each.
        """
        mean, logvar = networks["encoder"](x).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=mean.device)
        return bernoulli_nll(networks["generator"](z), x), gaussian_kl(mean, logvar)

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor) -> Independent:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        mean, logvar = networks["encoder"](x).chunk(2, dim=-1)
        return Independent(Normal(mean, torch.exp(0.5 * logvar), validate_args=False), 1)

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
        """E[x|z] in [0, 1], shape (batch, *shape), for codes of shape (batch, latent_dim)."""
        return networks["generator"](z).sigmoid()
