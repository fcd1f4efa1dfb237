"""Each latent's own aggregate posterior, and its divergence from the prior, with a bound of the error.

For a prior that factorises, KL[q_N(z)||p(z)] = total correlation + sum_d KL[q_N(z_d)||p(z_d)].
Reference: Hoffman and Johnson (2016), ELBO surgery; Chen et al. (2018), Isolating sources of disentanglement, eq. 2.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.distributions import Distribution, MultivariateNormal

from klprobe.distributions.gaussian_bins import SERIES_ERROR, SHADES, SLOTS, Bins, Places, binned, shades_of
from klprobe.distributions.mixture_entropy import (
    DENSITY_ERROR,
    Array,
    Index,
    Integral,
    clusters,
    evaluated,
    integral,
    integral_of_isolated,
)
from klprobe.distributions.posteriors import LOG_2PI, DiagonalGaussian, TorchPosterior, diagonal_normal
from klprobe.runtime import parallel
from klprobe.types import Posterior, Progress, no_progress

ERROR = 1e-5
"""Nats that a latent's KL may be off at most; for values above 1e8, 1e-13 of them."""
MOST_LATENTS = 4096
"""Latents that are computed; of more, as many are chosen at random."""
LATENTS_AT_ONCE = 32
ROWS = 16_384
"""Rows read at once; a latent's part of them stays in cache."""
KEPT = 2**22
"""Numbers up to which what was read is kept for the second look."""
MOST_PANELS = 8192
"""Panels of bins in memory at once, 6 kB a panel."""
FEW = 500
"""Components up to which bins are never quicker."""
PER_PANEL = 14
"""Components a panel from which bins are quicker than each component by itself."""
AT_ONCE = 16_384
"""Components whose panels are in memory together, give or take a cluster."""


def dimensionwise_kl(
    posterior: Posterior,
    prior: Distribution,
    *,
    weights: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = no_progress,
) -> tuple[tuple[float, ...] | None, str | None]:
    """KL[q_N(z_d)||p(z_d)] of every latent, each right to `ERROR`, in time linear in N; or None and the reason.

    Args:
        posterior: Gaussians, or the answer is None.
        prior: A diagonal normal, or the answer is None.
        weights: Mass of each point, shape (N,), not negative; divided by their sum. None: all the same.
        generator: Chooses 4,096 latents where there are more. None: the same choice every time.
        progress: Told of the latents that are done.
    Returns:
        Values in nats, NaN for a latent that is not known, and the reason where any is not.
    """
    normal, gaussians = diagonal_normal(prior), _gaussians(posterior)
    if gaussians is None:
        return None, "needs the mean and standard deviation of each posterior"
    if normal is None:
        return None, "defined only for priors that factorise; this prior is no diagonal normal"
    mass = None if weights is None else (weights.double() / weights.double().sum()).cpu().numpy()
    p_mean, p_std = (t.double().cpu().numpy() for t in normal)
    latents = _chosen(posterior.dim, generator)
    values, reason = np.full(posterior.dim, np.nan), None
    if len(latents) < posterior.dim:
        reason = f"{len(latents):,} of {posterior.dim:,} latents were computed, chosen at random"
    groups = [latents[i : i + LATENTS_AT_ONCE] for i in range(0, len(latents), LATENTS_AT_ONCE)]
    threads = os.cpu_count() or 1
    if len(groups) < threads:
        groups = np.array_split(latents, min(threads, len(latents)))
    with ThreadPoolExecutor(threads) as pool, parallel.one_blas_thread():
        jobs = [pool.submit(_Group(gaussians, group, mass).kls, p_mean[group], p_std[group]) for group in groups]
        try:
            done = 0
            for group, job in zip(groups, jobs, strict=True):
                found, errors = job.result()
                known = errors <= np.maximum(ERROR, 1e-13 * np.abs(found))
                values[group[known]] = found[known]
                if not known.all():
                    reason = f"latent {group[~known][0]}: its error could not be bounded by {ERROR:g} nats"
                done += len(group)
                progress(done, len(latents))
        finally:  # at Ctrl-C too: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
    return tuple(values.tolist()), reason


def _gaussians(posterior: Posterior) -> DiagonalGaussian | None:
    """Gaussians with the same marginals, or None where the posterior's are no Gaussians."""
    if isinstance(posterior, TorchPosterior) and isinstance(posterior.distribution, MultivariateNormal):
        tril = posterior.distribution.scale_tril
        return DiagonalGaussian(posterior.mean, std=torch.linalg.vector_norm(tril, dim=-1, dtype=torch.float64))
    return posterior if isinstance(posterior, DiagonalGaussian) else None


def _chosen(dim: int, generator: torch.Generator | None) -> Index:
    if dim <= MOST_LATENTS:
        return np.arange(dim)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return np.sort(torch.randperm(dim, generator=generator)[:MOST_LATENTS].numpy())


class _Grid:
    """Bins for the components of one latent, of all octaves from the narrowest to the widest."""

    def __init__(self, low: float, high: float, narrow: float, wide: float) -> None:
        first, last = (int(shade) // SHADES for shade in shades_of(np.array([narrow, wide])))
        self.levels = range(first, last + 1)
        self.places = Places(first, last)
        self.begin = [math.floor(low / 2.0 ** (level + 1)) for level in self.levels]
        self.count = [math.floor(high / 2.0 ** (k + 1)) - i + 1 for k, i in zip(self.levels, self.begin, strict=True)]
        self.panels = sum(self.count)
        start = np.concatenate([[0], np.cumsum(self.count)[:-1]]) - np.array(self.begin)
        self.base = start[self.places.level - first] * SLOTS + self.places.shade

    def integral(self, bins: Bins) -> Integral:
        """That of q log q, once all components are in the bins."""
        octaves, start = [], 0
        for level, begin, count in zip(self.levels, self.begin, self.count, strict=True):
            octaves.append(bins.density(level, np.arange(begin, begin + count), start))
            start += SLOTS * count
        return integral([panels for panels in octaves if len(panels.places)], bins.mass, SERIES_ERROR)


class _Group:
    """Some latents, computed one after the other, but read together."""

    def __init__(self, q: DiagonalGaussian, latents: Index, weight: Array | None) -> None:
        self.q, self.latents, self.weight = q, latents, weight
        whole = latents[-1] - latents[0] + 1 == len(latents)
        self._columns = slice(int(latents[0]), int(latents[-1]) + 1) if whole else torch.from_numpy(latents)
        self._kept: list[tuple[slice, Array, Array]] | None = None

    def blocks(self) -> Iterator[tuple[slice, Array, Array]]:
        """Rows, and their means and standard deviations, shape (latents, rows)."""
        if self._kept is None and self.q.num_points * len(self.latents) <= KEPT:
            self._kept = list(self._read())
        yield from self._read() if self._kept is None else self._kept

    def _read(self) -> Iterator[tuple[slice, Array, Array]]:
        for start in range(0, self.q.num_points, ROWS):
            rows = slice(start, min(start + ROWS, self.q.num_points))
            mean, std = self.q.rows((rows, self._columns))
            yield rows, mean.T.contiguous().cpu().numpy(), std.T.contiguous().cpu().numpy()

    def mass(self, rows: slice) -> Array | float:
        """Mass of each of the rows."""
        return 1 / self.q.num_points if self.weight is None else self.weight[rows]

    def kls(self, p_mean: Array, p_std: Array) -> tuple[Array, Array]:
        """KL of each latent, and the most that it may be off."""
        low, high = np.full((2, len(p_mean)), np.inf), np.full((2, len(p_mean)), -np.inf)
        cross = np.log(p_std) + 0.5 * LOG_2PI
        for rows, *both in self.blocks():
            for i, part in enumerate(both):
                low[i], high[i] = np.minimum(low[i], part.min(1)), np.maximum(high[i], part.max(1))
            squares = ((both[0] - p_mean[:, None]) / p_std[:, None]) ** 2 + (both[1] / p_std[:, None]) ** 2
            cross += 0.5 * (squares * self.mass(rows)).sum(1)
        grids = [_Grid(*ends) for ends in zip(low[0], high[0], low[1], high[1], strict=True)]
        found = self._by_bins({d: grid for d, grid in enumerate(grids) if grid.panels <= self.q.num_points // PER_PANEL})
        of_all = [found[d] if d in found else self._by_components(d) for d in range(len(p_mean))]
        negentropy, errors = np.array([part.value for part in of_all]), np.array([part.error for part in of_all])
        errors += 1e-15 * (np.abs(cross) + np.abs(negentropy))
        kl = cross + negentropy
        return np.where((kl < 0) & (kl > -errors), 0.0, kl), errors

    def _by_bins(self, grids: dict[int, _Grid]) -> dict[int, Integral]:
        """Integrals of the latents whose bins are few beside the points, as many at once as memory allows."""
        found: dict[int, Integral] = {}
        left = [d for d, grid in grids.items() if grid.panels <= MOST_PANELS]
        while left:
            size = np.cumsum([grids[d].panels for d in left])
            now = left[: max(int((size <= MOST_PANELS).sum()), 1)]
            left = left[len(now) :]
            bins = {d: Bins(SLOTS * grids[d].panels) for d in now}
            for rows, mean, std in self.blocks():
                for d in now:
                    row, cell, u, v = grids[d].places(mean[d], std[d])
                    cell *= SHADES
                    cell += grids[d].base[row]
                    bins[d].add(cell, u, v, self.mass(rows))
            found |= {d: grids[d].integral(bins.pop(d)) for d in now}
        return found

    def _by_components(self, d: int) -> Integral:
        """Integral of one latent, whose components have few neighbours, or stand in clusters far apart."""
        columns = [(mean[d], std[d], np.broadcast_to(self.mass(rows), mean[d].shape)) for rows, mean, std in self.blocks()]
        mean, std, weight = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        mean, std, weight = (part[weight > 0] for part in (mean, std, weight))
        order, starts = clusters(mean, std)
        size = np.diff(starts, append=len(order))
        alone, crowd = order[starts[size == 1]], order[np.repeat(size > 1, size)]
        parts = [integral_of_isolated(std[alone], weight[alone])]
        cuts = np.cumsum(size[size > 1])
        cuts = cuts[np.flatnonzero(np.diff(cuts // AT_ONCE, append=-1))]
        for which in np.split(crowd, cuts[:-1]):
            if len(which):
                parts.append(_of_components(mean[which], std[which], weight[which]))
        return Integral(*(sum(part[i] for part in parts) for i in range(3)))


def _of_components(mean: Array, std: Array, weight: Array) -> Integral:
    """The integral of q log q over components that may lie anywhere."""
    octaves, level, error = [], shades_of(std) // SHADES, DENSITY_ERROR
    for k in np.unique(level):
        part = mean[level == k], std[level == k], weight[level == k]
        filled = len(np.unique(np.floor(part[0] * 2.0 ** -(k + 1)))) if len(part[0]) > FEW else len(part[0])
        crowded = len(part[0]) > PER_PANEL * filled
        octaves.append((binned if crowded else evaluated)(int(k), *part))
        error = SERIES_ERROR if crowded else error
    return integral(octaves, float(weight.sum()), error)
