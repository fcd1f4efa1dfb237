"""Nearest neighbours: the KL from how much farther codes of q are from codes of p than from each other."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.clusters import one_of_each
from klprobe.distributions.posteriors import SampleOnly, as_posterior, check_prior, need_volume, sample_prior
from klprobe.distributions.priors import Cloud
from klprobe.distributions.statistics import MeanError
from klprobe.distributions.ties import refuse_ties
from klprobe.distributions.whitening import Whitening
from klprobe.types import Estimate, Estimator, InputError, Progress, no_progress

__all__ = ["Knn"]

METHOD = "knn"
PARTS = 20
"""Number of disjoint parts of both sides from which the error is estimated, with a relative error of a sixth."""
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Knn(Estimator):
    """Ratio of nearest-neighbour distances, bias-corrected: nothing to train, for few latents; no bound."""

    neighbours: int = 5
    """Smallest number k of neighbours; a larger one lowers the variance and smooths the densities."""
    adaptive: bool = True
    """Count the neighbours in q and in p within the same ball, whose radius is the larger of the two k-th distances (Wang et
    al. 2009, section III)."""
    num_samples: int = 20_000
    """Largest number of codes of q, and of p, with one code for each data point."""

    requires: ClassVar[frozenset[str]] = frozenset({"volume"})
    takes: ClassVar[frozenset[str]] = frozenset({"groups"})

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        if self.neighbours < 1 or self.num_samples < 4 * self.neighbours + 4:
            raise InputError(
                f"{METHOD} needs at least 1 neighbour, and at least 4 * neighbours + 4 codes; got "
                f"neighbours = {self.neighbours}, num_samples = {self.num_samples}."
            )

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate KL[q||p] from distances of q's codes to their nearest neighbours among q's other codes and among p's.

        Nothing is fitted, so all data points are used: each gives one code (two codes of a point would be each other's
        neighbours), each group or set of copies one, and no code is its own neighbour. The estimate is consistent, but
        converges slowly with many latents: balls that hold k codes are then as wide as the cloud, and the answer is too
        small. Codes are whitened by the pooled moments, which does not change the KL and makes distances comparable.

        Returns:
            One estimate of the population's KL. Its error does not include the bias.
        Raises:
            InputError: there are fewer codes than neighbours, or codes that coincide.
        Reference: Wang, Kulkarni and Verdu (2009), Divergence estimation for multidimensional densities via k-nearest-neighbor
            distances; Perez-Cruz (2008).
        """
        started = time.perf_counter()
        q = as_posterior(posterior)
        check_prior(q, prior)
        need_volume(q, prior, METHOD)
        known = q.samples if isinstance(q, SampleOnly) else None, prior.samples if isinstance(prior, Cloud) else None
        refuse_ties(METHOD, *known, repeats=False)  # before what agrees is taken for copies
        z_q = q.sample_at(one_of_each(q, generator, METHOD)[: self.num_samples], generator)
        if isinstance(prior, Cloud):
            z_p = prior.samples[torch.randperm(len(prior.samples), generator=generator)[: self.num_samples]].double()
        else:
            z_p = sample_prior(prior, self.num_samples, generator)
        if min(len(z_q), len(z_p)) < 4 * self.neighbours + 4:
            raise InputError(
                f"{METHOD} needs at least {4 * self.neighbours + 4} codes of q, and of p, for its {self.neighbours} "
                "neighbours; "
                f"got {len(z_q)} of q, where points that coincide or are of one group give one, and {len(z_p)} of p: lower "
                f"--{METHOD}.neighbours."
            )
        refuse_ties(METHOD, z_q, z_p)
        whitening = Whitening.of(torch.cat([z_q, z_p]))
        u_q, u_p = (whitening.white(z).cpu().numpy() for z in (z_q, z_p))
        progress(0, 1, "looking for neighbours")
        mean = self._with_error(u_q, u_p)
        if not math.isfinite(mean.value):
            raise InputError(
                f"{METHOD} met codes that coincide, so that a distance is 0 and its logarithm infinite: q or p is discrete, or "
                f"repeats its samples. Use --methods classifier."
            )
        progress(1, 1, f"about {mean.value:.3g} nats")
        details: dict[str, Any] = {"prior_samples": len(z_p), "settings": dataclasses.asdict(self)}
        seconds = time.perf_counter() - started
        return (Estimate(METHOD, "population", "none", *mean, "kl", len(z_q), seconds, details),)

    def _with_error(self, u_q: Array, u_p: Array) -> MeanError:
        """Compute the mean over all codes, and its error from its variation over disjoint parts of both sides.

        The variance of the terms would leave out the variation of p's codes, of which all terms of a region use the same few.
        """
        terms = _same_ball if self.adaptive else _same_count
        parts = max(min(PARTS, min(len(u_q), len(u_p)) // (2 * self.neighbours + 2)), 2)
        value = float(terms(u_q, u_p, self.neighbours).mean())
        if not math.isfinite(value):
            return MeanError(value, math.inf)
        each = [float(terms(u_q[i::parts], u_p[i::parts], self.neighbours).mean()) for i in range(parts)]
        return MeanError(value, float(np.std(each, ddof=1)) / math.sqrt(parts))


def _trees(u_q: Array, u_p: Array) -> tuple[Any, Any]:
    from sklearn.neighbors import NearestNeighbors

    kind = "kd_tree" if u_q.shape[1] <= 12 else "brute"
    return tuple(NearestNeighbors(algorithm=kind).fit(u) for u in (u_q, u_p))


def _same_count(u_q: Array, u_p: Array, k: int) -> Array:
    """Compute d log(nu_k / rho_k) + log(m / (n - 1)) with the k-th neighbour on both sides, so that the biases cancel."""
    near_q, near_p = _trees(u_q, u_p)
    rho = near_q.kneighbors(n_neighbors=k)[0][:, -1]
    nu = near_p.kneighbors(u_q, n_neighbors=k)[0][:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return u_q.shape[1] * np.log(nu / rho) + math.log(len(u_p) / (len(u_q) - 1))


def _same_ball(u_q: Array, u_p: Array, k: int) -> Array:
    """Compute psi(l) - psi(m) + log(M / (n - 1)) + d log(nu_m / rho_l), with l and m neighbours of q and p in one ball.

    The ball is the larger of the two k-th distances; distances are those of the last neighbours inside it, so that both
    densities are smoothed over nearly the same ball.
    """
    near_q, near_p = _trees(u_q, u_p)
    most_q, most_p = min(8 * k, len(u_q) - 1), min(8 * k, len(u_p))
    to_q = near_q.kneighbors(n_neighbors=most_q)[0]
    to_p = near_p.kneighbors(u_q, n_neighbors=most_p)[0]
    ball = np.maximum(to_q[:, k - 1], to_p[:, k - 1])[:, None]
    in_q, in_p = (to_q <= ball).sum(1), (to_p <= ball).sum(1)
    rows = np.arange(len(u_q))
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = u_q.shape[1] * np.log(to_p[rows, in_p - 1] / to_q[rows, in_q - 1])
    psi_q, psi_p = (torch.digamma(torch.from_numpy(count).double()).numpy() for count in (in_q, in_p))
    return psi_q - psi_p + distances + math.log(len(u_p) / (len(u_q) - 1))
