"""What the learned estimators share: three disjoint draws, and the bounds that a log-ratio gives with their errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from klprobe.distributions.statistics import visit_evenly
from klprobe.types import InputError, Posterior

CLIP_MARGIN = 5.0
"""A log-ratio clipped at log n - 5 keeps both variational bounds and an honest error (FACTS section 1)."""

FEWEST_POINTS, STOP_SHARE, REPORT_SHARE = 20, 0.1, 0.2
"""Data points that can be split in three, and the shares of those that choose and of those that are reported on."""
FIT_LEFT_OUT = "of the draws that are reported on; what the fit missed comes on top, and no error bar shows it"
"""Said of estimates that bound nothing, whose bias the fit alone decides."""


class Split(NamedTuple):
    """Indices of disjoint data points to fit on, to stop by and to report on."""

    fit: torch.Tensor
    stop: torch.Tensor
    report: torch.Tensor


class MeanError(NamedTuple):
    """A mean and its standard error."""

    value: float
    std_error: float


def split_points(num_points: int, generator: torch.Generator, *, method: str) -> Split:
    """Split the data points at random in three, so that nothing learned has seen what it is judged on.

    Raises:
        InputError: fewer than 20 points.
    """
    if num_points < FEWEST_POINTS:
        raise InputError(
            f"{method} needs disjoint data points to fit, validate and report on, and {num_points} points are too few: "
            f"give at least {FEWEST_POINTS}, or use --methods monte-carlo."
        )
    stop, report = (math.ceil(num_points * share) for share in (STOP_SHARE, REPORT_SHARE))
    order = torch.randperm(num_points, generator=generator)
    return Split(order[stop + report :], order[:stop], order[stop : stop + report])


def draw_evenly(posterior: Posterior, indices: torch.Tensor, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """z ~ q(z|x_n) for points n visited evenly among `indices`; shape (num_samples, D), float64."""
    return posterior.sample_at(visit_evenly(indices, num_samples, generator), generator)


def mean_error(values: torch.Tensor, points: torch.Tensor | None = None) -> MeanError:
    """Mean of `values` and its standard error; draws of one data point are one cluster.

    Args:
        values: One value a draw, shape (m,).
        points: Index of the data point of each draw, shape (m,); None when every draw is independent.
    """
    centred = values - values.mean()
    if points is not None:
        _, cluster = points.unique(return_inverse=True)
        centred = torch.zeros(int(cluster.max()) + 1, dtype=values.dtype, device=values.device).index_add_(0, cluster, centred)
    m, k = len(values), len(centred)
    error = math.sqrt(float(centred.square().sum()) * k / max(k - 1, 1)) / m
    return MeanError(float(values.mean()), error)


def clip(log_ratio: torch.Tensor, num_prior: int) -> torch.Tensor:
    """Clip log q/p from above at log n - 5, n prior draws: a classifier certifies about log n nats and no more."""
    return log_ratio.clamp(max=math.log(num_prior) - CLIP_MARGIN)


def nwj(on_q: MeanError, on_p: torch.Tensor) -> MeanError:
    """1 + E_q f - E_p e^f, a lower bound of KL[q||p] in expectation for any f.

    Args:
        on_q: E_q f and its error.
        on_p: f at draws of p, shape (n,).
    Reference: Nguyen, Wainwright, Jordan (2010); with f the log-ratio log q/p it is tight.
    """
    p = mean_error(on_p.exp())
    return MeanError(1 + on_q.value - p.value, math.hypot(on_q.std_error, p.std_error))


def donsker_varadhan(on_q: MeanError, on_p: torch.Tensor) -> MeanError:
    """E_q f - log E_p e^f, a lower bound of KL[q||p] for any f as the number of prior draws grows.

    Arguments as in `nwj`; the error is the delta method's.
    Reference: Donsker and Varadhan (1983).
    """
    top = on_p.max()
    p = mean_error((on_p - top).exp())
    log_mean = math.log(p.value) + float(top)
    return MeanError(on_q.value - log_mean, math.hypot(on_q.std_error, p.std_error / p.value))
