"""The aggregate posterior q_N(z) = 1/N sum_n q(z|x_n), or a weighted sum: a torch Distribution, exact and streamed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.distributions import Distribution, Independent, constraints

from klprobe.distributions import tiles
from klprobe.distributions.clusters import by_weight, with_rows
from klprobe.distributions.posteriors import ROWS_AT_ONCE, DiagonalGaussian, TorchPosterior, as_posterior, take
from klprobe.distributions.tiles import Array
from klprobe.runtime import parallel
from klprobe.runtime.randomness import from_global
from klprobe.types import CapabilityError, InputError, Posterior, Progress, no_progress

MOST_LATENTS = 4096
"""Largest number of latents for which the covariance is computed: 4,096 x 4,096 numbers of float64 take 134 MB."""


class AggregatePosterior(Distribution):
    """q_N(z) = 1/N sum_n q(z|x_n), the mixture of the N conditionals of a data set; event shape (D,), float64.

    With weights it is sum_n w_n q(z|x_n) / sum_n w_n, in whatever is said of it below.

    Its log-density is a log-sum-exp over all N components, right to about 1e-9 nats, in which no (M, N) matrix is ever in
    memory: what is far below the sum is recognised from bounds and left out (`klprobe.distributions.tiles`). It has
    no gradients. It is a prior like any other.

    Args:
        posterior: Any torch Distribution with batch shape (N,) and event shape (D,), or one of klprobe's own.
        weights: Weights of the components, shape (N,), positive; by default those of the posterior, equal unless it says so.
        threads: Number of CPU threads; None means all. No result depends on it.
        shared: Whether the processes that torchrun started share the work of every density: then all of them have to ask for
            the same densities. Otherwise each process works by itself.
    Attributes:
        posterior: The conditionals q(z|x_n), with the operations of `ConditionalDistribution`.
    Raises:
        InputError: the distribution has another batch or event shape, or the weights another length, or one is not positive.
    Reference: Hoffman and Johnson (2016), ELBO surgery; Makhzani et al. (2016) call it the aggregated posterior.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        posterior: Distribution | Posterior,
        *,
        weights: torch.Tensor | None = None,
        threads: int | None = None,
        shared: bool = False,
    ) -> None:
        self.posterior: Posterior = as_posterior(posterior)
        if weights is not None:
            self.posterior = with_rows(self.posterior, weights=weights)
        self.threads, self.shared = threads, shared
        super().__init__(torch.Size(), torch.Size([self.posterior.dim]), validate_args=False)

    def __repr__(self) -> str:
        weighted = "" if self.weights is None else ", weighted"
        return f"AggregatePosterior(N = {self.posterior.num_points}, D = {self.posterior.dim}{weighted})"

    @property
    def weights(self) -> torch.Tensor | None:
        """Weights of the components, shape (N,), float64, with mean 1 over the whole data set; None where they are equal."""
        return self.posterior.weights

    @property
    def total(self) -> float:
        """What `log_sum` is to be divided by: N, or the sum of the weights."""
        return self.posterior.num_points if self.weights is None else float(self.weights.sum())

    @property
    def has_log_prob(self) -> bool:
        """Whether the components have a density."""
        return self.posterior.has_log_prob

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log q_N(z) in nats, float64.

        Args:
            value: Codes, shape (..., D), on any device; they must not require gradients.
        Returns:
            Shape (...), on the device of the codes.
        Raises:
            CapabilityError: the posterior has no density.
            InputError: codes of another shape, or that require gradients.
        """
        z = self._codes(value)
        return self._like(self.log_sum(z) - math.log(self.total), value)

    def leave_one_out_log_prob(self, value: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log of the mixture of the components that are not left out, at each code, in nats, float64.

        Args:
            value: Codes, shape (..., D).
            indices: Which components to leave out of each code's mixture, shape (...) for one each, or (..., k); -1 for none.
                Usually the component that the code was drawn from.
        Returns:
            Shape (...), on the device of the codes.
        Raises:
            CapabilityError: the posterior has no density.
            InputError: shapes that disagree, an index beyond N, or a mixture of which nothing is left.
        """
        z, n = self._codes(value), self.posterior.num_points
        leading = value.dim() - 1
        if indices.shape[:leading] != value.shape[:-1] or indices.dim() not in (leading, leading + 1):
            raise InputError(
                f"The indices have shape {tuple(indices.shape)}, but the codes have shape {tuple(value.shape)}: give one "
                "index, or k indices, for each code."
            )
        left_out = indices.reshape(len(z), math.prod(indices.shape[leading:])).cpu()
        if len(z) and not bool(((left_out >= -1) & (left_out < n)).all()):
            low, high = int(left_out.min()), int(left_out.max())
            raise InputError(f"The indices name data points 0 to {n - 1}, or -1 for none; got {low} to {high}.")
        ordered = left_out.sort(1).values
        again = torch.cat([torch.zeros(len(z), 1, dtype=torch.bool), ordered[:, 1:] == ordered[:, :-1]], 1)
        left = n - ((ordered >= 0) & ~again).sum(1)
        if len(z) and int(left.min()) == 0:
            raise InputError("All components are left out of a mixture, so it has no density: leave at least one in.")
        mass = left.double()
        if self.weights is not None:
            lost = torch.where((ordered >= 0) & ~again, self.weights[ordered.clamp(min=0)], 0.0).sum(1)
            mass = (self.total - lost).clamp(min=self.weights.min())
        return self._like(self.log_sum(z, left_out) - mass.log().to(z.device), value)

    def log_sum(
        self, z: torch.Tensor, left_out: torch.Tensor | None = None, *, progress: Progress = no_progress
    ) -> torch.Tensor:
        """log sum_n w_n q(z_i|x_n) of the components that are not left out, in nats, w of mean 1: the log-density before it is
        divided by `total`, which is N.

        Args:
            z: Codes, shape (m, D).
            left_out: Components to leave out of each row's sum, shape (m,) or (m, k), -1 for none; None leaves none out.
            progress: Called with the number of components visited and N.
        Returns:
            Shape (m,), float64.
        Raises:
            CapabilityError: the posterior has no density.
        """
        return _log_sum(self.posterior, z, left_out, progress, self.threads, self.shared)

    def draw(self, num_samples: int, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from q_N, and return the component of each draw too.

        Args:
            num_samples: Number of draws, m.
            generator: Source of all randomness, on the CPU.
        Returns:
            Codes, shape (m, D), float64, and indices of data points, shape (m,), int64.
        """
        if self.weights is None:
            indices = torch.randint(self.posterior.num_points, (num_samples,), generator=generator)
        else:
            indices = by_weight(self.weights, num_samples, generator)
        return self.posterior.sample_at(indices, generator), indices

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (D,), float64, from torch's global generator."""
        shape = torch.Size(sample_shape)
        rng = from_global()
        return self.draw(math.prod(shape), generator=rng)[0].reshape(shape + self.event_shape)

    @property
    def mean(self) -> torch.Tensor:
        """E[z], shape (D,), float64; CapabilityError where the components' means have no closed form."""
        total = torch.stack([(mean if w is None else mean * w).sum(0) for mean, _, w in self._moments()]).sum(0)
        return total / self.total

    @property
    def variance(self) -> torch.Tensor:
        """Variance of each latent, shape (D,), float64: the mean variance and the variance of the means.

        Raises:
            CapabilityError: the components' moments have no closed form.
        """
        centre = self.mean
        blocks = ((variance + (mean - centre).square(), w) for mean, variance, w in self._moments())
        total = torch.stack([(block if w is None else block * w).sum(0) for block, w in blocks]).sum(0)
        return total / self.total

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance of the latents, shape (D, D), float64: the mean covariance and the covariance of the means.

        Raises:
            CapabilityError: the components' moments have no closed form.
            InputError: more than 4,096 latents.
        """
        q = self.posterior
        if q.dim > MOST_LATENTS:
            raise InputError(
                f"A covariance of {q.dim:,} latents would have {q.dim**2:,} entries; it is given up to {MOST_LATENTS:,}: "
                "take the variance, or fewer latents."
            )
        centre, total = self.mean, torch.zeros(q.dim, q.dim, dtype=torch.float64)
        for start, (mean, variance, w) in zip(range(0, q.num_points, ROWS_AT_ONCE), self._moments(), strict=True):
            shifted = (mean - centre).cpu()
            weighted = shifted if w is None else shifted * w.cpu()
            total += weighted.T @ shifted + self._inner_covariance(slice(start, start + ROWS_AT_ONCE), variance, w).cpu()
        return total / self.total

    def _moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yield mean, variance and weight of all components in order, block by block, (m, D), (m, D) and (m, 1), float64."""
        for start, (mean, variance) in zip(
            range(0, self.posterior.num_points, ROWS_AT_ONCE), self._unweighted_moments(), strict=True
        ):
            w = None if self.weights is None else self.weights[start : start + ROWS_AT_ONCE, None].to(mean.device)
            yield mean, variance, w

    def _unweighted_moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        q = self.posterior
        if isinstance(q, DiagonalGaussian):
            yield from ((mean, std.square()) for mean, std in q.blocks())
            return
        try:
            mean, variance = q.mean, q.variance  # type: ignore[attr-defined]
        except (NotImplementedError, AttributeError) as error:
            raise CapabilityError(
                "The moments of the aggregate posterior need the mean and variance of each q(z|x), which this posterior does "
                "not know in closed form: draw from it instead."
            ) from error
        for start in range(0, q.num_points, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            yield mean[part].detach().double(), variance[part].detach().double()

    def _inner_covariance(self, part: slice, variance: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
        """Weighted sum of the covariances of some components, shape (D, D)."""
        inner = self.posterior.distribution if isinstance(self.posterior, TorchPosterior) else None
        if inner is None or (isinstance(inner, Independent) and not inner.base_dist.event_shape):
            return (variance if w is None else variance * w).sum(0).diag()
        try:
            some: Any = take(inner, torch.arange(self.posterior.num_points)[part])
            covariance = some.covariance_matrix
            return (covariance if w is None else covariance * w[:, :, None]).sum(0)
        except (AttributeError, NotImplementedError) as error:
            raise CapabilityError(
                f"The covariance of a {type(inner).__name__} is not known in closed form: take the variance, or draw from it."
            ) from error

    def _codes(self, value: torch.Tensor) -> torch.Tensor:
        """Reshape the codes to rows, shape (m, D), float64, on the device of the components."""
        if value.shape[-1:] != self.event_shape:
            raise InputError(
                f"Codes of {self.posterior.dim} latents have shape (..., {self.posterior.dim}); got {tuple(value.shape)}."
            )
        if value.requires_grad:
            raise InputError("The density of the aggregate posterior has no gradients: give z.detach().")
        rows = value.double().reshape(-1, self.posterior.dim)
        return rows.to(self.posterior.mean.device) if isinstance(self.posterior, DiagonalGaussian) else rows

    def _like(self, rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return rows.reshape(value.shape[:-1]).to(value.device)


def _log_sum(
    posterior: Posterior, z: torch.Tensor, own: torch.Tensor | None, progress: Progress, threads: int | None, shared: bool
) -> torch.Tensor:
    """Compute `AggregatePosterior.log_sum`; diagonal Gaussians take the fast path."""
    tiles.need_density(posterior)
    if not len(z):
        return torch.zeros(0, dtype=torch.float64, device=z.device)
    if not tiles.is_tiled(posterior):
        running = torch.full((len(z),), -math.inf, dtype=torch.float64, device=z.device)
        for start, block, matrix in tiles.matrices(posterior, z, own, shared=shared):
            running[block] = torch.logaddexp(running[block], torch.logsumexp(matrix, 1))
            progress(start + matrix.shape[1], posterior.num_points)
        return functools.reduce(torch.logaddexp, parallel.gather(running) if shared else [running])
    left_out = np.full(len(z), -1) if own is None else own.cpu().numpy()
    sums = _LogSums(np.full(len(z), -np.inf), np.zeros(len(z)))

    def visit(chunk: tiles.Chunk, rows: tiles.Rows, floor: Array, screen: bool) -> tuple[_LogSums, int]:
        reference, total, dense = floor.copy(), np.zeros(len(floor)), 0
        for block in rows.blocks():
            tile = tiles.tile_of(chunk, rows, block, reference[block], screen and not dense)
            old, reference[block] = reference[block].copy(), tile.reference
            total[block] *= np.exp(old - tiles.finite(tile.reference))
            total[block] += tile.row_sums
            dense += tile.is_dense
        return _LogSums(reference, total), dense

    for parts, done in tiles.waves(posterior, z, left_out, visit, sums.reference, threads=threads, shared=shared):
        for part in parts:
            sums.reference[:], sums.total[:] = sums.plus(part)
        progress(done, posterior.num_points)
    return torch.from_numpy((_over_processes(sums) if shared else sums).log())


class _LogSums(NamedTuple):
    """Sums of exponentials, which are kept as exp(reference) * total, one for each row."""

    reference: Array
    total: Array

    def plus(self, other: _LogSums) -> _LogSums:
        top = np.maximum(self.reference, other.reference)
        safe = tiles.finite(top)
        return _LogSums(top, self.total * np.exp(self.reference - safe) + other.total * np.exp(other.reference - safe))

    def log(self) -> Array:
        with np.errstate(divide="ignore"):
            return self.reference + np.log(self.total)


def _over_processes(sums: _LogSums) -> _LogSums:
    """Add up the sums of all processes, each of which has a share of the posteriors."""
    parts = parallel.gather(torch.from_numpy(np.stack(sums)))
    return functools.reduce(_LogSums.plus, (_LogSums(*part.numpy()) for part in parts))


def general_rate(posterior: Posterior) -> float | None:
    """Number of pairs (code, posterior) a second on the general path, timed on one small tile; None on the fast path."""
    tiles.need_density(posterior)
    if isinstance(posterior, DiagonalGaussian):
        return None
    points = torch.arange(min(256, posterior.num_points))
    z = posterior.sample_at(points[:16], torch.Generator().manual_seed(0))
    posterior.log_prob_matrix(z[:1], points[:1])  # the first call is slower than later ones
    started = time.perf_counter()
    posterior.log_prob_matrix(z, points)
    return len(z) * len(points) / (time.perf_counter() - started)
