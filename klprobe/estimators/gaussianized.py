"""Density ratio after an invertible map that makes codes look normal, and a calibrated classifier behind it.

The map whitens pooled codes, rotates them to independent components, and transforms each marginal to a normal one.

KL[q||p] is that of the images, for any invertible map; the map changes how well a quadratic form can fit the ratio. Latents
that
were transformed one by one, or transformed and then mixed linearly, become normal. Where q and p hardly overlap, though, their
pooled codes are two clusters that such a map would push together; the map is then one of one side's codes alone, or the
whitening, whichever makes both sides most nearly normal.

Reference: Chen and Gopinath (2000), Gaussianization; Laparra, Camps-Valls and Malo (2011), Iterative Gaussianization; Choi,
Liao and Ermon (2021), Featurized density ratio estimation, for ratios after an invertible map.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from klprobe.distributions.whitening import Preparation, Whitening
from klprobe.estimators._ratio import Loss, logistic
from klprobe.estimators._ratio_estimator import RatioEstimator
from klprobe.estimators._sides import Codes

__all__ = ["Gaussianized"]

KNOTS, CODES_A_KNOT = 500, 80
"""Largest number of quantiles that a marginal's curve is estimated from, and number of pooled codes for each."""
CELLS, REACH = 2048, 1e-3
"""Number of even cells, in each of which the curve is a straight line, so that a code's cell is found by division, and the
share of codes beyond either end of them."""
LEAST_SLOPE = 1e-2
"""Slope added to the curve, per standard deviation, which keeps the map invertible where there are no codes."""
SMALLEST = 1e-9
"""Smallest range of a component, in standard deviations."""
ROUNDS = 30
"""Largest number of iterations of the search for independent components, which gives a rotation after any number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussianized(RatioEstimator):
    """Density ratio after Gaussianizing the codes: for codes whose independent components are far from normal.

    The map is fitted to the pooled codes, to one side's alone, or is the plain whitening, whichever makes both sides most
    nearly normal, by the likelihood of validation codes.
    """

    def loss(self) -> Loss:
        """Cross-entropy of the label, which is 1 for draws of q."""
        return logistic

    def prepare(self, fit: Codes, stop: Codes, generator: torch.Generator) -> Preparation:
        """Fit the map that replaces the whitening."""
        return most_normal(fit, stop, int(torch.randint(2**31 - 1, (), generator=generator)))


class Gaussianization(NamedTuple):
    """u = curve((z - mean) @ rotation), where the curve maps each component so that pooled codes are nearly standard normal.

    Attributes:
        mean, rotation: Whitening and rotation in one, shapes (D,) and (D, D).
        low, width: Lower end of the first cell, and width of all cells, shape (D,).
        curve: Images of the ends of the cells, rising in each row, shape (D, CELLS + 1).
    """

    mean: torch.Tensor
    rotation: torch.Tensor
    low: torch.Tensor
    width: torch.Tensor
    curve: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor, seed: int) -> Gaussianization:
        """Fit it to pooled codes of both sides, shape (m, D); `seed` starts the search for components."""
        whitening = Whitening.of(z)
        turn = _independent_components(whitening.white(z), seed)
        rotation = (whitening.rotation / whitening.std[:, None]) @ turn
        components = ((z - whitening.mean) @ rotation).sort(0).values.cpu()
        low, high = components[int(REACH * len(z))], components[-1 - int(REACH * len(z))]
        width = (high - low).clamp(min=SMALLEST) / CELLS
        ends = low + width * torch.arange(CELLS + 1, dtype=torch.float64)[:, None]
        share = (np.arange(knots := max(min(KNOTS, len(z) // CODES_A_KNOT), 2)) + 0.5) / knots
        at, normal = components[(torch.from_numpy(share) * len(z)).long()], torch.special.ndtri(torch.from_numpy(share))
        curve = np.stack([np.interp(ends[:, d], at[:, d], normal) for d in range(z.shape[1])])
        bent = torch.from_numpy(curve) + LEAST_SLOPE * ends.T
        return cls(whitening.mean, rotation, low.to(z), width.to(z), bent.to(z).contiguous())

    def _place(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Place of each component, in units of cells, and the cell that it is in or next to; shapes (D, m)."""
        place = (((z - self.mean) @ self.rotation - self.low) / self.width).T
        return place, place.long().clamp_(0, CELLS - 1)

    def white(self, z: torch.Tensor) -> torch.Tensor:
        """Images, float64, by straight lines in the cells, and a line of slope one beyond them."""
        place, cell = self._place(z)
        left = self.curve.gather(1, cell)
        share = (place - cell).clamp(0, 1)
        beyond = (place - place.clamp(0, CELLS)) * self.width[:, None]
        return (left + share * (self.curve.gather(1, cell + 1) - left) + beyond).T

    def log_volume(self, z: torch.Tensor) -> torch.Tensor:
        """log |det of the map's derivative|, shape (m,), float64."""
        place, cell = self._place(z)
        slope = (self.curve.gather(1, cell + 1) - self.curve.gather(1, cell)) / self.width[:, None]
        inside = (place >= 0) & (place <= CELLS)
        return torch.where(inside, slope, 1.0).log().sum(0) + torch.linalg.slogdet(self.rotation).logabsdet

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Images, float32, as networks take them."""
        return self.white(z).float()


def most_normal(fit: Codes, stop: Codes, seed: int) -> Preparation:
    """Choose the whitening or a Gaussianization of pooled codes, of q's or of p's, by the likelihood of validation codes.

    The likelihood of a side's codes is that of a normal density of their images, with the moments of the images of that
    side's fit codes, times the map's volume. It can be compared among maps even where q and p are far apart, while a
    log-loss cannot, because after any map the sides are separate.

    Args:
        fit, stop: Codes of q and of p to fit and to validate on, shapes (m, D), float64.
        seed: Seed of the searches for components.
    """
    pooled = torch.cat(fit)
    found: list[Preparation] = [Whitening.of(pooled), *(Gaussianization.of(z, seed) for z in (pooled, *fit))]
    return max(found, key=lambda each: sum(_likelihood(each, *side) for side in zip(fit, stop, strict=True)))


def _likelihood(through: Preparation, fit: torch.Tensor, stop: torch.Tensor) -> float:
    """Mean log-density in nats of one side's validation codes; -inf where its images have no volume."""
    u = through.white(fit)
    mean, count = u.mean(0), len(u)
    centred, dim = u - mean, u.shape[1]
    factor, info = torch.linalg.cholesky_ex(centred.T @ centred / count)
    if int(info):
        return -math.inf
    white = torch.linalg.solve_triangular(factor, (through.white(stop) - mean).T, upper=False)
    density = -0.5 * white.square().sum(0) - factor.diagonal().log().sum() - 0.5 * dim * math.log(2 * math.pi)
    return float((density + through.log_volume(stop)).mean())


def _independent_components(u: torch.Tensor, seed: int) -> torch.Tensor:
    """Find a rotation of whitened codes to components that are as independent as possible, shape (D, D)."""
    dim = u.shape[1]
    if dim == 1:
        return torch.ones(1, 1, dtype=u.dtype, device=u.device)
    from sklearn.decomposition import FastICA

    search = FastICA(whiten=False, max_iter=ROUNDS, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the only warning is that it has not converged
        search.fit(u.cpu().numpy())
    unmixing = torch.from_numpy(search.components_).to(u)
    left, _, right = torch.linalg.svd(unmixing)  # the nearest rotation; a rotation stays as it is
    return (left @ right).T
