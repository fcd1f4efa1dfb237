"""An invertible map after which pooled codes look normal: whiten, turn to independent components, bend each marginal.

KL[q||p] is that of the images, whatever the map; what it changes is how far a quadratic form goes. Latents that are bent one
by one, or bent and then mixed linearly, come out straight. Where q and p hardly overlap, though, their pooled codes are two
lumps that such a map presses together and bends towards each other; the map is then one of either side's codes alone, or the
whitening, whichever makes both sides most nearly normal.

Reference: Chen and Gopinath (2000), Gaussianization; Laparra, Camps-Valls and Malo (2011), Iterative Gaussianization; Choi,
Liao and Ermon (2021), Featurized density ratio estimation, for ratios after an invertible map.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from klprobe.estimators._whitening import Whitening

KNOTS, CODES_A_KNOT = 500, 80
"""Quantiles that a marginal's curve is estimated from, at most, and pooled codes for each."""
CELLS, REACH = 2048, 1e-3
"""Even cells that the curve is a straight line in, so that a code's cell is found by division, and the share of codes beyond
either end of them."""
LEAST_SLOPE = 1e-2
"""Added to the curve's slope, per standard deviation: keeps the map invertible where there are no codes."""
Codes = tuple[torch.Tensor, torch.Tensor]
"""Codes of q and codes of p."""
SMALLEST = 1e-9
"""Least range of a component, in standard deviations."""
ROUNDS = 30
"""Rounds of the search for independent components; its result is a rotation after any number of rounds."""


class Gaussianization(NamedTuple):
    """u = curve((z - mean) @ rotation), the curve bending each component so that pooled codes are nearly standard normal.

    Attributes:
        mean, rotation: Whitening and turn in one, shapes (D,) and (D, D).
        low, width: First cell's lower end and all cells' width, shape (D,).
        curve: Images of the cells' ends, rising in each row, shape (D, CELLS + 1).
    """

    mean: torch.Tensor
    rotation: torch.Tensor
    low: torch.Tensor
    width: torch.Tensor
    curve: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor, seed: int) -> Gaussianization:
        """From pooled codes of both sides, shape (m, D); `seed` starts the search for components."""
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
        """Each component's place among its cells, in cells, and the cell it is in or next to; shapes (D, m)."""
        place = (((z - self.mean) @ self.rotation - self.low) / self.width).T
        return place, place.long().clamp_(0, CELLS - 1)

    def white(self, z: torch.Tensor) -> torch.Tensor:
        """Images, float64: straight lines in the cells, and beyond them the line of slope one."""
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


Preparation = Whitening | Gaussianization
"""The invertible maps that codes may go through before a network."""


def most_normal(fit: Codes, stop: Codes, seed: int) -> Preparation:
    """Choose the map under which validation codes are most likely: whitening, or Gaussianization of pooled, q's or p's codes.

    The likelihood of a side's codes is that of a normal density of their images, with the moments of the images of its own
    other codes, times the map's volume: it can be compared among maps, however far apart q and p lie, where a log-loss
    cannot, because any map tells the sides apart.

    Args:
        fit, stop: Codes of q and of p to fit and to choose by, shapes (m, D), float64.
        seed: Starts the searches for components.
    """
    pooled = torch.cat(fit)
    found: list[Preparation] = [Whitening.of(pooled), *(Gaussianization.of(z, seed) for z in (pooled, *fit))]
    return max(found, key=lambda each: sum(_likelihood(each, *side) for side in zip(fit, stop, strict=True)))


def _likelihood(through: Preparation, fit: torch.Tensor, stop: torch.Tensor) -> float:
    """Mean log-density in nats of one side's held-out codes; -inf where its images have no volume."""
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
    """A rotation of whitened codes to components as independent as it finds them, shape (D, D)."""
    dim = u.shape[1]
    if dim == 1:
        return torch.ones(1, 1, dtype=u.dtype, device=u.device)
    from sklearn.decomposition import FastICA

    search = FastICA(whiten=False, max_iter=ROUNDS, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged is all it can say
        search.fit(u.cpu().numpy())
    unmixing = torch.from_numpy(search.components_).to(u)
    left, _, right = torch.linalg.svd(unmixing)  # the nearest rotation, exact where the search gives one
    return (left @ right).T
