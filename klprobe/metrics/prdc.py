"""Share of samples that look like data, and share of data that samples look like, by nearest neighbours among features."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klprobe.metrics import Better, Features, Score, check_pair
from klprobe.metrics._statistics import halves_error, share_error
from klprobe.types import InputError

__all__ = ["PRDC"]

ROWS_AT_ONCE = 500
SAME = 1e-6
"""Distance of two points, over the length of one, below which they are copies: nets see copies in float32, in other batches."""
QUANTITIES: dict[str, Better] = {"precision": "higher", "recall": "higher", "density": "closer", "coverage": "higher"}


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage of samples against data, under any feature net.

    A ball around each point reaches to its k-th nearest neighbour in its own set. precision: share of samples in some
    data's ball; recall: share of data in some sample's ball; density: data's balls that hold a sample, over k; coverage:
    share of data whose ball holds a sample. All depend on k and on the sizes of the sets, so compare at equal ones: for
    equal distributions density is 1 and coverage 1 - 2^-k, while precision and recall have no closed form. Errors are
    what two halves of both sets disagree by, and at least those of a share of independent points.

    Reference: Kynkäänniemi et al. (2019); Naeem et al. (2020), eqs. 3 to 6.
    """

    k: int = 5
    """Number of nearest neighbours that set the radius (Naeem et al. section 4: 5)."""
    points: int = 5000
    """Largest number of points of each set, chosen at random; the cost grows with its square."""

    def measure(self, sample_features: Features, data_features: Features, generator: torch.Generator) -> tuple[Score, ...]:
        """`precision`, `recall`, `density`, `coverage`; higher is better.

        Raises:
            InputError: k below 1, or halves of fewer than k + 1 points.
        """
        check_pair(sample_features, data_features, "prdc")
        if self.k < 1 or min(len(sample_features), len(data_features)) < 2 * self.k + 2:
            raise InputError(
                f"prdc with k = {self.k} needs k of at least 1 and {2 * self.k + 2} points of each set; got "
                f"{len(sample_features)} samples and {len(data_features)} data."
            )
        x, y = (
            f.values[torch.randperm(len(f), generator=generator)[: self.points]].double()
            for f in (sample_features, data_features)
        )
        found = self._count(x, y)
        errors = halves_error(self._count, (x, y), generator).tolist()
        for i, n in ((0, len(x)), (1, len(y)), (3, len(y))):
            errors[i] = max(errors[i], share_error(float(found[i]), n))
        errors[2] = max(errors[2], 1 / self.k / len(x))  # density: as if one sample were in one ball more
        zero = {"samples": int((self._radii(x) == 0).sum()), "data": int((self._radii(y) == 0).sum())}
        details = {"k": self.k, "samples": len(x), "data": len(y), "zero_radii": zero}
        note = self._said(zero, len(x), len(y))
        return tuple(
            Score(name, float(value), float(error), better, net=sample_features.net, details=details, note=note)
            for (name, better), value, error in zip(QUANTITIES.items(), found, errors, strict=True)
        )

    def _said(self, zero: dict[str, int], samples: int, data: int) -> str:
        """What radii of 0 do to the numbers; empty where there are none."""
        if not any(zero.values()):
            return ""
        return (
            f"prdc: {zero['samples']:,} of {samples:,} samples and {zero['data']:,} of {data:,} data have a radius of 0, for "
            f"they have {self.k} copies or more in their own set. Nothing lies within such a radius: of samples it lowers "
            "recall, and of data precision, density and coverage"
        )

    def _count(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The four numbers, shape (4,), from samples and data."""
        around_x, around_y = self._radii(x), self._radii(y)
        precise, dense = 0, 0
        recalled, covered = (torch.zeros(len(y), dtype=torch.bool) for _ in range(2))
        for block, reach in zip(x.split(ROWS_AT_ONCE), around_x.split(ROWS_AT_ONCE), strict=True):
            apart = torch.cdist(block, y)
            inside = apart < around_y
            precise += int(inside.any(1).sum())
            dense += int(inside.sum())
            covered |= inside.any(0)
            recalled |= (apart < reach[:, None]).any(0)
        return torch.tensor(
            [precise / len(x), float(recalled.double().mean()), dense / self.k / len(x), float(covered.double().mean())],
            dtype=torch.float64,
        )

    def _radii(self, points: torch.Tensor) -> torch.Tensor:
        """Distance of each point to its k-th nearest neighbour, itself not counted, 0 of copies; shape (n,)."""
        blocks = points.split(ROWS_AT_ONCE)
        radii = torch.cat([torch.cdist(block, points).topk(self.k + 1, largest=False).values[:, -1] for block in blocks])
        return torch.where(radii > SAME * points.norm(dim=1), radii, 0.0)
