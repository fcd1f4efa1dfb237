"""Whitening by the pooled moments of both sides: what most ratios differ in first is then a matter of order one."""

from __future__ import annotations

from typing import NamedTuple

import torch

SMALLEST_EIGENVALUE = 1e-10
"""Smallest eigenvalue of the pooled correlation matrix; flatter directions carry rounding errors, and are left as they are."""


class Whitening(NamedTuple):
    """u = ((z - mean) / std) @ rotation, float64."""

    mean: torch.Tensor
    std: torch.Tensor
    rotation: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor) -> Whitening:
        """From pooled codes of both sides; each latent is first standardised, so that scales may differ by 10^9."""
        mean, std = z.mean(0), z.std(0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        standard = (z - mean) / std
        eigenvalues, vectors = torch.linalg.eigh(standard.T @ standard / len(z))
        scale = torch.where(eigenvalues > SMALLEST_EIGENVALUE, eigenvalues, torch.ones_like(eigenvalues)).rsqrt()
        return cls(mean, std, (vectors * scale) @ vectors.T)

    @classmethod
    def none(cls, z: torch.Tensor) -> Whitening:
        """Leaves codes as they are."""
        return cls(torch.zeros_like(z[0]), torch.ones_like(z[0]), torch.eye(z.shape[1], dtype=z.dtype, device=z.device))

    def white(self, z: torch.Tensor) -> torch.Tensor:
        """Whitened codes, float64."""
        return ((z - self.mean) / self.std) @ self.rotation

    def log_volume(self, z: torch.Tensor) -> torch.Tensor:
        """log |det of the map's derivative|, the same everywhere, shape (m,), float64."""
        return (torch.linalg.slogdet(self.rotation).logabsdet - self.std.log().sum()).expand(len(z))

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Whitened codes, float32, as networks take them."""
        return self.white(z).float()
