"""The base of all systems: common settings, and the three kinds of posterior."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.distributions import Independent, Normal

from klprobe import registry
from klprobe.distributions.posteriors import SampleOnly
from klprobe.printable import short
from klprobe.training.loop import Algorithm, Capability
from klprobe.training.networks import JointDiscriminator, encoder, generator
from klprobe.types import InputError

PosteriorKind = Literal["gaussian", "deterministic", "implicit"]
LOWEST = {"batch_size": 2, "layers": 0, "code_layers": 0, "decay_steps": 0, "continuous": 0}
"""Least value of a whole-number setting, where it is not 1."""
HIGHEST = {"glances": 1000}
"""Greatest value of a setting that sizes work and no weights, so that the file of a system does not bear it out."""
LARGEST = 10**9
"""Greatest value of every other whole-number setting."""
ABOVE_ZERO = ("lr", "scale")
"""Endings of the names of settings that must not be 0."""
BELOW_ONE = ("adam_beta1", "adam_beta2", "dropout")


@dataclasses.dataclass(frozen=True)
class System(Algorithm):
    """Settings that every system has; abstract, and the one level of inheritance among them."""

    latent_dim: int = 50
    """Number of latents (DMVI Table 1: 50 and 100 on ColorMNIST)."""
    batch_size: int = 64
    """Number of data points in a mini-batch (DMVI appendix K); batch normalisation needs at least 2."""
    adam_beta1: float = 0.5
    """Decay rate of Adam's running mean of the gradient (DMVI appendix K)."""
    adam_beta2: float = 0.9
    """Decay rate of Adam's running mean of the squared gradient (DMVI appendix K)."""
    width: int = 256
    """Number of units in each hidden layer, for data that are vectors (ours); images have the networks of the papers'
    tables."""
    layers: int = 2
    """Number of hidden layers of each network, for data that are vectors (ours)."""
    batch_norm: bool = True
    """Normalise the hidden layers of encoder and generator over the mini-batch, for data that are vectors (DMVI appendix K:
    everywhere). Without it samples and reconstructions go through the same function, which narrow modes need (ours)."""
    decay_steps: int = 0
    """Number of steps over which every learning rate falls linearly to 0; 0 keeps them constant, as DMVI does (the decay is
    that of Miyato et al. 2018, appendix B.4, and Gulrajani et al. 2017 on CIFAR-10)."""
    output: Literal["auto", "sigmoid", "linear"] = "auto"
    """Last layer of the generator. auto is a sigmoid for images and linear for vectors (ours); Bernoulli pixels take logits in
    any case."""

    def __post_init__(self) -> None:
        who = registry.name_of(self)
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type == "int" and value < (low := LOWEST.get(name, 1)):
                raise InputError(f"{who} needs {name} of at least {low}; got {value}.")
            if field.type == "int" and value > (high := HIGHEST.get(name, LARGEST)):
                raise InputError(f"{who} needs {name} of at most {high:,}; got {short(value)}.")
            if field.type in ("float", "float | None") and value is not None and not 0 <= value < math.inf:
                raise InputError(f"{who} needs a finite {name} of at least 0; got {value}.")
            if name.endswith(ABOVE_ZERO) and value == 0:
                raise InputError(f"{who} needs {name} above 0; got {value}.")
            if name in BELOW_ONE and value >= 1:
                raise InputError(f"{who} needs {name} below 1; got {value}.")

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities of a generator without an encoder."""
        return frozenset({"decode"})

    def bounded(self, shape: Sequence[int]) -> bool:
        """Whether the generator ends in a sigmoid for data points of this shape."""
        return self.output == "sigmoid" or (self.output == "auto" and len(shape) == 3)

    def generator(self, shape: Sequence[int]) -> nn.Sequential:
        """Make the network from codes to data points."""
        network = generator(self.latent_dim, shape, width=self.width, layers=self.layers, batch_norm=self.batch_norm)
        return network.append(nn.Sigmoid()) if self.bounded(shape) else network

    def adam(self, lr: float, updates: int = 1) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
        """Make a function from parameters to Adam, for a player with that many updates in a step."""

        def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            optimizer = torch.optim.Adam(parameters, lr, (self.adam_beta1, self.adam_beta2), fused=True)
            if self.decay_steps:
                optimizer.register_step_pre_hook(linear_decay(lr, self.decay_steps * updates))
            return optimizer

        return make

    def prior(self, num_samples: int, noise: torch.Generator) -> torch.Tensor:
        """Draws of p(z) = N(0, I), shape (num_samples, latent_dim), on the generator's device."""
        return torch.randn(num_samples, self.latent_dim, generator=noise, device=noise.device)

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
        """Data points of codes, shape (batch, *shape) from (batch, latent_dim); put the networks in eval mode first."""
        return networks["generator"](z)


def linear_decay(lr: float, updates: int) -> Callable[[torch.optim.Optimizer, Any, Any], None]:
    """Hook before an update: sets the learning rate, lr at the first one and 0 after so many."""
    done: int | None = None

    def slow_down(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        nonlocal done
        if done is None:  # a resumed optimiser knows how many it has made
            done = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        for group in optimizer.param_groups:
            group["lr"] = lr * max(0.0, 1 - done / updates)
        done += 1

    return slow_down


class WithPosterior(Protocol):
    """A system whose `posterior` says what its encoder gives: which is all that the functions below need."""

    @property
    def latent_dim(self) -> int:
        """Number of latents."""

    @property
    def width(self) -> int:
        """Number of units in each hidden layer."""

    @property
    def layers(self) -> int:
        """Number of hidden layers."""

    @property
    def batch_norm(self) -> bool:
        """Whether hidden layers are normalised."""

    @property
    def posterior(self) -> PosteriorKind:
        """Kind of q(z|x)."""


class WithJointDiscriminator(WithPosterior, Protocol):
    """A system whose discriminator judges pairs of data and codes."""

    @property
    def code_width(self) -> int:
        """Number of units in each hidden layer of the codes' features."""

    @property
    def code_layers(self) -> int:
        """Number of hidden layers of the codes' features."""

    @property
    def head_maps(self) -> int:
        """Feature maps of the joint head, images only."""


def joint_discriminator(system: WithJointDiscriminator, shape: tuple[int, ...]) -> JointDiscriminator:
    """Make the discriminator of pairs (x, z), with the sizes of the system's settings."""
    return JointDiscriminator(
        shape,
        system.latent_dim,
        width=system.width,
        layers=system.layers,
        code_width=system.code_width,
        code_layers=system.code_layers,
        head_maps=system.head_maps,
    )


def make_encoder(system: WithPosterior, shape: Sequence[int]) -> nn.Sequential:
    """Network of q(z|x).

    gaussian: to mean and log-variance. deterministic: to the code. implicit: from the data with noise beside them, as
    many numbers as there are latents beside a vector, one channel beside an image (ours), to a code.
    """
    outputs = 2 * system.latent_dim if system.posterior == "gaussian" else system.latent_dim
    extra = 0 if system.posterior != "implicit" else system.latent_dim if len(shape) == 1 else 1
    return encoder(shape, outputs, width=system.width, layers=system.layers, extra=extra, batch_norm=system.batch_norm)


def draw(system: WithPosterior, network: nn.Module, x: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Draw one z ~ q(z|x) for each point, differentiable, shape (batch, latent_dim); `noise` on the device of x."""
    if system.posterior == "deterministic":
        return network(x)
    if system.posterior == "gaussian":
        mean, logvar = network(x).chunk(2, dim=-1)
        return mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=x.device)
    shape = (len(x), system.latent_dim) if x.dim() == 2 else (len(x), 1, *x.shape[2:])
    return network(torch.cat([x, torch.randn(shape, generator=noise, device=x.device)], 1))


@torch.no_grad()
def draw_fixed(system: WithPosterior, network: nn.Module, x: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Draw codes without gradient, for a player that does not own the encoder."""
    return draw(system, network, x, noise)


def encode(
    system: WithPosterior, network: nn.Module, x: torch.Tensor, noise: torch.Generator | None
) -> Independent | SampleOnly:
    """q(z|x), batch shape (batch,), event shape (latent_dim,): a normal, or samples where there is no density.

    Raises:
        InputError: an implicit posterior without `noise`, or fewer than two points of one without a density.
    """
    if system.posterior == "gaussian":
        mean, logvar = network(x).chunk(2, dim=-1)
        return Independent(Normal(mean, torch.exp(0.5 * logvar), validate_args=False), 1)
    if system.posterior == "deterministic":
        return SampleOnly(network(x), deterministic=True)
    if noise is None:
        raise InputError("An implicit posterior is known by its samples alone: encode needs a torch.Generator as `noise`.")
    return SampleOnly(draw(system, network, x, noise))
