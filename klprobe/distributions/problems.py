"""Synthetic problems whose KL is known, with which estimators are tested.

There are two kinds: an encoder with data points, `linear_gaussian_encoder`, whose population has a closed form; and two
distributions that methods know by their samples alone, which `two_samples` makes of any two, as it hides the densities.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    constraints,
    kl_divergence,
)
from torch.distributions.transforms import Transform

from klprobe.distributions.posteriors import ConditionalDistribution, DiagonalGaussian, sample_with, standard_normal
from klprobe.types import CapabilityError, InputError

POINTS = 100_000
"""Number of data points of an encoder that ignores its input; nothing is stored for them."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A posterior, a prior and the truth.

    Attributes:
        posterior: Posterior of batch shape (N,) and event shape (D,).
        prior: Prior of event shape (D,).
        population_kl: KL[q||p] of the population that the points were drawn from, in nats.
    """

    posterior: Distribution
    prior: Distribution
    population_kl: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two distributions with densities and the truth between them.

    Attributes:
        q, p: Distributions of event shape (D,), float64, which both have `sample` and `log_prob`.
        kl: KL[q||p] in nats.
    """

    q: Distribution
    p: Distribution
    kl: float


class FreshDraws(ConditionalDistribution):
    """An encoder that ignores its input, q(z|x_n) = q(z), so that each draw at any data point is a fresh draw of q."""

    has_log_prob = False

    def __init__(self, q: Distribution, num_points: int = POINTS) -> None:
        self.q = q
        super().__init__(num_points, q.event_shape[0])

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One fresh draw for each index, shape (m, D), float64."""
        return sample_with(self.q, len(indices), generator).double()

    def select(self, indices: torch.Tensor) -> FreshDraws:
        """The same distribution at fewer points."""
        return FreshDraws(self.q, len(indices))


class Hidden(Distribution):
    """A prior that can be sampled, and whose density is hidden from the methods."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_log_prob = False

    def __init__(self, p: Distribution) -> None:
        self.p = p
        super().__init__(torch.Size(), p.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (D,), from torch's global generator."""
        return self.p.sample(sample_shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Raise CapabilityError, because the density is hidden."""
        raise CapabilityError("This method needs the prior's density log p(z), but the prior is known by its samples alone.")


def two_samples(pair: Pair, num_points: int = POINTS) -> Problem:
    """Hide the densities of a pair, so that methods have samples of both sides alone, fresh ones and as many as they need."""
    return Problem(FreshDraws(pair.q, num_points), Hidden(pair.p), pair.kl)


class Gaussian(MultivariateNormal):
    """N(mean, L L^T), sampled by one matrix product; torch multiplies draw by draw, 100 times slower at D = 1000."""

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (D,)."""
        noise = torch.randn(*torch.Size(sample_shape), *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise @ self.scale_tril.T


def features_of(dim: int, features: int | None) -> int:
    """Number of features k of x = W^T z + b, by default 10 d; InputError for d < 1 or k < d."""
    k = 10 * dim if features is None else features
    if dim < 1:
        raise InputError(f"a Gaussian needs at least one dimension; got d = {dim}.")
    if k < dim:
        raise InputError(
            f"x = W^T z + b has a density only for d <= k; got d = {dim}, k = {k}: W^T W would be singular. Raise k."
        )
    return k


def affine_weights(dim: int, *, generator: torch.Generator, features: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw W in R^{k x d}, then b in R^d, float64, for x = W^T z + b with z ~ N(0, I_k); all entries ~ N(0, 1).

    Args:
        dim: Dimension d.
        generator: Draws W, then b.
        features: k, at least d; by default 10 d.

    Raises:
        InputError: d < 1 or k < d.
    Reference: DMVI section 5 and appendix E, which leave the laws of W and b open; these are klprobe's.
    """
    weights = torch.randn(features_of(dim, features), dim, generator=generator, dtype=torch.float64)
    return weights, torch.randn(dim, generator=generator, dtype=torch.float64)


def affine_gaussian(weights: torch.Tensor, mean: torch.Tensor, *, unit_scale: bool = False) -> Gaussian:
    """N(b, W^T W) in float64, the distribution of x = W^T z + b.

    Args:
        weights: Matrix W, shape (k, d).
        mean: Vector b, shape (d,).
        unit_scale: Whether to divide by sqrt(k), so that with entries ~ N(0, 1) every latent varies by about 1.

    Raises:
        InputError: W^T W is singular, or has entries that are not finite.
    """
    k, dim = weights.shape
    factor, info = torch.linalg.cholesky_ex(weights.double().T @ weights.double())
    if int(info) or not torch.isfinite(factor).all():
        raise InputError(f"W^T W is singular in float64 at d = {dim}, k = {k}: raise k, or take another seed.")
    root = math.sqrt(k) if unit_scale else 1.0
    return Gaussian(mean.double() / root, scale_tril=factor / root, validate_args=False)


def paper_gaussian(dim: int, *, generator: torch.Generator, features: int | None = None, unit_scale: bool = False) -> Gaussian:
    """Make the `affine_gaussian` of `affine_weights`, with the arguments and errors of both."""
    return affine_gaussian(*affine_weights(dim, generator=generator, features=features), unit_scale=unit_scale)


def paper_pair(dim: int, *, generator: torch.Generator, features: int | None = None, unit_scale: bool = False) -> Pair:
    """Two independent `paper_gaussian`s, q drawn first, and KL[q||p] in closed form."""
    q, p = (paper_gaussian(dim, generator=generator, features=features, unit_scale=unit_scale) for _ in range(2))
    return Pair(q, p, float(kl_divergence(q, p)))


def shifted_gaussians(dim: int, kl: float) -> Pair:
    """N(m, I) and N(0, I), all entries of m equal and |m|^2 = 2 kl; kl = 0 makes q = p.

    Raises:
        InputError: d < 1 or a KL that is negative or not finite.
    """
    if dim < 1 or not 0 <= kl < math.inf:
        raise InputError(f"Shifted Gaussians need at least one dimension and a finite KL >= 0; got d = {dim}, KL = {kl}.")
    shift = torch.full((dim,), math.sqrt(2 * kl / dim), dtype=torch.float64)
    return Pair(Independent(Normal(shift, torch.ones_like(shift)), 1), standard_normal(dim), kl)


def mixtures(
    dim: int, means: Sequence[float] = (-1.5, 0.5, 2.0), stds: Sequence[float] = (0.5, 0.3, 0.8), weights: Sequence[float] = ()
) -> Pair:
    """D independent copies of a one-dimensional mixture of Gaussians against N(0, I); the KL is D times one by quadrature.

    D independent mixtures of K make K^D modes, and the truth stays a one-dimensional integral.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (means, stds))
    share = torch.tensor(weights or [1.0] * len(means), dtype=torch.float64)
    one = MixtureSameFamily(Categorical(probs=share / share.sum()), Normal(mean, std))
    # 12 standard deviations leave out a mass of 1e-33; panels of a fifth of the narrowest std make 20 nodes exact to rounding.
    low, high = float((mean - 12 * std).min()), float((mean + 12 * std).max())
    z, w = _gauss_legendre(low, high, math.ceil(5 * (high - low) / min(stds)))
    log_q = one.log_prob(z)
    kl = dim * float((w * log_q.exp() * (log_q - Normal(0.0, 1.0).log_prob(z))).sum())
    copies = Categorical(probs=one.mixture_distribution.probs.expand(dim, -1))
    many = MixtureSameFamily(copies, Normal(mean, std).expand((dim, len(mean))))
    return Pair(Independent(many, 1), standard_normal(dim), kl)


def student_t(dim: int, df: float = 5.0) -> Pair:
    """D independent Student-t latents, scaled to variance 1, against N(0, I).

    Raises:
        InputError: df <= 2, where the variance and the KL are infinite.
    """
    if not df > 2:
        raise InputError(f"Student-t against a Gaussian has a finite KL only for df > 2; got {df:g}.")
    nu = torch.tensor(df, dtype=torch.float64)
    scale = torch.sqrt((nu - 2) / nu)
    one = StudentT(nu, torch.zeros((), dtype=torch.float64), scale)
    kl = dim * (0.5 * math.log(2 * math.pi) + 0.5 - float(one.entropy()))
    return Pair(Independent(one.expand((dim,)), 1), standard_normal(dim), kl)


class Warp(Transform):
    """An invertible map of R^D: both sides of a pair go through it and their KL stays what it was.

    Args:
        name: `half-cube`, sign(x) |x|^1.5; `asinh`, asinh(2 x); `spiral`, neighbouring latents turned by |x|^2 / D;
            `mix`, x_d + 0.3 x_{d-1}; `asinh-mix`, asinh(2 x) and then mix.
    """

    domain = constraints.independent(constraints.real, 1)
    codomain = constraints.independent(constraints.real, 1)
    bijective = True
    SHARE = 0.3

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ("half-cube", "asinh", "spiral", "mix", "asinh-mix"):
            raise InputError(f"Unknown warp {name!r}; known: half-cube, asinh, spiral, mix, asinh-mix.")
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Warp) and other.name == self.name

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        if self.name == "half-cube":
            return x.sign() * x.abs().pow(1.5)
        if self.name == "spiral":
            return _turn(x, +1.0)
        y = torch.asinh(2 * x) if self.name.startswith("asinh") else x
        return y + self.SHARE * y.roll(1, -1) if self.name.endswith("mix") else y

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        if self.name == "half-cube":
            return y.sign() * y.abs().pow(2 / 3)
        if self.name == "spiral":
            return _turn(y, -1.0)
        if self.name.endswith("mix"):
            y = torch.linalg.solve(_mixing(y.shape[-1], y), y.unsqueeze(-1)).squeeze(-1)
        return 0.5 * torch.sinh(y) if self.name.startswith("asinh") else y

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """log |det dy/dx|, shape (...)."""
        if self.name == "half-cube":
            return (math.log(1.5) + 0.5 * x.abs().log()).sum(-1)
        if self.name == "spiral":  # a turn by an angle that depends on the radius alone changes no volume
            return torch.zeros_like(x[..., 0])
        total = torch.zeros_like(x[..., 0])
        if self.name.startswith("asinh"):
            total = total + (math.log(2) - 0.5 * torch.log1p(4 * x.square())).sum(-1)
        if self.name.endswith("mix"):
            total = total + torch.linalg.slogdet(_mixing(x.shape[-1], x)).logabsdet
        return total


def _mixing(dim: int, like: torch.Tensor) -> torch.Tensor:
    """The matrix of `mix`: y = M x."""
    eye = torch.eye(dim, dtype=like.dtype, device=like.device)
    return eye + Warp.SHARE * eye.roll(1, 0)


def _turn(x: torch.Tensor, sign: float) -> torch.Tensor:
    """Turn latents 0 and 1, 2 and 3, ... together by the angle |x|^2 / D; an odd last one stays as it is."""
    dim = x.shape[-1]
    even = dim - dim % 2
    angle = sign * x.square().sum(-1, keepdim=True) / dim
    a, b = x[..., 0:even:2], x[..., 1:even:2]
    turned = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)
    return torch.cat([turned, x[..., even:]], -1)


def warped(pair: Pair, name: str) -> Pair:
    """Map both sides by the same `Warp`, which leaves the KL as it is."""
    q, p = (TransformedDistribution(side, [Warp(name)], validate_args=False) for side in (pair.q, pair.p))
    return Pair(q, p, pair.kl)


def linear_gaussian_encoder(
    dim: int, num_points: int, std: float, *, generator: torch.Generator, spread: tuple[float, float] = (0.7, 1.2)
) -> Problem:
    """x ~ N(0, I), q(z|x) = N(Ax, std^2 I), p = N(0, I): the population's q(z) is N(0, AA^T + std^2 I).

    A is a random rotation times a diagonal that makes the standard deviations of q(z) run evenly over `spread`.

    Args:
        dim: D; `num_points` is N.
        std: Posterior standard deviation, below the smallest of `spread`.
        generator: Draws the rotation and the points.
        spread: Smallest and largest standard deviation of the population's q(z).

    Raises:
        InputError: `std` is not below the smallest of `spread`.
    """
    if not 0 < std < min(spread):
        raise InputError(f"The posterior std must lie between 0 and the smallest std of q(z), {min(spread)}; got {std}.")
    target = torch.linspace(*spread, dim, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    x = torch.randn(num_points, dim, generator=generator, dtype=torch.float64)
    mean = x * (target.square() - std**2).sqrt() @ rotation.T
    kl = 0.5 * (target.square() - 1 - target.square().log()).sum()
    return Problem(DiagonalGaussian(mean, std=torch.full_like(mean, std)), standard_normal(dim), float(kl))


def shifted_encoder(dim: int, kl: float, num_points: int, *, generator: torch.Generator, information: float = 5.0) -> Problem:
    """x ~ N(0, I), q(z|x) = N(m + a x, s^2 I), a^2 + s^2 = 1: the population's q(z) is `shifted_gaussians`' N(m, I).

    Args:
        dim: D; `num_points` is N.
        kl: KL[q||p] of the population.
        generator: Draws the points.
        information: Mutual information of x and z in nats, all latents together: s = exp(-information / D).

    Raises:
        InputError: as for `shifted_gaussians`, or the information is not above 0.
    """
    pair = shifted_gaussians(dim, kl)
    if not 0 < information < math.inf:
        raise InputError(
            "The information of codes about their data point must be a finite number of nats above 0; got information "
            f"= {information}."
        )
    std = math.exp(-information / dim)
    x = torch.randn(num_points, dim, generator=generator, dtype=torch.float64)
    mean = pair.q.mean + math.sqrt(-math.expm1(-2 * information / dim)) * x
    return Problem(DiagonalGaussian(mean, std=torch.full_like(mean, std)), pair.p, kl)


def _gauss_legendre(low: float, high: float, panels: int, nodes: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of composite Gauss-Legendre quadrature, float64."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
    edges = torch.linspace(low, high, panels + 1, dtype=torch.float64)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    return ((edges[:-1, None] + half) + half * x).flatten(), (half * w).flatten()
