"""Diversity of samples: 1 - MS-SSIM, the mean over pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from klprobe.metrics import Score
from klprobe.metrics._statistics import mean_error
from klprobe.types import InputError

__all__ = ["MsSsim"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, finest first (Wang et al. 2003, section 3.2)."""
K1, K2 = 0.01, 0.03
"""Constants that keep the ratios finite (Wang et al. 2004)."""
PAIRS_AT_ONCE = 256


@dataclass(frozen=True)
class MsSsim:
    """Sample diversity: 1 - MS-SSIM, mean over random pairs of images in [0, 1].

    The nearer to the diversity of test data the better: below, samples are too alike; above, they are noise. The five usual
    scales need more than 160 pixels, so smaller images get as many as the kernel fits into, and the scales' weights are
    brought back to a sum of 1: with the kernel of 11 that is 2 scales for 28 and 32 pixels, 3 for 64, 4 for 128. No sample
    is in two pairs, so the error is that of a mean of independent values.

    Reference: Wang et al. (2003); as diversity Odena et al. (2017), AGAN section 5.1, DMVI Figs. 4, 5.
    """

    kernel: int = 11
    """Side of the Gaussian window, in pixels; smaller images get the largest odd window that fits."""
    sigma: float = 1.5
    """Standard deviation of the Gaussian window, in pixels."""
    scales: int = 0
    """Number of scales; 0 takes as many of the five as fit."""
    edges: Literal["valid", "mirror"] = "valid"
    """Which windows count at the edges. valid takes those inside the image, as Wang et al. do; mirror lets the coarsest scale
    go beyond its edges, as torchmetrics does."""
    pairs: int = 2000
    """Largest number of pairs; there are never more than half as many pairs as samples."""

    def measure(self, samples: torch.Tensor, generator: torch.Generator) -> tuple[Score, ...]:
        """`ms-ssim-diversity`.

        Raises:
            InputError: no images, fewer than 4, values outside [0, 1], or scales that do not fit.
        """
        images = _square(samples)
        if len(images) < 4:
            raise InputError(f"ms-ssim needs at least 4 images; got {len(images)}.")
        if images.min() < -1e-3 or images.max() > 1 + 1e-3:
            raise InputError(f"ms-ssim needs images in [0, 1]; these lie in [{images.min():.3g}, {images.max():.3g}].")
        order = torch.randperm(len(images), generator=generator)[: 2 * min(self.pairs, len(images) // 2)]
        likeness = torch.cat(
            [
                self._similarity(images[a].double(), images[b].double())
                for a, b in zip(order[::2].split(PAIRS_AT_ONCE), order[1::2].split(PAIRS_AT_ONCE), strict=True)
            ]
        )
        kernel, scales = self._fit(min(images.shape[2:]))
        details = {"pairs": len(likeness), "kernel": kernel, "sigma": self.sigma, "scales": scales, "edges": self.edges}
        return (Score("ms-ssim-diversity", 1 - float(likeness.mean()), mean_error(likeness), "closer", details=details),)

    def _fit(self, side: int) -> tuple[int, int]:
        """Kernel and number of scales for images of this side."""
        kernel = min(self.kernel, side - 1 + side % 2)
        fitting = 1 + max(math.floor(math.log2(side / kernel)), 0)
        if self.scales > min(fitting, len(WEIGHTS)):
            raise InputError(
                f"ms-ssim: {self.scales} scales with a kernel of {kernel} do not fit into {side} pixels: "
                f"{min(fitting, len(WEIGHTS))} do."
            )
        return kernel, self.scales or min(fitting, len(WEIGHTS))

    def _similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """MS-SSIM of each pair, shape (m,), from two of shape (m, C, H, W)."""
        size, scales = self._fit(min(a.shape[2:]))
        offset = torch.arange(size).to(a) - (size - 1) / 2
        line = torch.softmax(-0.5 * (offset / self.sigma).square(), 0)
        weights = torch.tensor(WEIGHTS[:scales]).to(a)
        weights = weights / weights.sum() if scales < len(WEIGHTS) else weights  # the five add up to 1.0001 in print
        product = torch.ones(len(a)).to(a)
        for scale, weight in enumerate(weights):
            last = scale == scales - 1
            contrast, whole = _compare(a, b, line, mirrored=last and self.edges == "mirror")
            product = product * (whole if last else contrast).clamp(min=0) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return product


def _compare(a: torch.Tensor, b: torch.Tensor, line: torch.Tensor, *, mirrored: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrast-structure and SSIM, means over the windows, shape (m,) each."""
    if mirrored:
        half = len(line) // 2
        a, b = (F.pad(image, (half, half, half, half), mode="reflect") for image in (a, b))
    channels = a.shape[1]
    across = line.expand(channels, 1, 1, -1)

    def blur(image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(image, across, groups=channels), across.mT, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = (blur(a * a) - mean_a**2).clamp(min=0), (blur(b * b) - mean_b**2).clamp(min=0)
    together = blur(a * b) - mean_a * mean_b
    contrast = (2 * together + K2**2) / (variance_a + variance_b + K2**2)
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    return contrast.flatten(1).mean(1), (contrast * luminance).flatten(1).mean(1)


def _square(samples: torch.Tensor) -> torch.Tensor:
    """Images (m, C, H, W), also from vectors that fill a square."""
    if samples.dim() == 4:
        return samples
    side = math.isqrt(samples.shape[1]) if samples.dim() == 2 else 0
    if side < 4 or side * side != samples.shape[1]:
        raise InputError(f"ms-ssim needs images (m, C, H, W), or vectors that fill a square; got {tuple(samples.shape)}.")
    return samples.reshape(-1, 1, side, side)
