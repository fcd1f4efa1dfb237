"""An invertible map after which pooled codes look normal: whiten, turn to independent components, bend each marginal.

KL[q||p] is that of the images, whatever the map; what it changes is how far a quadratic form goes. Latents that are bent one
by one, or bent and then mixed linearly, come out straight.

Reference: Chen and Gopinath (2000), Gaussianization; Laparra, Camps-Valls and Malo (2011), Iterative Gaussianization; Choi,
Liao and Ermon (2021), Featurized density ratio estimation, for ratios after an invertible map.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch

from klprobe.estimators._whitening import Whitening

KNOTS = 1000
"""Quantiles that a marginal's curve goes through, at most."""
CODES_A_KNOT = 20
"""Pooled codes for each."""
ROUNDS = 30
"""Of the search for independent components; what it has found by then is a rotation all the same."""
NARROWEST = 1e-9
"""Least distance between two knots, in standard deviations: keeps the map invertible where codes coincide."""


class Gaussianization(NamedTuple):
    """u = curve((z - mean) @ rotation), curve bending each component so that pooled codes are standard normal.

    Attributes:
        mean, rotation: Whitening and turn in one, shapes (D,) and (D, D).
        knots: Rising in each row, shape (D, knots).
        scores: Normal quantiles that the knots go to, shape (knots,).
    """

    mean: torch.Tensor
    rotation: torch.Tensor
    knots: torch.Tensor
    scores: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor, seed: int) -> Gaussianization:
        """From pooled codes of both sides, shape (m, D); `seed` starts the search for components."""
        whitening = Whitening.of(z)
        turn = _independent_components(whitening.white(z), seed)
        rotation = (whitening.rotation / whitening.std[:, None]) @ turn
        knots = max(min(KNOTS, len(z) // CODES_A_KNOT), 2)
        share = (torch.arange(knots, dtype=torch.float64, device=z.device) + 0.5) / knots
        components = ((z - whitening.mean) @ rotation).sort(0).values
        at = components[(share * len(z)).long()].T.contiguous()
        steps = (at[:, 1:] - at[:, :-1]).clamp(min=NARROWEST)
        rising = torch.cat([at[:, :1], at[:, :1] + steps.cumsum(1)], 1)
        return cls(whitening.mean, rotation, rising, torch.special.ndtri(share))

    def white(self, z: torch.Tensor) -> torch.Tensor:
        """Images, float64: straight lines between the knots, and beyond them the line of slope one."""
        x = ((z - self.mean) @ self.rotation).T.contiguous()
        last = self.knots.shape[1] - 1
        right = torch.searchsorted(self.knots, x).clamp(1, last)
        low, high = self.knots.gather(1, right - 1), self.knots.gather(1, right)
        inside = self.scores[right - 1] + (x - low) / (high - low) * (self.scores[right] - self.scores[right - 1])
        below, above = x - self.knots[:, :1], x - self.knots[:, -1:]
        bent = torch.where(below < 0, self.scores[0] + below, torch.where(above > 0, self.scores[-1] + above, inside))
        return bent.T

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Images, float32, as networks take them."""
        return self.white(z).float()


Preparation = Whitening | Gaussianization
"""The invertible maps that codes may go through before a network."""


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
