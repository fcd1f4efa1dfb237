"""The KL of each pair of latents on a grid of cells, whose masses under the aggregate posterior are exact.

Every mixture component's mass in an interval is a difference of normal distribution functions, so the mass of q_N in a
rectangle of cells is a mean over components of products of two such differences: one product of matrices gives all pairs.
A divergence of distributions on cells is at most that of the distributions themselves (data processing).
"""

from __future__ import annotations

import dataclasses

import torch
from torch.distributions import Distribution

from klprobe.distributions.posteriors import DiagonalGaussian, diagonal_normal
from klprobe.types import Posterior, Progress, no_progress

STEP, REACH = 0.25, 4.0
"""Width of a cell and end of the grid, in the prior's standard deviations; two more cells hold all the rest."""
MOST_LATENTS = 32
"""Largest number of latents whose pairs are computed: those with the largest KL of their own."""
POINTS_AT_ONCE = 2048


@dataclasses.dataclass(frozen=True)
class Pairs:
    """KL[q_N(z_i, z_j)||p(z_i, z_j)] on cells, nats; a lower bound that is exact but for the cells' width.

    Attributes:
        latents: Numbers of the latents of rows and columns, shape (k,).
        kl: KL of each pair, shape (k, k), symmetric; the diagonal holds each latent's own KL.
        dependence: The part of `kl` that neither latent has by itself, their mutual information under q_N; shape (k, k), zero
            on the diagonal.
    """

    latents: torch.Tensor
    kl: torch.Tensor
    dependence: torch.Tensor

    def ranked(self) -> list[tuple[int, int, float, float]]:
        """List (i, j, KL, dependence) of every pair of latents i < j, the largest KL first."""
        rows, columns = torch.triu_indices(len(self.latents), len(self.latents), 1)
        order = self.kl[rows, columns].argsort(descending=True, stable=True)
        pairs = torch.stack([self.latents[rows], self.latents[columns]], 1).sort(1).values
        return [
            (*pairs[k].tolist(), float(self.kl[rows[k], columns[k]]), float(self.dependence[rows[k], columns[k]]))
            for k in order.tolist()
        ]


def pairwise_kl(
    posterior: Posterior, prior: Distribution, *, progress: Progress = no_progress
) -> tuple[Pairs | None, str | None]:
    """Compute the KL of every pair of latents, or of the 32 with the largest KL alone; None and the reason where impossible."""
    normal = diagonal_normal(prior)
    if not isinstance(posterior, DiagonalGaussian):
        return None, "needs the mean and standard deviation of each posterior"
    if normal is None:
        return None, "defined only for priors that factorise; this prior is no diagonal normal"
    if posterior.dim < 2:
        return None, "there is one latent only"
    p_mean, p_std = (t.double().cpu() for t in normal)
    edges = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.float64)
    cells = _masses(torch.zeros(1, 1), torch.ones(1, 1), edges)[0, 0].double()
    own = _own(posterior, p_mean, p_std, edges)
    alone = _divergence(own, cells)
    latents = alone.argsort(descending=True, stable=True)[:MOST_LATENTS].sort().values
    k, count = len(latents), len(cells)
    joint = torch.zeros(k * count, k * count, dtype=torch.float64)
    for start in range(0, posterior.num_points, POINTS_AT_ONCE):
        mean, std = (t.cpu() for t in posterior.rows(slice(start, start + POINTS_AT_ONCE)))
        mass = _masses((mean - p_mean)[:, latents] / p_std[latents], std[:, latents] / p_std[latents], edges)
        flat = mass.reshape(len(mass), -1)
        if posterior.weights is not None:
            flat *= _weight(posterior, start, len(flat)).sqrt()[:, None]
        joint += (flat.T @ flat).double()
        progress(min(start + POINTS_AT_ONCE, posterior.num_points), posterior.num_points)
    tables = joint.reshape(k, count, k, count).permute(0, 2, 1, 3) / posterior.num_points
    kl = _divergence(tables.reshape(k, k, -1), (cells[:, None] * cells).flatten())
    single = alone[latents]
    dependence = (kl - single[:, None] - single).clamp(min=0)
    kl = kl.fill_diagonal_(0) + torch.diag(single)
    return Pairs(latents, kl, dependence.fill_diagonal_(0)), None


def _own(q: DiagonalGaussian, p_mean: torch.Tensor, p_std: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Mass of each latent's aggregate posterior in each cell, shape (D, cells)."""
    total = torch.zeros(q.dim, len(edges) + 1, dtype=torch.float64)
    for i, (mean, std) in enumerate(q.blocks(POINTS_AT_ONCE)):
        mass = _masses((mean.cpu() - p_mean) / p_std, std.cpu() / p_std, edges)
        if q.weights is not None:
            mass *= _weight(q, i * POINTS_AT_ONCE, len(mean))[:, None, None]
        total += mass.sum(0).double()
    return total / q.num_points


def _weight(q: DiagonalGaussian, start: int, count: int) -> torch.Tensor:
    """Weights of `count` points from `start` on, 1 on average over all points; shape (count,), float32."""
    assert q.weights is not None
    return (q.weights[start : start + count] / q.weights.mean()).float().cpu()


def _masses(mean: torch.Tensor, std: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Mass of N(mean, std^2) in the cells between the edges and beyond them; shape (*mean.shape, cells), float32."""
    below = torch.special.ndtr((edges - mean[..., None]) / std[..., None])
    ends = torch.zeros_like(below[..., :1])
    return torch.cat([ends, below, 1 + ends], -1).diff(dim=-1).float()


def _divergence(mass: torch.Tensor, of_prior: torch.Tensor) -> torch.Tensor:
    """Compute sum mass log(mass / of_prior) over the last dimension; a negative value by rounding becomes 0."""
    return (torch.special.xlogy(mass, mass) - torch.special.xlogy(mass, of_prior)).sum(-1).clamp(min=0)
