"""Priors beyond torch's own: uniform on a sphere, a cloud of samples, and mixtures of Gaussians such as the VampPrior."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, constraints

from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.types import CapabilityError, InputError


class UniformSphere(Distribution):
    """Uniform on the sphere of a radius around 0 in D dimensions.

    In the space around the sphere it has no density: KL[q||p] is infinite unless q lies on the sphere too, and methods that
    need log p(z) cannot run. On the sphere, `surface_log_prob` is the density with respect to its surface.

    Args:
        dim: Number of dimensions D, at least 2.
        radius: Radius of the sphere, positive.
    Raises:
        InputError: the dimension is below 2, or the radius is not positive.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_log_prob = False

    def __init__(self, dim: int, radius: float = 1.0) -> None:
        if dim < 2 or not radius > 0:
            raise InputError(f"A sphere needs at least 2 dimensions and a positive radius; got D = {dim}, radius {radius:g}.")
        self.radius = radius
        super().__init__(torch.Size(), torch.Size([dim]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (D,), float64, from torch's global generator."""
        z = torch.randn(torch.Size(sample_shape) + self.event_shape, dtype=torch.float64)
        return self.radius * z / z.norm(dim=-1, keepdim=True)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Raise CapabilityError: a prior on a sphere has no density in the space around it."""
        raise CapabilityError(
            "This method needs the prior's density log p(z), but a uniform prior on a sphere has none in the space around it: "
            "use a method that needs samples only (klprobe list), with an encoder whose z lie on the sphere."
        )

    def surface_log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Minus the log of the surface, log(2 pi^(D/2) / Gamma(D/2)) + (D - 1) log radius, in nats, of points on the sphere."""
        dim = self.event_shape[0]
        area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2) + (dim - 1) * math.log(self.radius)
        return torch.full(value.shape[:-1], -area, dtype=torch.float64)


class Cloud(Distribution):
    """A prior that is known by M samples alone; with a posterior of samples it gives KL[q||p] between two clouds of points.

    It has no density, and no more samples than it holds: methods that learn split it in disjoint parts, as they split the data
    points, and ask for `samples` themselves. `sample` draws with replacement, for a look at the cloud.

    Args:
        samples: Independent draws of p, finite, shape (M, D).
    Raises:
        InputError: the shape is another one, or there are fewer than 2 samples.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_log_prob = False

    def __init__(self, samples: torch.Tensor) -> None:
        if samples.dim() != 2 or len(samples) < 2 or samples.shape[1] < 1:
            raise InputError(f"A prior's samples must have shape (M, D) with M >= 2; got {tuple(samples.shape)}.")
        self.samples = samples
        super().__init__(torch.Size(), torch.Size([samples.shape[1]]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws with replacement, shape sample_shape + (D,), float64, by torch's global generator."""
        return self.samples[torch.randint(len(self.samples), torch.Size(sample_shape))].double()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Raise CapabilityError: a cloud of samples has no density."""
        raise CapabilityError(
            f"This method needs the prior's density log p(z), but the prior is a cloud of {len(self.samples)} samples: use a "
            "method that needs samples only (klprobe list), or give the prior's density (--prior normal, mixture:FILE)."
        )

    def __repr__(self) -> str:
        return f"Cloud({len(self.samples)} samples in {self.samples.shape[1]} dimensions)"


def mixture(components: DiagonalGaussian, weights: torch.Tensor | None = None) -> MixtureSameFamily:
    """sum_k w_k N(mean_k, diag(std_k^2)) over the rows of `components`; event shape (D,), float64.

    With the posteriors of K pseudo-inputs and equal weights it is the VampPrior (Tomczak & Welling 2018, eq. 9).

    Args:
        components: K Gaussians, one in each row.
        weights: Weights of the components, shape (K,), not negative, which are divided by their sum; None means equal ones.
    Raises:
        InputError: the number of weights is not K, or weights are negative or all zero.
    """
    mean, std = components.rows(slice(None))
    weights = torch.ones(len(mean), dtype=torch.float64) if weights is None else weights.double()
    if weights.shape != (len(mean),) or not weights.isfinite().all() or (weights < 0).any() or not weights.sum() > 0:
        what = f"they reach from {weights.min():g} to {weights.max():g}" if len(weights) == len(mean) else f"got {len(weights)}"
        raise InputError(
            f"A mixture of {len(mean)} components needs one weight for each, none of them negative and not all of them "
            f"zero; {what}."
        )
    return MixtureSameFamily(
        Categorical(probs=weights / weights.sum(), validate_args=False),
        Independent(Normal(mean, std, validate_args=False), 1),
        validate_args=False,
    )
