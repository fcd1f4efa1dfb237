"""Fréchet distance between features of samples and of data, and what it would be with infinitely many of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klprobe.metrics import Features, Score, check_pair
from klprobe.metrics._statistics import frechet, frechet_distance, frechet_influence, mean_error, moments
from klprobe.types import InputError

__all__ = ["FID"]


@dataclass(frozen=True)
class FID:
    """Fréchet inception distance under any feature net, and its extrapolation to infinitely many samples and data.

    The squared Fréchet distance of two normals with the features' moments, lower is better. With finite samples it is too
    large by nearly c/n, so values at different n are not comparable; `fid-infinity` is where the line through the distance
    of the whole sets and the mean one of their halves meets 1/n = 0: twice the first minus the second. It can be negative.
    Errors are standard errors over both sets. They hold the influence of each point, exact to first order, and the second
    order, which rules where both distributions are alike: as much as the mean of two halves varies with their choice. For equal
    distributions they are nearly twice too large.

    Reference: Heusel et al. (2017); Chong and Forsyth (2020), "Effectively unbiased FID", whose line has more points, of
    smaller parts, where it bends more; BMS Tables 6, 7.
    """

    divisions: int = 10
    """Number of random ways in which both sets are halved."""

    def measure(self, sample_features: Features, data_features: Features, generator: torch.Generator) -> tuple[Score, ...]:
        """`fid` at the sizes given, and `fid-infinity`, where halves have more points than features.

        Raises:
            InputError: no more samples, or data, than features: their covariance would be singular.
        """
        check_pair(sample_features, data_features, "fid")
        x, y, net = sample_features.values.double(), data_features.values.double(), sample_features.net
        few, dim = min(len(x), len(y)), x.shape[1]
        if few <= dim:
            raise InputError(
                f"fid needs more points than features: {net} has {dim}, so at least {dim + 1} samples and as many data; got "
                f"{len(x)} and {len(y)}. Give more, or a net with fewer features."
            )
        if self.divisions < 2:
            raise InputError(f"fid needs at least 2 divisions to know their spread; got {self.divisions}.")
        own, other = moments(x), moments(y)
        found = frechet(own, other)
        first_order = math.hypot(
            mean_error(frechet_influence(x, own, other, found.forth)), mean_error(frechet_influence(y, other, own, found.back))
        )
        details = {"samples": len(x), "data": len(y), "features": dim}
        if few // 2 <= dim:
            reason = f"needs {2 * dim + 2} samples and as many data, for halves with more points than features"
            return (
                Score("fid", found.distance, first_order, "lower", net=net, details=details),
                Score("fid-infinity", None, None, "lower", net=net, reason=reason),
            )
        halves = torch.tensor([_of_halves(x, y, generator) for _ in range(self.divisions)]).double()
        second_order = float(halves.std())
        far = 2 * found.distance - float(halves.mean())
        far_error = math.hypot(first_order, second_order * math.sqrt(1 + 1 / self.divisions))
        return (
            Score("fid", found.distance, math.hypot(first_order, second_order), "lower", net=net, details=details),
            Score("fid-infinity", far, far_error, "lower", net=net, details={"divisions": self.divisions}),
        )


def _of_halves(x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> float:
    """Mean distance of two random halves of x from the two of y."""
    parts = (points[torch.randperm(len(points), generator=generator)].tensor_split(2) for points in (x, y))
    return sum(frechet_distance(moments(a), moments(b)) for a, b in zip(*parts, strict=True)) / 2
