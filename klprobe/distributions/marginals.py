"""Each latent's own aggregate posterior, and its divergence from the prior, by quadrature.

For a prior that factorises, KL[q_N(z)||p(z)] = total correlation + sum_d KL[q_N(z_d)||p(z_d)].
Reference: Hoffman and Johnson (2016), ELBO surgery; Chen et al. (2018), Isolating sources of disentanglement, eq. 2.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.posteriors import LOG_2PI, ROWS_AT_ONCE, DiagonalGaussian, diagonal_normal
from klprobe.runtime import parallel
from klprobe.types import Posterior, Progress, no_progress

Array = NDArray[np.float64]

NODES = 12
"""Number of Gauss-Legendre nodes in a panel."""
TOLERANCE = 1e-5
"""Difference of two successive values, in nats for one latent, at which the panels are halved no more."""
REACH = 9.0
"""Distance from a component's mean, in standard deviations, beyond which its mass of 2e-19 is left out."""
MOST_PANELS = 4096
POSTERIORS_AT_ONCE = 512
"""Number of components evaluated together: a block of 512 components by some hundred nodes stays in cache."""


def dimensionwise_kl(
    posterior: Posterior, prior: Distribution, *, progress: Progress = no_progress
) -> tuple[tuple[float, ...] | None, str | None]:
    """Compute KL[q_N(z_d)||p(z_d)] of every latent, in nats; None and the reason where that is not possible.

    Panels are halved until two successive values agree to 1e-5 nats; posteriors so narrow that 4096 panels cannot
    resolve their mixture give None, with the reason.
    """
    normal = diagonal_normal(prior)
    if not isinstance(posterior, DiagonalGaussian):
        return None, "needs the mean and standard deviation of each posterior"
    if normal is None:
        return None, "defined only for priors that factorise; this prior is no diagonal normal"
    values: list[float] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, parallel.one_blas_thread():
        jobs = [
            pool.submit(lambda d: _kl(*_column(posterior, d), float(normal[0][d]), float(normal[1][d])), d)
            for d in range(posterior.dim)
        ]
        try:
            for d, job in enumerate(jobs):
                value = job.result()
                if value is None:
                    return None, f"latent {d}: its posteriors are too narrow for {MOST_PANELS} quadrature panels"
                values.append(value)
                progress(d + 1, posterior.dim)
        finally:  # after Ctrl-C too, latents that have not begun are not waited for
            pool.shutdown(wait=False, cancel_futures=True)
    return tuple(values), None


def _column(q: DiagonalGaussian, d: int) -> tuple[Array, Array]:
    """Read means and standard deviations of one latent, each of shape (N,)."""
    columns = [q.rows((slice(start, start + ROWS_AT_ONCE), d)) for start in range(0, q.num_points, ROWS_AT_ONCE)]
    return torch.cat([m for m, _ in columns]).numpy(), torch.cat([s for _, s in columns]).numpy()


def _kl(mean: Array, std: Array, p_mean: float, p_std: float) -> float | None:
    """KL[(1/N) sum_n N(mean_n, std_n^2) || N(p_mean, p_std^2)], or None where 4096 panels do not resolve it."""
    low, high = (mean - REACH * std).min(), (mean + REACH * std).max()
    # Quantiles of the components' centres and shoulders put panels where the mass and its edges are.
    grid = np.quantile(np.concatenate([mean - 2 * std, mean, mean + 2 * std]), np.linspace(0, 1, 17))
    edges = np.unique(np.concatenate([[low], grid, [high]]))
    previous, value = None, np.inf
    while len(edges) <= MOST_PANELS + 1:
        previous, value = value, _integrate(edges, mean, std, p_mean, p_std)
        if abs(value - previous) < TOLERANCE:
            return max(value, 0.0)
        edges = np.sort(np.concatenate([edges, 0.5 * (edges[1:] + edges[:-1])]))
    return None


def _integrate(edges: Array, mean: Array, std: Array, p_mean: float, p_std: float) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = 0.5 * np.diff(edges)
    z = (edges[:-1, None] + half[:, None] * (nodes + 1)).ravel()
    density = _density(z, mean, std)
    log_p = -0.5 * ((z - p_mean) / p_std) ** 2 - np.log(p_std) - 0.5 * LOG_2PI
    inside = density > 0
    term = np.zeros_like(z)
    term[inside] = density[inside] * (np.log(density[inside]) - log_p[inside])
    return float((half[:, None] * weights * term.reshape(len(half), -1)).sum())


def _density(z: Array, mean: Array, std: Array) -> Array:
    """Density of the mixture at sorted z, where each component counts only within its reach."""
    order = np.argsort(mean)
    total = np.zeros_like(z)
    for start in range(0, len(mean), POSTERIORS_AT_ONCE):
        part = order[start : start + POSTERIORS_AT_ONCE]
        m, s = mean[part], std[part]
        first, last = np.searchsorted(z, [(m - REACH * s).min(), (m + REACH * s).max()])
        if first == last:
            continue
        inverse = 1 / s
        scaled = z[first:last, None] - m
        scaled *= np.sqrt(0.5) * inverse
        np.multiply(scaled, scaled, out=scaled)
        np.negative(scaled, out=scaled)
        np.exp(scaled, out=scaled)
        total[first:last] += scaled @ inverse
    return total / (len(mean) * np.sqrt(2 * np.pi))
