"""Whitening: codes become uncorrelated, each of variance one, by an invertible linear map whose volume is known.

There is one map, made in two ways. `Whitening.of` is for methods that learn a ratio of two sides, which any invertible map
leaves as it is; directions without spread hold rounding errors alone, and are not scaled. `whiten` is for methods that learn a
density, for which such a direction means an infinite KL: it refuses latents that never vary, and undoes correlations only as
far as this helps on held-out codes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from klprobe.types import InputError

NO_SPREAD = 1e-10
"""Smallest eigenvalue of the pooled correlation matrix; directions below it hold rounding errors, and are not scaled."""
SHRINKAGES = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the identity tried in the correlation matrix; 1 standardises each latent by itself."""
SMALLEST_EIGENVALUE = 1e-12
"""Smallest eigenvalue of a correlation matrix that is above the rounding of float64."""


class Whitening(NamedTuple):
    """u = ((z - mean) / std) @ rotation and the exact log|det du/dz|; at shrinkage 1 the rotation is the identity."""

    mean: torch.Tensor
    std: torch.Tensor
    rotation: torch.Tensor
    log_det: float
    shrinkage: float

    @classmethod
    def of(cls, z: torch.Tensor) -> Whitening:
        """Make it from pooled codes of both sides; each latent is standardised first, so that scales may differ by 10^9."""
        mean, std = z.mean(0), z.std(0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        standard = (z - mean) / std
        eigenvalues, vectors = torch.linalg.eigh(standard.T @ standard / len(z))
        scale = torch.where(eigenvalues > NO_SPREAD, eigenvalues, torch.ones_like(eigenvalues)).rsqrt()
        rotation = (vectors * scale) @ vectors.T
        return cls(mean, std, rotation, float(torch.linalg.slogdet(rotation).logabsdet - std.log().sum()), 0.0)

    @classmethod
    def none(cls, z: torch.Tensor) -> Whitening:
        """Make the identity, which leaves codes as they are."""
        identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        return cls(torch.zeros_like(z[0]), torch.ones_like(z[0]), identity, 0.0, 1.0)

    def white(self, z: torch.Tensor) -> torch.Tensor:
        """Whitened codes, shape (m, D), float64."""
        u = (z - self.mean) / self.std
        return u if self.shrinkage == 1 else u @ self.rotation  # with thousands of latents, this takes most of a step's time

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Whitened codes, float32, as networks take them."""
        return self.white(z).float()

    def undo(self, u: torch.Tensor) -> torch.Tensor:
        """Map whitened codes u back to z, shape (m, D)."""
        return torch.linalg.solve(self.rotation, u, left=False) * self.std + self.mean

    def log_volume(self, z: torch.Tensor) -> torch.Tensor:
        """Log of |det of the map's derivative|, the same everywhere, shape (m,), float64."""
        return torch.full((len(z),), self.log_det, dtype=self.std.dtype, device=self.std.device)


def whiten(fit: torch.Tensor, stop: torch.Tensor, *, correlations: bool = True) -> Whitening:
    """Standardise by the moments of `fit`, and undo its correlations as far as that helps a Gaussian describe `stop`.

    The inverse square root of the correlation matrix is the symmetric one, which turns the latents as little as can
    be: posteriors are narrow along the latents, and a rotation would hide that from a diagonal model.

    Args:
        fit, stop: Codes, shapes (m, D) and (k, D), float64.
        correlations: Whether to undo correlations at all.
    Raises:
        InputError: a latent is the same number everywhere, so q(z) has no density.
    """
    flat = (fit.amin(0) == fit.amax(0)).nonzero().flatten().tolist()
    if flat:
        raise InputError(
            f"A density model needs latents that vary, but latent {flat[0]} is the same number at every point ({len(flat)} of "
            f"{fit.shape[1]} are such): q(z) has no density, and KL[q||p] is infinite. Drop these latents from q and p."
        )
    mean, std = fit.mean(0), fit.std(0)
    standard, held_out = (fit - mean) / std, (stop - mean) / std
    eigenvalues, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    power = (held_out @ vectors).square().mean(0)

    def spectrum(shrinkage: float) -> torch.Tensor:
        return ((1 - shrinkage) * eigenvalues + shrinkage).clamp(min=SMALLEST_EIGENVALUE)

    def misfit(shrinkage: float) -> float:
        return float((power / spectrum(shrinkage) + spectrum(shrinkage).log()).sum())

    shrinkage = min(SHRINKAGES, key=misfit) if correlations else 1.0
    if shrinkage == 1:
        return Whitening(mean, std, torch.eye(len(std), dtype=std.dtype, device=std.device), float(-std.log().sum()), 1.0)
    scale = spectrum(shrinkage).rsqrt()
    return Whitening(mean, std, (vectors * scale) @ vectors.T, float(scale.log().sum() - std.log().sum()), shrinkage)


class Preparation(Protocol):
    """An invertible map applied to codes before a network: whitening, or a non-linear map."""

    @property
    def mean(self) -> torch.Tensor:
        """Point that is subtracted from codes, shape (D,)."""

    @property
    def rotation(self) -> torch.Tensor:
        """The linear part, shape (D, D)."""

    def white(self, z: torch.Tensor) -> torch.Tensor:
        """Images of codes z, shape (m, D), float64."""

    def log_volume(self, z: torch.Tensor) -> torch.Tensor:
        """log |det of the map's derivative|, shape (m,), float64."""

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Images, float32, as networks take them."""
