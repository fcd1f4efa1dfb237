"""Estimates of KL[q||p] from a learned log-ratio f = log q/p, with errors and sides, and the calibration of its classifier.

    mean-logit                   E_q f                            no bound
    nwj                          1 + E_q g - E_p e^g              lower, g = min(f, log n - 5)
    donsker-varadhan             1 + E_q g - E_p e^g              lower, g = min(f - log c, log n - 5)
    nwj-unclipped                1 + E_q f - E_p e^f              no bound that can be relied on
    donsker-varadhan-unclipped   E_q f - log E_p e^f              no bound that can be relied on

n is the number of prior draws. Donsker and Varadhan's bound is E_q f - log E_p e^f; with a mean of n draws in the
logarithm it comes out too high, by about var(e^f) / (2 n E_p[e^f]^2), which the clip holds below e^-5 / (2 E_p e^f). Here the
logarithm is replaced by its tangent at c, an E_p e^f from draws that were used for nothing that is reported: -log x >=
1 - log c - x / c. That keeps the side at every n, costs half the squared relative error of c, and makes the clip fall where it
should even when f is off by a constant.

Reference: Nguyen, Wainwright and Jordan (2010); Donsker and Varadhan (1983); McAllester and Stratos (2020) for why no bound
of this kind can certify much more than log n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from klprobe.distributions.clusters import cluster_ids
from klprobe.distributions.posteriors import SampleOnly
from klprobe.distributions.statistics import MeanError, mean_error, point_mean, visit_evenly
from klprobe.estimators._sides import Draw, Sides
from klprobe.types import Bound, Estimate, Target

CLIP_MARGIN = 5.0
"""A log-ratio clipped at log n - 5 keeps both variational bounds and an honest error (FACTS section 1)."""
FIT_LEFT_OUT = "of the draws that are reported on; what the fit missed comes on top, and no error bar shows it"
"""What the error leaves out, for estimates that are no bound and whose bias depends on the fit."""
NORMALISER_SHARE = 10
"""Number of prior codes that are reported on for each prior code that Donsker and Varadhan's constant comes from."""
CUT_SHARE, MORE_PRIOR = 0.01, 4
"""Share of validation codes cut by the ceiling above which more prior codes are drawn, and how many times as many."""
NUMBERS = 16_000_000
"""Number of values drawn together, which limits memory."""
PRIOR_NUMBERS, FEWEST_PRIOR = 100_000_000, 1000
"""Largest number of prior codes times D, before `MORE_PRIOR`, and smallest number of codes; each costs D^2 operations."""
BINS = 15
"""Number of bins, of equal width, of the expected calibration error (Guo et al. 2017)."""
NEWTON_STEPS = 25
"""Largest number of Newton steps of the logistic recalibration, which takes about eight where it converges."""


def clip(log_ratio: torch.Tensor, num_prior: int) -> torch.Tensor:
    """Clip log q/p from above at log n - 5 for n prior draws, because a classifier certifies about log n nats at most."""
    return log_ratio.clamp(max=math.log(num_prior) - CLIP_MARGIN)


def nwj(on_q: MeanError, on_p: torch.Tensor) -> MeanError:
    """Compute 1 + E_q f - E_p e^f, a lower bound of KL[q||p] in expectation for any f.

    Args:
        on_q: Mean E_q f and its error.
        on_p: Values of f at draws of p, shape (n,).
    Reference: Nguyen, Wainwright, Jordan (2010); with f the log-ratio log q/p it is tight.
    """
    p = mean_error(on_p.exp())
    return MeanError(1 + on_q.value - p.value, math.hypot(on_q.std_error, p.std_error))


def donsker_varadhan(on_q: MeanError, on_p: torch.Tensor) -> MeanError:
    """Compute E_q f - log E_p e^f, a lower bound of KL[q||p] for any f as the number of prior draws grows.

    Arguments as in `nwj`; the error is the delta method's.
    Reference: Donsker and Varadhan (1983).
    """
    top = on_p.max()
    p = mean_error((on_p - top).exp())
    log_mean = math.log(p.value) + float(top)
    return MeanError(on_q.value - log_mean, math.hypot(on_q.std_error, p.std_error / p.value))


class RatioOnQ(NamedTuple):
    """Values of f at draws of q, and the target that they estimate.

    Attributes:
        target: `population` when the points were not learned from, `empirical` for fresh draws from all N points.
        log_ratio: Values of f, shape (m,), float64.
        points: Data point of each draw, shape (m,); for the population, its cluster.
        num_points: Number of data points, N.
    """

    target: Target
    log_ratio: torch.Tensor
    points: torch.Tensor
    num_points: int

    def mean(self, values: torch.Tensor) -> MeanError:
        """Mean of values at these draws, with the error about the population's mean or the mean over the N points."""
        if self.target == "population":
            return mean_error(values, self.points)
        mean = point_mean(values.cpu().numpy(), self.points.cpu().numpy(), self.num_points)
        return MeanError(mean.value, math.sqrt(mean.conditional_variance))


def log_normaliser(on_p: torch.Tensor) -> float:
    """Compute log c = log E_p e^f from draws of p that are used for nothing else; f is clipped as in the report."""
    return float(torch.logsumexp(clip(on_p, len(on_p)), 0)) - math.log(len(on_p))


def share_above_ceiling(log_ratio: torch.Tensor, num_prior: int) -> float:
    """Share of log-ratios that the clip cuts when `num_prior` prior draws are reported on."""
    return float((log_ratio > math.log(num_prior) - CLIP_MARGIN).double().mean())


def ratio_estimates(method: str, on_q: RatioOnQ, on_p: torch.Tensor, log_constant: float) -> list[Estimate]:
    """Compute the five estimates above, for one target.

    Args:
        on_p: Values of f at fresh draws of p, shape (n,), float64.
        log_constant: Value of `log_normaliser` at other draws of p.
    """
    n, f = len(on_p), on_q.log_ratio
    plain = on_q.mean(f)
    clipped = nwj(on_q.mean(clip(f, n)), clip(on_p, n))
    centred = nwj(on_q.mean(clip(f - log_constant, n)), clip(on_p - log_constant, n))
    weights = torch.softmax(on_p, 0)
    common = {"prior_samples": n}
    raw = common | {"largest_prior_weight": float(weights.max())}

    def say(quantity: str, bound: Bound, mean: MeanError, facts: dict[str, Any]) -> Estimate:
        if not math.isfinite(mean.value):
            facts = facts | {"reason": "e^logit is too large for a float at some prior draw: read the clipped bound instead"}
        return Estimate(method, on_q.target, bound, mean.value, mean.std_error, quantity, len(f), details=facts)

    def limits(shift: float) -> dict[str, Any]:
        cut = {f"clipped_share_{side}": share_above_ceiling(f - shift, n) for side, f in (("q", on_q.log_ratio), ("p", on_p))}
        return common | {"ceiling": math.log(n) - CLIP_MARGIN} | cut

    return [
        say("mean-logit", "none", plain, {}),
        say("donsker-varadhan", "lower", centred, limits(log_constant) | {"log_normaliser": log_constant}),
        say("nwj", "lower", clipped, limits(0.0)),
        say("donsker-varadhan-unclipped", "none", donsker_varadhan(plain, on_p), raw),
        say("nwj-unclipped", "none", nwj(plain, on_p), raw),
    ]


class Logits(NamedTuple):
    """A log-ratio at the draws that are reported on, none of which it was fitted on.

    Attributes:
        on_q: Values at codes of held-out points (population), then at fresh codes of all points (empirical), if any.
        on_p: Values at prior codes, shape (n,).
        centre: Values at other prior codes, for Donsker and Varadhan's constant.
    """

    on_q: tuple[RatioOnQ, ...]
    on_p: torch.Tensor
    centre: torch.Tensor

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Logits:
        """Replace every log-ratio f by change(f), such as a calibration."""
        on_q = tuple(side._replace(log_ratio=change(side.log_ratio)) for side in self.on_q)
        return Logits(on_q, change(self.on_p), change(self.centre))

    def estimates(self, method: str) -> list[Estimate]:
        """Compute the five estimates above for each target."""
        constant = log_normaliser(self.centre)
        return [e for side in self.on_q for e in ratio_estimates(method, side, self.on_p, constant)]


def evaluate(
    sides: Sides,
    log_ratio: Callable[[torch.Tensor], torch.Tensor],
    on_stop: torch.Tensor,
    num_samples: int,
    num_prior_samples: int,
) -> Logits:
    """Evaluate a log-ratio at draws that it was not fitted on.

    Args:
        log_ratio: Function from codes (m, D) to f (m,), float64.
        on_stop: Values of f at the validation codes of q, shape (k,); where the ceiling log n - 5 cuts more than a hundredth
            of them, four times as many prior codes are drawn, which raises it.
        num_samples: Number of codes of q for each target.
        num_prior_samples: Number of codes of p, which is smaller beyond 100 latents.
    """
    q, generator, held_out = sides.q, sides.generator, sides.points.report
    count = min(num_prior_samples, max(PRIOR_NUMBERS // q.dim, FEWEST_PRIOR))
    more = MORE_PRIOR if share_above_ceiling(on_stop, count) > CUT_SHARE else 1
    centre = _at(log_ratio, sides.prior.centre, count // NORMALISER_SHARE, q.dim)
    on_p = _at(log_ratio, sides.prior.report, count * more, q.dim)

    def at(points: torch.Tensor, target: Target) -> RatioOnQ:
        rows = points.split(_rows(q.dim))
        f = torch.cat([log_ratio(q.sample_at(r, generator)) for r in rows])
        return RatioOnQ(target, f, points if target == "empirical" else cluster_ids(q, points), q.num_points)

    if isinstance(q, SampleOnly):
        return Logits((at(held_out, "population"),), on_p, centre)
    visited = visit_evenly(held_out, num_samples, generator)
    twice = visit_evenly(torch.arange(q.num_points), num_samples // 2, generator).repeat(2)  # two draws of each, for the error
    return Logits((at(visited, "population"), at(twice, "empirical")), on_p, centre)


def _at(log_ratio: Callable[[torch.Tensor], torch.Tensor], draw: Draw, count: int, dim: int) -> torch.Tensor:
    """Compute the log-ratio at all the draws there are, `count` at most."""
    found, size = [], _rows(dim)
    for start in range(0, count, size):
        z = draw(min(size, count - start))
        if not len(z):
            break
        found.append(log_ratio(z))
    return torch.cat(found)


def _rows(dim: int) -> int:
    """Number of codes drawn together, which limits memory and changes no result."""
    return max(NUMBERS // dim, 1024)


def calibration(on_q: torch.Tensor, on_p: torch.Tensor) -> dict[str, float | None]:
    """Measure how well the logits predict the label of held-out draws of q (1) and of p (0), which have equal weight.

    Args:
        on_q, on_p: Logits at draws that were not learned from, shapes (m,) and (n,), float64.

    Returns:
        `accuracy`; `log_loss` in nats (log 2 for a coin) and `brier` (0.25 for a coin); `calibration_error`, the expected
        difference between confidence and frequency; `recalibration_slope` and `recalibration_intercept` of a logistic
        regression of the label on the logit, 1 and 0 for honest logits, a slope below 1 for overconfident ones, None
        where the classes do not overlap.
    Reference: Guo et al. (2017); Cox (1958) for the recalibration line.
    """
    logits = torch.cat([on_q, on_p])
    labels = torch.cat([torch.ones_like(on_q), torch.zeros_like(on_p)])
    weights = torch.cat([torch.full_like(on_q, 0.5 / len(on_q)), torch.full_like(on_p, 0.5 / len(on_p))])
    probability = torch.sigmoid(logits)
    excess = torch.zeros(BINS, dtype=logits.dtype, device=logits.device)
    excess.index_add_(0, (probability * BINS).long().clamp(max=BINS - 1), weights * (labels - probability))
    slope, intercept = _recalibrate(logits, labels, weights)
    return {
        "accuracy": float((weights * ((logits > 0) == (labels > 0.5))).sum()),
        "log_loss": float((weights * functional.softplus(torch.where(labels > 0.5, -logits, logits))).sum()),
        "brier": float((weights * (labels - probability).square()).sum()),
        "calibration_error": float(excess.abs().sum()),
        "recalibration_slope": slope,
        "recalibration_intercept": intercept,
    }


def _recalibrate(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple[float, float] | tuple[None, None]:
    """Fit the logistic regression of the label on the logit by Newton's method; (None, None) where it has no optimum."""
    design = torch.stack([logits, torch.ones_like(logits)], 1)
    line = torch.tensor([1.0, 0.0], dtype=logits.dtype, device=logits.device)
    for _ in range(NEWTON_STEPS):
        probability = torch.sigmoid(design @ line)
        gradient = design.T @ (weights * (labels - probability))
        curvature = (design.T * (weights * probability * (1 - probability))) @ design
        if not torch.linalg.det(curvature) > 0:
            return None, None
        step = torch.linalg.solve(curvature, gradient)
        line = line + step
        if not torch.isfinite(line).all():
            return None, None
        if step.abs().max() < 1e-9:
            return float(line[0]), float(line[1])
    return None, None
