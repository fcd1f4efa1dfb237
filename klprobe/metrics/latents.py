"""Moments of codes beside those of the prior: mean, spread, dependence, length, and the number of active latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from klprobe.metrics import Better, Score
from klprobe.metrics._statistics import halves_error, moments
from klprobe.types import InputError

__all__ = ["Latents"]

MOST_IN_DETAILS = 256
"""Latents up to which the means and the covariance matrix are kept."""
RESAMPLES = 100
"""Resamples of the bootstrap for the number of active units."""
QUANTITIES: dict[str, Better] = {
    "latent-mean-square": "closer",
    "latent-variance": "closer",
    "latent-covariance": "closer",
    "latent-radius": "closer",
}


@dataclass(frozen=True)
class Latents:
    """Moments of the aggregate posterior beside the prior's: means, variances, covariances, radius; active units.

    latent-mean-square: mean over latents of (E z_d)^2, unbiased; latent-variance: mean of Var z_d; latent-covariance: root
    mean square of the covariances of pairs, which is not 0 for finitely many codes, so hold it against the prior's of as
    many; latent-radius: E|z|. active-units: latents whose posterior mean varies by more than `active` over the data. All are
    moments: a posterior that has them all right can still be far from the prior, which is what `klprobe estimate` measures.

    Reference: AGAN Figs. 11, 12; active units: Burda et al. (2016), section 5.2.
    """

    active: float = 0.01
    """Variance of the posterior mean above which a latent counts as active (Burda et al.)."""

    def measure(self, codes: torch.Tensor, means: torch.Tensor | None, generator: torch.Generator) -> tuple[Score, ...]:
        """The four moments, and `active-units` where the posterior means are known.

        Args:
            codes: One draw of q(z|x) for each data point, shape (n, D).
            means: Means of q(z|x), shape (n, D), or None.
            generator: Source of randomness for the errors, which come from random halves.
        Raises:
            InputError: fewer than 4 codes.
        """
        if codes.dim() != 2 or len(codes) < 4:
            raise InputError(f"latents needs at least 4 codes, shape (n, D); got {tuple(codes.shape)}.")
        z = codes.double()
        values, errors = _moments(z), halves_error(_moments, (z,), generator)
        details: dict[str, Any] = {"codes": len(z), "latents": z.shape[1]}
        found = [
            Score(name, float(value), float(error), better, details=details)
            for (name, better), value, error in zip(QUANTITIES.items(), values, errors, strict=True)
        ]
        if z.shape[1] <= MOST_IN_DETAILS:
            own = moments(z)
            details |= {"means": own.mean.tolist(), "covariance": own.covariance.tolist()}
        if means is None:
            unknown = "the posterior means are not known"
            return (*found, Score("active-units", None, None, "higher", reason=unknown))
        units = int((means.double().var(0) > self.active).sum())
        error = _active_error(means.double(), self.active, generator)
        return (*found, Score("active-units", units, error, "higher", details={"active": self.active}))


def _active_error(means: torch.Tensor, active: float, generator: torch.Generator) -> float:
    """Bootstrap over data points of the number of active units: all variances of all resamples are two matrix products."""
    n = len(means)
    means = means - means.mean(0)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    weights = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double()) / n
    variances = (weights @ means.square() - (weights @ means).square()) * n / (n - 1)
    return float((variances > active).sum(1).double().std())


def _moments(z: torch.Tensor) -> torch.Tensor:
    """The four numbers of `QUANTITIES`, shape (4,)."""
    mean, covariance = moments(z)
    variances = covariance.diag()
    pairs = max(len(mean) * (len(mean) - 1), 1)
    off = (covariance.square().sum() - variances.square().sum()).clamp(min=0) / pairs
    unbiased = (mean.square() - variances / len(z)).mean()
    return torch.stack([unbiased, variances.mean(), off.sqrt(), z.norm(dim=1).mean()])
