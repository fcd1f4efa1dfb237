"""Numbers that are known without the code that computes them: sums by brute force, KLs in closed form or by quadrature.

Brute force subtracts, squares and adds in NumPy's `longdouble`, which has more digits than float64 on most processors, and
uses no matrix product. Inputs are made by NumPy's generators with fixed seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.control_variates import GaussianControls
from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior, standard_normal
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.distributions.removal import SMALL_SHARE, removal_losses
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import Posterior

Array = NDArray[np.float64]

SUM_TOLERANCE = 1e-9
"""Largest error of a log-sum-exp, in nats, that the documentation promises."""
QUADRATURE_TOLERANCE = 2e-5
"""Largest error of a latent's own KL, in nats: panels are halved until two values agree to half of this."""
ERRORS = 4.0
"""Largest distance of an estimate from the truth, in its own standard errors."""


class Result(NamedTuple):
    """What a check found.

    Attributes:
        error: Greatest error.
        allowed: Largest error that is right.
        found: The numbers themselves, whose bits go into the digest.
    """

    error: float
    allowed: float
    found: Array


@dataclasses.dataclass(frozen=True)
class Case:
    """Diagonal Gaussians for which `klprobe.distributions.tiles` takes one of its ways.

    Attributes:
        latents: Number of latents, D.
        log10_std: Smallest and largest decimal logarithm of the standard deviations.
        reach: Means lie evenly between minus this and this.
        twins: Whether each of the second half of the points lies within about a standard deviation of one of the first.
    """

    latents: int
    log10_std: tuple[float, float]
    reach: float
    twins: bool = False

    def make(self, points: int, codes: int) -> tuple[DiagonalGaussian, torch.Tensor, torch.Tensor]:
        """The posterior of so many points, codes drawn from it, and the component of each code."""
        rng = np.random.default_rng(self.latents)
        mean = rng.uniform(-self.reach, self.reach, (points, self.latents))
        std = 10 ** rng.uniform(*self.log10_std, (points, self.latents))
        if self.twins:
            first, second = slice(points // 2), slice(points - points // 2, points)
            mean[second] = mean[first] + std[first] * rng.standard_normal(mean[first].shape)
            std[second] = std[first]
        own = rng.integers(points, size=codes)
        z = mean[own] + std[own] * rng.standard_normal((codes, self.latents))
        q = DiagonalGaussian(torch.from_numpy(mean), std=torch.from_numpy(std))
        return q, torch.from_numpy(z), torch.from_numpy(own)


WAYS = {
    "product": Case(10, (-0.3, 0.2), 2.0),
    "product in parts": Case(1024, (0.95, 1.05), 1.0),
    "screen": Case(24, (-2.0, -1.5), 2.0, twins=True),
    "differences": Case(6, (14.5, 15.5), 1e16),
}
"""A case for each way of computing a tile: codes of 1e16 have squares beyond the screen's float32."""


def terms(q: DiagonalGaussian, z: torch.Tensor, own: torch.Tensor) -> Iterator[NDArray[np.longdouble]]:
    """Yield log q(z_i|x_n) of all n, by differences, for one code after the other; -inf for its own component."""
    mean, std = (part.numpy().astype(np.longdouble) for part in q.rows(slice(None)))
    norm = -np.log(std).sum(1) - 0.5 * q.dim * np.log(2 * np.longdouble(np.pi))
    for row, left_out in zip(z.numpy().astype(np.longdouble), own.tolist(), strict=True):
        logs = norm - 0.5 * (((row - mean) / std) ** 2).sum(1)
        logs[left_out] = -np.inf
        yield logs


def brute_force(q: DiagonalGaussian, z: torch.Tensor, own: torch.Tensor) -> Array:
    """log sum_{n != own} q(z_i|x_n), shape (m,)."""
    return np.array([logs.max() + np.log(np.exp(logs - logs.max()).sum()) for logs in terms(q, z, own)], np.float64)


def sums(q: Posterior, z: torch.Tensor, own: torch.Tensor) -> Array:
    """log sum_{n != own} q(z_i|x_n), shape (m,), as every command computes it."""
    found: Array = AggregatePosterior(q).log_sum(z, own).cpu().numpy()
    return found


def log_sums(case: Case, points: int, codes: int, device: str = "cpu") -> Result:
    """Tiled log-sum-exp against brute force, each code's own component left out."""
    q, z, own = case.make(points, codes)
    found = sums(q.to(device), z.to(device), own.to(device))
    return Result(_greatest(found - brute_force(q, z, own)), SUM_TOLERANCE, found)


def log_sums_by_torch(case: Case, points: int, codes: int) -> Result:
    """The same without tiles, from the matrix of all log-densities that `klprobe holes` and GPUs use."""
    q, z, own = case.make(points, codes)
    matrix = q.log_prob_matrix(z, torch.arange(points))
    matrix[torch.arange(codes), own] = -math.inf
    found = torch.logsumexp(matrix, 1).numpy()
    return Result(_greatest(found - brute_force(q, z, own)), SUM_TOLERANCE, found)


def log_sums_of_covariances(points: int, codes: int) -> Result:
    """Posteriors that torch evaluates one by one, against brute force."""
    q, z, own = Case(8, (-0.5, 0.3), 2.0).make(points, codes)
    mean, std = q.rows(slice(None))
    general = as_posterior(MultivariateNormal(mean, scale_tril=std.diag_embed(), validate_args=False))
    found = sums(general, z, own)
    return Result(_greatest(found - brute_force(q, z, own)), SUM_TOLERANCE, found)


def threads(points: int, codes: int) -> Result:
    """Sums by one thread and by all of them, which must be the same in every bit."""
    q, z, own = WAYS["screen"].make(points, codes)
    sums = [AggregatePosterior(q, threads=count).log_sum(z, own) for count in (1, None)]
    losses = [removal_losses(AggregatePosterior(q, threads=count), z, own, sums[0]).sums for count in (1, None)]
    found = torch.cat([sums[1], losses[1]]).numpy()
    return Result(_greatest(found - torch.cat([sums[0], losses[0]]).numpy()), 0.0, found)


def removals(points: int, codes: int) -> Result:
    """What leave-one-out densities lose with one more component, which for twins is most of them."""
    q, z, own = Case(6, (-0.8, -0.4), 2.0, twins=True).make(points, codes)
    aggregate = AggregatePosterior(q)
    found = removal_losses(aggregate, z, own, aggregate.log_sum(z, own)).sums.numpy()
    total = np.zeros(points, np.longdouble)
    for logs in terms(q, z, own):
        weights = np.exp(logs - logs.max())
        share = weights / weights.sum()
        loss = np.where(share > SMALL_SHARE, -np.log1p(-np.minimum(share, 0.5)), share)
        for main in np.flatnonzero(share > 0.5):  # a sum without it, so that no digits cancel
            others = np.delete(logs, main)
            loss[main] = -np.log(share[main]) + logs[main] - others.max() - np.log(np.exp(others - others.max()).sum())
        total += loss
    return Result(_greatest(found - total.astype(np.float64)), SUM_TOLERANCE, found)


def marginals(points: int) -> Result:
    """Each latent's own KL, by quadrature in panels, against a sum over a fine, even grid."""
    q, _, _ = Case(6, (-1.5, 0.3), 2.0).make(points, 2)
    kls, reason = dimensionwise_kl(q, standard_normal(q.dim))
    if kls is None:
        raise ArithmeticError(f"no marginals: {reason}")
    mean, std = (part.numpy() for part in q.rows(slice(None)))
    known = [_kl_on_grid(mean[:, d], std[:, d]) for d in range(q.dim)]
    return Result(_greatest(np.array(kls) - known), QUADRATURE_TOLERANCE, np.array(kls))


def controls(draws_a_point: int) -> Result:
    """Control variates, whose means over draws are zero within their errors."""
    q, _, _ = Case(5, (-1.0, 0.2), 2.0).make(200, 2)
    points = torch.arange(200).repeat(draws_a_point)
    made = GaussianControls.of(q, standard_normal(5))
    if made is None:
        raise ArithmeticError("a diagonal Gaussian has no control variates")
    values, between = made.at(q.sample_at(points, torch.Generator().manual_seed(0)), points)
    noise = values - between  # the rest is an exact mean over the points
    varies = noise.std(0) > 0
    means = values.mean(0)
    errors = np.abs(means[varies]) / (noise.std(0)[varies] / math.sqrt(len(points)))
    return Result(max(_greatest(errors), ERRORS * _greatest(means[~varies]) / 1e-9), ERRORS, means)


def monte_carlo_where_no_point_differs(latents: int) -> Result:
    """All posteriors are one Gaussian: the KL has a closed form, and the mutual information is zero."""
    mean, std = torch.full((3000, latents), 0.6, dtype=torch.float64), torch.full((3000, latents), 0.7, dtype=torch.float64)
    known = latents * float(kl_divergence(Normal(mean[0, 0], std[0, 0]), Normal(torch.zeros(()), torch.ones(()))))
    return _monte_carlo(DiagonalGaussian(mean, std=std), known)


def monte_carlo_where_no_points_overlap(latents: int) -> Result:
    """No two posteriors overlap: the KL is the mean of the points' own KLs less log N."""
    q, _, _ = Case(latents, (-4.0, -3.5), 3.0).make(3000, 2)
    mean, std = q.rows(slice(None))
    own = 0.5 * (mean.square() + std.square() - 1) - std.log()
    return _monte_carlo(q, float(own.sum(1).mean()) - math.log(q.num_points))


def monte_carlo_in_one_latent(components: int) -> Result:
    """A mixture in one latent: the KL by a sum over a fine, even grid."""
    q, _, _ = Case(1, (-1.0, -0.3), 2.5).make(components, 2)
    mean, std = (part.numpy()[:, 0] for part in q.rows(slice(None)))
    return _monte_carlo(q, _kl_on_grid(mean, std))


def monte_carlo_of_a_population(latents: int) -> Result:
    """A linear encoder of Gaussian data: the population's KL lies between both bounds."""
    problem = linear_gaussian_encoder(latents, 4000, 0.4, generator=torch.Generator().manual_seed(1))
    estimates = MonteCarlo(num_samples=4000).estimate(
        problem.posterior, problem.prior, generator=torch.Generator().manual_seed(2)
    )
    sides = {e.bound: e for e in estimates if e.target == "population"}
    below = (sides["lower"].value - problem.population_kl) / sides["lower"].std_error
    above = (problem.population_kl - sides["upper"].value) / sides["upper"].std_error
    return Result(max(below, above, 0.0), ERRORS, np.array([e.value for e in estimates]))


def products(library: Callable[[Array, Array], Array], single: bool) -> Result:
    """A matrix product against sums in float64; the error is relative to what K products of that precision may err by."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((256, 1025)), rng.standard_normal((1025, 512))
    if single:
        a, b = a.astype(np.float32), b.astype(np.float32)
    found = library(a, b).astype(np.float64)
    wide = np.float64 if single else np.longdouble
    columns = [(a.astype(wide) * column).sum(1) for column in b.T[:64].astype(wide)]
    most = (np.abs(a.astype(np.float64)) @ np.abs(b.T[:64].T.astype(np.float64))) * a.shape[1] * 2.0 ** (-24 if single else -53)
    return Result(_greatest((found[:, :64] - np.stack(columns, 1)) / most), 1.0, found)


def _monte_carlo(q: DiagonalGaussian, known: float) -> Result:
    """With control variates and without, in standard errors; where the error is rounding, against the promise for sums."""
    values, worst = [], 0.0
    for control in (True, False):
        kl = next(
            e
            for e in MonteCarlo(num_samples=4000, control_variates=control).estimate(
                q, standard_normal(q.dim), generator=torch.Generator().manual_seed(7)
            )
            if (e.target, e.bound, e.quantity) == ("empirical", "exact", "kl")
        )
        values.append(kl.value)
        worst = max(worst, abs(kl.value - known) / max(kl.std_error, SUM_TOLERANCE))
    return Result(worst, ERRORS, np.array(values))


def _kl_on_grid(mean: Array, std: Array) -> float:
    """KL of the mixture to N(0, 1): an even grid of 16 nodes a standard deviation is exact to rounding for Gaussians."""
    step = std.min() / 16
    z = np.arange((mean - 9 * std).min(), (mean + 9 * std).max(), step)
    density = np.zeros_like(z)
    for m, s in zip(mean, std, strict=True):
        density += np.exp(-0.5 * ((z - m) / s) ** 2) / (s * math.sqrt(2 * math.pi) * len(mean))
    inside = density > 0
    ratio = np.log(density[inside]) + 0.5 * z[inside] ** 2 + 0.5 * math.log(2 * math.pi)
    return float((density[inside] * ratio).sum() * step)


def _greatest(errors: Array) -> float:
    """Largest absolute value; infinite where one is not a number."""
    largest = float(np.abs(errors).max(initial=0.0))
    return math.inf if math.isnan(largest) else largest
