"""Least-squares density ratio: a sum of Gaussian bumps fitted in closed form (uLSIF), or its relative form (RuLSIF)."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, ClassVar, NamedTuple

import torch
from torch.distributions import Distribution

from klprobe.distributions.whitening import Whitening
from klprobe.estimators._ratio import CHUNK
from klprobe.estimators._ratio_report import calibration, evaluate
from klprobe.estimators._sides import Sides
from klprobe.types import Estimate, Estimator, InputError, Progress, no_progress

__all__ = ["LeastSquares"]

METHOD = "least-squares"
STOP_DRAWS = 10_000
"""Number of validation codes of each side, which choose width and penalty."""
WIDTHS = (0.25, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5)
"""Kernel widths that are tried, in median distances between codes and centres (Sugiyama et al. 2012, section 5.3)."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that are tried."""


@dataclasses.dataclass(frozen=True)
class LeastSquares(Estimator):
    """Density ratio as a sum of Gaussian bumps by least squares (uLSIF, RuLSIF), in seconds; for few latents."""

    alpha: float = 0.1
    """Share of q that is mixed into p. The fitted ratio q / (alpha q + (1 - alpha) p) is at most 1 / alpha; 0 is uLSIF."""
    centres: int = 500
    """Number of Gaussian bumps, each centred at a code of q."""
    fit_samples: int = 20_000
    """Number of codes of q, and of p, that the ratio is fitted on."""
    num_samples: int = 50_000
    """Number of codes of q for each reported expectation."""
    num_prior_samples: int = 200_000
    """Number n of codes of p for each reported expectation."""

    requires: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset({"groups"})

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        for name, least in (("centres", 1), ("fit_samples", 10), ("num_samples", 4), ("num_prior_samples", 1000)):
            if getattr(self, name) < least:
                raise InputError(f"{METHOD} needs {name} to be at least {least}; got {getattr(self, name)}.")
        if not 0 <= self.alpha < 1:
            raise InputError(f"{METHOD} needs alpha from 0 up to, not including, 1; got {self.alpha:g}.")

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate the mean log of the fitted ratio (no bound), and NWJ's and Donsker-Varadhan's bounds, for both targets.

        The relative ratio r_a = q / (a q + (1 - a) p) is fitted, and q / p = (1 - a) r_a / (1 - a r_a) taken from it before
        any logarithm. A fit can be 0 or less, or reach 1 / a, where the logarithm has no value: it is kept as far from both
        as one code among those fitted on can show. Width and penalty are those of the least squared error on the validation
        codes.

        Returns:
            Five estimates for each target, as of `classifier`.
        Raises:
            InputError: there are fewer than 20 points or prior samples.
        Reference: Kanamori, Hido and Sugiyama (2009), A least-squares approach to direct importance estimation; Yamada et al.
            (2013), Relative density-ratio estimation for robust distribution comparison.
        """
        started = time.perf_counter()
        sides = Sides.of(posterior, prior, generator, method=METHOD)
        stop = sides.once_q(sides.points.stop, STOP_DRAWS), sides.prior.stop(STOP_DRAWS)
        fit = sides.once_q(sides.points.fit, self.fit_samples), sides.fit_p(self.fit_samples)
        progress(0, 1, "fitting")
        bumps, details = _fit(fit, stop, self.centres, self.alpha)
        logits = evaluate(sides, bumps.log_ratio, bumps.log_ratio(stop[0]), self.num_samples, self.num_prior_samples)
        found = logits.estimates(METHOD)
        details |= {
            "calibration": calibration(logits.on_q[0].log_ratio, logits.on_p),
            "settings": dataclasses.asdict(self),
        }
        found[0] = dataclasses.replace(found[0], details=details)
        progress(1, 1, f"at least {found[1].value:.3g} nats")
        seconds = time.perf_counter() - started
        return tuple(dataclasses.replace(e, seconds=seconds) for e in found)


class Bumps(NamedTuple):
    """r_a(u) = sum_l weights_l exp(-|u - centre_l|^2 / (2 width^2)) at whitened codes.

    Attributes:
        most, least: Largest and smallest value that r_a may have.
    """

    whitening: Whitening
    centres: torch.Tensor
    width: float
    weights: torch.Tensor
    alpha: float
    least: float
    most: float

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Compute log q/p at codes z, which are not whitened; shape (m,), float64."""
        found = []
        for rows in z.split(CHUNK):
            relative = (_kernel(self.whitening.white(rows), self.centres, self.width) @ self.weights).clamp(
                self.least, self.most
            )
            found.append(relative.log() + math.log1p(-self.alpha) - torch.log1p(-self.alpha * relative))
        return torch.cat(found)


def _kernel(u: torch.Tensor, centres: torch.Tensor, width: float) -> torch.Tensor:
    return torch.exp(-0.5 * (torch.cdist(u, centres) / width).square())


def _fit(
    fit: tuple[torch.Tensor, torch.Tensor], stop: tuple[torch.Tensor, torch.Tensor], count: int, alpha: float
) -> tuple[Bumps, dict[str, Any]]:
    """Fit bumps, with the width and penalty that do best on the validation codes."""
    whitening = Whitening.of(torch.cat(fit))
    (fit_q, fit_p), (stop_q, stop_p) = ([whitening.white(z) for z in side] for side in (fit, stop))
    centres = fit_q[:count]
    median = float(torch.cdist(torch.cat([fit_q[-1000:], fit_p[-1000:]]), centres).median())
    best, chosen = math.inf, (median, PENALTIES[-1], torch.zeros(len(centres), dtype=torch.float64))
    for width in (share * median for share in WIDTHS):
        square, linear = _normal_equations(fit_q, fit_p, centres, width, alpha)
        stop_square, stop_linear = _normal_equations(stop_q, stop_p, centres, width, alpha)
        for penalty in PENALTIES:
            weights = torch.linalg.solve(square + penalty * torch.eye(len(centres), dtype=torch.float64), linear)
            score = float(0.5 * weights @ stop_square @ weights - stop_linear @ weights)
            if score < best:
                best, chosen = score, (width, penalty, weights)
    width, penalty, weights = chosen
    one = 1 / min(len(fit_q), len(fit_p))  # the least ratio that a single code among those fitted on can show
    bumps = Bumps(whitening, centres, width, weights, alpha, one, (1 - one) / alpha if alpha else math.inf)
    # 1 + 2 score estimates minus Pearson's divergence of the relative ratio
    return bumps, {"width": width, "penalty": penalty, "stop_score": best, "relative_pearson": -best - 0.5}


def _normal_equations(
    u_q: torch.Tensor, u_p: torch.Tensor, centres: torch.Tensor, width: float, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute H = a E_q k k' + (1 - a) E_p k k' and h = E_q k."""
    size = len(centres)
    square, linear = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for share, codes in ((alpha, u_q), (1 - alpha, u_p)):
        for rows in codes.split(CHUNK):
            k = _kernel(rows, centres, width)
            square += share / len(codes) * (k.T @ k)
            if codes is u_q:
                linear += k.sum(0) / len(codes)
    return square, linear
