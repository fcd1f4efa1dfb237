"""Posteriors q(z|x_n), priors p(z), and the divergences between them that have a closed form.

A posterior is a `torch.distributions.Distribution` with batch shape (N,) and event shape (D,), a prior is one with
event shape (D,). `as_posterior` gives any of them the two operations that estimators use: draw at chosen points,
evaluate at chosen points. All densities are float64 and in nats.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch.distributions import (
    Categorical,
    ContinuousBernoulli,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
    kl_divergence,
)

from klprobe.distributions.families import as_double, bare, check_parameters, log_density, measure, sample_with, take
from klprobe.runtime.randomness import from_global
from klprobe.types import CapabilityError, InputError, Posterior

Other = TypeVar("Other", bound="ConditionalDistribution")

LOG_2PI = math.log(2 * math.pi)
PRODUCT_TOLERANCE = 5e-10
"""Largest a-priori rounding error, in nats, at which squared distances are computed as a matrix product."""
UNIT_ROUNDOFF = 2.0**-53
"""A sum of K products errs by at most K times this times the sum of their magnitudes (Higham 2002, section 3.1)."""
DEPTH = 128
"""Number of terms of a sum of products that are added at once where all of them at once would lose too many digits."""
ROWS_AT_ONCE = 8192
"""Number of rows converted to float64 at a time in a pass over all data, which limits memory and changes no result."""


def exact_depth(magnitude: float, terms: int) -> int:
    """Number of terms of a sum of products to add at once for an error below `PRODUCT_TOLERANCE`: all, few, or 0.

    Args:
        magnitude: Largest sum of the terms' absolute values.
        terms: Number of terms, each factor of which may have a rounding error of its own.
    """
    for depth in (terms, min(DEPTH, terms)):
        if magnitude * (depth + math.ceil(terms / depth) + 1) * UNIT_ROUNDOFF <= PRODUCT_TOLERANCE:
            return depth
    return 0


def as_numpy_knows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, as float32 where it is bfloat16, which NumPy does not have; no value changes."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


class ConditionalDistribution(Distribution):
    """Base class of klprobe's own posteriors: a Distribution whose batch is the data set."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_log_prob = True
    weights: torch.Tensor | None = None
    """Weight of each row, shape (N,), float64, of mean 1 over the data set; None: all rows weigh the same."""
    groups: torch.Tensor | None = None
    """Group of each row, shape (N,), int64: rows of one group are not independent; None: every row is."""
    clusters: Any = None
    """Groups and copies together, once `klprobe.distributions.clusters` has looked for them."""

    def __init__(self, num_points: int, dim: int) -> None:
        if num_points < 2:
            raise InputError(
                f"A posterior needs at least 2 data points, but got N = {num_points}. "
                "With one point q(z) is that point's conditional: use torch.distributions.kl_divergence."
            )
        if dim < 1:
            raise InputError("A posterior needs at least 1 latent dimension, but got D = 0.")
        super().__init__(torch.Size([num_points]), torch.Size([dim]), validate_args=False)

    @property
    def num_points(self) -> int:
        """N, the number of data points."""
        return self.batch_shape[0]

    @property
    def dim(self) -> int:
        """D, the number of latents."""
        return self.event_shape[0]

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw z_i ~ q(z|x_{indices_i}); shape (m, D), float64."""
        raise CapabilityError(f"{type(self).__name__} cannot be sampled.")

    def log_prob_at(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_{indices_i}) in nats, shape (m,)."""
        raise CapabilityError(
            "The encoder gives samples and no density log q(z|x). Use a method that needs samples only "
            "(classifier, gmm, maf, lstm), or load an encoder that returns mean and logvar."
        )

    def log_prob_matrix(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_n) of every pair, shape (len(z), len(indices)); the caller keeps the tile small."""
        pairs = z.repeat_interleave(len(indices), 0), indices.repeat(len(z))
        return self.log_prob_at(*pairs).reshape(len(z), len(indices))

    def select(self, indices: torch.Tensor) -> ConditionalDistribution:
        """The posterior of a subset of the points, in the order of `indices`."""
        raise CapabilityError(f"{type(self).__name__} cannot be split.")

    def again(self) -> Self:
        """The same posterior as another object, whose rows can be weighed and grouped without changing this one's."""
        return copy.copy(self)

    def same_rows(self, other: Other, indices: torch.Tensor | None = None) -> Other:
        """`other`, which has these rows, or those of `indices`, in order, with their weights and groups."""
        for name in ("weights", "groups"):
            given = getattr(self, name)
            if given is not None:
                setattr(other, name, given if indices is None else given[indices.to(given.device)])
        if self.clusters is not None and indices is None:
            other.clusters = self.clusters
        return other

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws of every point, shape sample_shape + (N, D), from torch's global generator."""
        shape = torch.Size(sample_shape)
        rng = from_global()
        indices = torch.arange(self.num_points).repeat(math.prod(shape))
        return self.sample_at(indices, rng).reshape(*shape, self.num_points, self.dim)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log q(z_n|x_n) of one z per point; `value` broadcasts to (..., N, D), the result is (..., N)."""
        value = value.expand(torch.broadcast_shapes(value.shape, (self.num_points, self.dim)))
        indices = torch.arange(self.num_points).repeat(math.prod(value.shape[:-2]))
        return self.log_prob_at(value.reshape(-1, self.dim).double(), indices).reshape(value.shape[:-1])


class DiagonalGaussian(ConditionalDistribution):
    """q(z|x_n) = N(mean_n, diag(std_n^2)).

    The spread is kept as it was given, so that arrays of a million points can stay memory-mapped; `rows` converts
    the chosen rows to float64.

    Args:
        mean: Means, shape (N, D).
        logvar, var, std: Log-variances, variances or standard deviations, shape (N, D); exactly one of the three.
    Raises:
        InputError: shapes disagree, N is below 2, or there is no spread or more than one.
    """

    def __init__(
        self,
        mean: torch.Tensor,
        *,
        logvar: torch.Tensor | None = None,
        var: torch.Tensor | None = None,
        std: torch.Tensor | None = None,
    ) -> None:
        given = {name: t for name, t in (("logvar", logvar), ("var", var), ("std", std)) if t is not None}
        if len(given) != 1:
            raise InputError(f"Give exactly one of logvar, var, std; got {sorted(given) or 'none'}.")
        ((self.parametrization, self.spread),) = given.items()
        if mean.dim() != 2 or mean.shape != self.spread.shape:
            raise InputError(
                f"mean and {self.parametrization} must both have shape (N, D); "
                f"got {tuple(mean.shape)} and {tuple(self.spread.shape)}."
            )
        self._mean, self.spread = as_numpy_knows(mean), as_numpy_knows(self.spread)
        super().__init__(*mean.shape)

    def rows(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the chosen points, each (m, D), float64; any index torch takes."""
        mean, spread = self._mean[indices].double(), self.spread[indices].double()
        if self.parametrization == "logvar":
            return mean, torch.exp(0.5 * spread)
        return mean, spread.sqrt() if self.parametrization == "var" else spread

    def blocks(self, size: int = ROWS_AT_ONCE) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Mean and standard deviation of all points in order, at most `size` rows at a time."""
        for start in range(0, self.num_points, size):
            yield self.rows(slice(start, start + size))

    @property
    def mean(self) -> torch.Tensor:
        """Means, shape (N, D), in the precision they were given in."""
        return self._mean

    @property
    def stddev(self) -> torch.Tensor:
        """Standard deviations, shape (N, D), float64."""
        return self.rows(slice(None))[1]

    @property
    def variance(self) -> torch.Tensor:
        """Variances, shape (N, D), float64."""
        return self.stddev.square()

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw z_i ~ q(z|x_{indices_i}); shape (m, D), float64."""
        mean, std = self.rows(indices)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        return mean + std * noise.to(mean.device)

    def log_prob_at(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_{indices_i}) in nats, shape (m,), by differences (exact for any spread)."""
        mean, std = self.rows(indices)
        return -0.5 * ((z - mean) / std).square().sum(-1) - std.log().sum(-1) - 0.5 * self.dim * LOG_2PI

    def log_prob_matrix(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_n) of every pair, shape (len(z), len(indices)).

        It uses matrix products where their rounding error, bounded beforehand, is below 5e-10 nats, and differences elsewhere.
        """
        mean, std = self.rows(indices)
        precision = std.reciprocal().square()
        centre = mean.mean(0)
        shifted, moved = mean - centre, z - centre
        linear = shifted * precision
        norm = -std.log().sum(1) - 0.5 * self.dim * LOG_2PI
        weights = torch.cat([-0.5 * precision, linear, (norm - 0.5 * (shifted * linear).sum(1))[:, None]], 1).T
        features = torch.cat([moved.square(), moved, torch.ones_like(z[:, :1])], 1)
        most = min((features.abs().amax(0) @ weights.abs()).max(), (features.abs() @ weights.abs().amax(1)).max())
        if depth := exact_depth(float(most), len(weights)):
            product = features[:, :depth] @ weights[:depth]
            for start in range(depth, len(weights), depth):
                product.addmm_(features[:, start : start + depth], weights[start : start + depth])
            return product
        total = torch.zeros(len(z), len(mean), dtype=torch.float64, device=z.device)
        for d in range(self.dim):
            total += ((z[:, d, None] - mean[:, d]) / std[:, d]).square()
        return norm - 0.5 * total

    def to(self, device: str | torch.device) -> DiagonalGaussian:
        """The same posterior with its arrays on another device."""
        return self.same_rows(DiagonalGaussian(self._mean.to(device), **{self.parametrization: self.spread.to(device)}))

    def select(self, indices: torch.Tensor) -> DiagonalGaussian:
        """The posterior of a subset of the points, in the order of `indices`."""
        chosen = DiagonalGaussian(self._mean[indices], **{self.parametrization: self.spread[indices]})
        return self.same_rows(chosen, indices)


class SampleOnly(ConditionalDistribution):
    """An encoder known by one sample per point, shape (N, D): implicit, or deterministic (the mean alone).

    Drawing at a point gives that point's sample. There is no log q(z|x), so no Monte Carlo, mutual information or
    average KL; if the encoder is deterministic, its mutual information is infinite.
    """

    has_log_prob = False

    def __init__(self, samples: torch.Tensor, *, deterministic: bool = False) -> None:
        if samples.dim() != 2:
            raise InputError(f"samples must have shape (N, D); got {tuple(samples.shape)}.")
        self.samples, self.deterministic = as_numpy_knows(samples), deterministic
        super().__init__(*samples.shape)

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The stored sample of each chosen point, shape (m, D), float64."""
        return self.samples[indices].double()

    def select(self, indices: torch.Tensor) -> SampleOnly:
        """The samples of a subset of the points, in the order of `indices`."""
        return self.same_rows(SampleOnly(self.samples[indices], deterministic=self.deterministic), indices)


class TorchPosterior(ConditionalDistribution):
    """Any torch Distribution with batch shape (N,) and event shape (D,), addressed point by point."""

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution
        super().__init__(distribution.batch_shape[0], distribution.event_shape[0])

    @property
    def mean(self) -> torch.Tensor:
        """Means, shape (N, D); NotImplementedError where torch knows none."""
        return self.distribution.mean

    @property
    def variance(self) -> torch.Tensor:
        """Marginal variances, shape (N, D); NotImplementedError where torch knows none."""
        return self.distribution.variance

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw z_i ~ q(z|x_{indices_i}); shape (m, D), float64."""
        return sample_with(take(self.distribution, indices), 1, generator)[0].double()

    def log_prob_at(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_{indices_i}) in nats, shape (m,)."""
        return log_density(take(self.distribution, indices), z)

    def log_prob_matrix(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_n) of every pair, shape (len(z), len(indices)), by broadcasting."""
        return log_density(take(self.distribution, indices), z.unsqueeze(1))

    def select(self, indices: torch.Tensor) -> TorchPosterior:
        """The posterior of a subset of the points, in the order of `indices`."""
        return self.same_rows(TorchPosterior(take(self.distribution, indices)), indices)


def as_posterior(distribution: Any) -> Posterior:
    """Give a torch Distribution the operations of `Posterior`; klprobe's own pass through.

    A diagonal normal takes the fast path of `DiagonalGaussian`. Parameters are promoted to float64.
    Raises:
        InputError: batch and event shapes are not (N,) and (D,).
        TypeError: the argument is not a Distribution.
    """
    if isinstance(distribution, ConditionalDistribution):
        return distribution
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"A posterior is a torch Distribution with batch shape (N,) and event shape (D,); got {type(distribution).__name__}"
        )
    if len(distribution.batch_shape) != 1 or len(distribution.event_shape) != 1:
        raise InputError(
            "A posterior is a torch Distribution with batch shape (N,) and event shape (D,); got batch shape "
            f"{tuple(distribution.batch_shape)} and event shape {tuple(distribution.event_shape)}. {_remedy(distribution)}"
        )
    normal = diagonal_normal(distribution)
    if normal is not None:
        return DiagonalGaussian(normal[0].detach(), std=normal[1].detach())
    return TorchPosterior(as_double(distribution))


def _remedy(distribution: Distribution) -> str:
    """What makes it a posterior."""
    name, batch, event = type(bare(distribution)).__name__, len(distribution.batch_shape), len(distribution.event_shape)
    if isinstance(distribution, Categorical):
        return "One class for each data point is OneHotCategorical(logits=...) of shape (N, K)."
    if event == 0:
        shape = "" if batch > 1 else ", with parameters of shape (N, 1)"
        return f"Wrap it: Independent({name}(...), {max(batch - 1, 1)}){shape}."
    if event == 1:
        return "Flatten its parameters, so that their first dimension is that of the data points."
    return "Several dimensions of z are flattened to one; of several categorical latents each is a part (klprobe.Classes)."


def standard_normal(dim: int) -> Independent:
    """The prior N(0, I) in `dim` dimensions, float64."""
    return Independent(Normal(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)), 1)


def diagonal_normal(distribution: Distribution) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and standard deviation when the distribution is a normal with diagonal covariance, else None."""
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return distribution.base_dist.loc.detach(), distribution.base_dist.scale.detach()
    return None


def check_prior(posterior: Posterior, prior: Distribution) -> None:
    """Raise InputError unless the prior is one distribution over the posterior's space."""
    if tuple(prior.batch_shape) == () and len(prior.event_shape) == 1 and prior.event_shape[0] != posterior.dim:
        raise InputError(
            f"The posterior has {posterior.dim} latents, but the prior has {prior.event_shape[0]}: give a prior over as many."
        )
    if not prior.event_shape and prior.batch_shape:
        raise InputError(
            f"The prior has batch shape {tuple(prior.batch_shape)} and event shape (), which is {prior.batch_shape[0]} priors "
            f"of one number. Wrap it: Independent({type(prior).__name__}(...), {len(prior.batch_shape)})."
        )
    if prior.batch_shape and tuple(prior.event_shape) == (posterior.dim,):
        raise InputError(
            f"The prior has batch shape {tuple(prior.batch_shape)}, and N = {posterior.num_points}: one prior of all points "
            "has batch shape (), and one of each data point, p(z|x), has batch shape (N,), for klprobe estimate alone."
        )
    if tuple(prior.batch_shape) != () or tuple(prior.event_shape) != (posterior.dim,):
        raise InputError(
            f"The posterior has {posterior.dim} latents, but the prior has event shape {tuple(prior.event_shape)} and batch "
            f"shape {tuple(prior.batch_shape)}. Give a prior with event shape ({posterior.dim},) and batch shape ()."
        )
    check_parameters(prior)
    ours, theirs = measure_of(posterior), measure_of(prior)
    if ours and theirs and ours != theirs:
        raise InputError(
            f"The posterior ({_name(posterior)}) {LIES[ours]}, and the prior ({_name(prior)}) {LIES[theirs]}: neither has a "
            f"density with respect to the other, and their KL is infinite. Give a prior that {LIES[ours]}"
            f"{', such as OneHotCategorical(logits=zeros) or Bernoulli(probs=half)' if ours == 'atoms' else ''}."
        )


LIES: dict[str, str] = {"space": "has a density in space", "simplex": "lies on the simplex", "atoms": "is discrete"}
"""What a measure says of z, in words."""


def measure_of(side: Any) -> str | None:
    """What a density of q or p is taken with respect to; None where there is none, or no saying.

    An aggregate posterior's is that of its conditionals.
    """
    if isinstance(inner := getattr(side, "posterior", None), ConditionalDistribution):
        return measure_of(inner)
    return measure(side.distribution if isinstance(side, TorchPosterior) else side)


def need_volume(posterior: Posterior, prior: Distribution, method: str) -> None:
    """Raise CapabilityError where codes are discrete, or lie on a simplex: `method` takes densities in space, or distances."""
    for side in (posterior, prior):
        if (lies := measure_of(side)) in ("atoms", "simplex"):
            raise CapabilityError(
                f"{method} needs codes with a density in space, but {_name(side)} {LIES[lies]}: use --methods monte-carlo "
                "classifier."
            )


def _name(side: Any) -> str:
    """A distribution's name as a user typed it."""
    return type(bare(side.distribution if isinstance(side, TorchPosterior) else side)).__name__


def prior_log_prob(prior: Distribution, z: torch.Tensor) -> torch.Tensor:
    """log p(z) in nats, float64, -infinity outside of the prior's support; shape (m,) for z of shape (m, D)."""
    return log_density(as_double(prior), z)


def sample_prior(prior: Distribution, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Draw from p(z), shape (num_samples, D), float64, with the given generator alone."""
    normal = diagonal_normal(prior)
    if normal is None:
        return sample_with(as_double(prior), num_samples, generator).double()
    mean, std = (t.double() for t in normal)
    noise = torch.randn(num_samples, mean.shape[-1], generator=generator, dtype=torch.float64)
    return mean + std * noise.to(mean.device)


def has_density(distribution: Distribution) -> bool:
    """Whether the distribution has a density: torch's own have one, and those of klprobe say so in `has_log_prob`."""
    return bool(getattr(distribution, "has_log_prob", True))


def conditional_kl(posterior: Posterior, prior: Distribution) -> torch.Tensor | None:
    """Compute KL[q(z|x_n)||p] of every point, in nats, shape (N,); None when it has no closed form."""
    normal = diagonal_normal(prior)
    if isinstance(posterior, DiagonalGaussian) and isinstance(prior, DiagonalGaussian):
        parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, posterior.num_points, ROWS_AT_ONCE)]
        return torch.cat([_gaussian_kl(*posterior.rows(part), *prior.rows(part)).sum(-1) for part in parts])
    if isinstance(posterior, DiagonalGaussian) and prior.batch_shape and normal is not None:
        return conditional_kl(posterior, DiagonalGaussian(normal[0], std=normal[1]))  # a prior of each data point
    if isinstance(posterior, DiagonalGaussian) and normal is not None:
        p_mean, p_std = (t.double() for t in normal)
        out = torch.empty(posterior.num_points, dtype=torch.float64, device=posterior.mean.device)
        for start in range(0, posterior.num_points, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            out[part] = _gaussian_kl(*posterior.rows(part), p_mean, p_std).sum(-1)
        return out
    if isinstance(posterior, TorchPosterior):
        if any(isinstance(bare(side), ContinuousBernoulli) for side in (posterior.distribution, prior)):
            return None  # torch's formulas call it infinite where the supports are the same
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError, IndexError):  # draws do where a formula fails
            batch = posterior.distribution.batch_shape  # some of torch's formulas do not broadcast
            kl = kl_divergence(posterior.distribution, as_double(prior).expand(batch)).detach()
            return kl if kl.shape == posterior.distribution.batch_shape and not kl.isnan().any() else None
        if isinstance(posterior.distribution, MultivariateNormal) and normal is not None:
            mean, std = (t.double() for t in normal)
            return kl_divergence(posterior.distribution, MultivariateNormal(mean, scale_tril=torch.diag(std)))
    return None


def _gaussian_kl(q_mean: torch.Tensor, q_std: torch.Tensor, p_mean: torch.Tensor, p_std: torch.Tensor) -> torch.Tensor:
    """KL[N(q_mean, q_std^2) || N(p_mean, p_std^2)] elementwise, nats."""
    ratio = q_std / p_std
    return 0.5 * (ratio.square() - 1 + ((q_mean - p_mean) / p_std).square()) - ratio.log()
