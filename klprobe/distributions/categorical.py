"""A categorical latent c: its KL[q(c)||p(c)] and mutual information are sums over classes, and need no draws."""

from __future__ import annotations

import dataclasses
import math
import time

import torch

from klprobe.distributions.posteriors import ROWS_AT_ONCE
from klprobe.distributions.statistics import clustered_mean
from klprobe.types import Bound, Estimate, InputError, Target

SUM_TOLERANCE = 1e-2
"""Largest difference of a row's sum from 1, which float16 needs; rows are divided by their sums."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """q(c|x_n) over K classes for each of N points, and p(c).

    Args:
        probs: Class probabilities, shape (N, K), whose rows sum to 1.
        prior: p(c), shape (K,), positive, sums to 1; None means uniform.
    Raises:
        InputError: shapes do not fit, a row (which the message names) is not a distribution, or p gives a class probability 0.
    """

    probs: torch.Tensor
    prior: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Check every row, and make its sum exactly 1."""
        if self.probs.dim() != 2 or self.probs.shape[0] < 2 or self.probs.shape[1] < 2:
            raise InputError(
                f"class probabilities have shape (N, K) with N and K at least 2; got {tuple(self.probs.shape)}. "
                "Several categorical latents are one array each."
            )
        probs = self.probs.double()
        sums = probs.sum(1)
        bad = ~(((sums - 1).abs() < SUM_TOLERANCE) & (probs >= 0).all(1))
        if bad.any():
            row = int(bad.byte().argmax())
            raise InputError(
                f"{int(bad.sum()):,} rows of class probabilities are not a distribution. The first is row {row}, with sum "
                f"{float(sums[row]):.4g} and least entry {float(probs[row].min()):.4g}. If they are logits, name them logits."
            )
        object.__setattr__(self, "probs", probs / sums[:, None])
        classes = probs.shape[1]
        prior = torch.full((classes,), 1 / classes).double() if self.prior is None else self.prior.double()
        if prior.shape != (classes,) or not (prior > 0).all() or abs(float(prior.sum()) - 1) > SUM_TOLERANCE:
            raise InputError(
                f"the prior of {classes} classes needs that number of positive numbers with sum 1; got {prior.tolist()[:8]}."
            )
        object.__setattr__(self, "prior", prior / prior.sum())

    @property
    def log_prior(self) -> torch.Tensor:
        """log p(c), shape (K,)."""
        assert self.prior is not None
        return self.prior.log()

    def estimates(self, weights: torch.Tensor | None = None, clusters: torch.Tensor | None = None) -> tuple[Estimate, ...]:
        """KL, average KL and mutual information: exact for the N points, bounds for the population they came from.

        The plug-in KL[q_N(c)||p] is on average above KL[q(c)||p], by about half its distance to the leave-one-out value,
        which is on average below; `details.plug_in_bias` says how much. I_N is on average below the population's mutual
        information, and the leave-one-out value above. All population errors are the plug-in's delete-one jackknife. Points
        of one cluster are left out together, by the jackknife too; of a single cluster there is nothing to leave.

        Args:
            weights: Weight of each point, shape (N,), of mean 1; None means equal ones.
            clusters: Cluster of each point, shape (N,), counted from 0; None means that each is by itself.
        Reference: Efron and Stein (1981) for the jackknife, which errs upwards; Poole et al. (2019), section 2.
        """
        started = time.perf_counter()
        n, q = len(self.probs), self.probs.mean(0)
        average = _kl(self.probs, self.log_prior)
        held, cost, mass = self.probs, average, torch.ones(n, dtype=torch.float64)
        if weights is not None or clusters is not None:
            ids, w = torch.arange(n) if clusters is None else clusters, mass if weights is None else weights
            held, cost, mass = (_summed(w[:, None] * t, ids) for t in (held, cost[:, None], mass[:, None]))
            cost, mass, q = cost[:, 0], mass[:, 0], held.sum(0) / n
        kl = float(_kl(q, self.log_prior))
        without, left_out = [], []
        for w, m in zip(held.split(ROWS_AT_ONCE), mass.split(ROWS_AT_ONCE), strict=True):
            others = ((n * q - w) / (n - m)[:, None]).clamp(min=0)
            without.append(_kl(others, self.log_prior))
            left_out.append((torch.xlogy(w, others) - w * self.log_prior).sum(1))
        removed = torch.cat(without)
        error = _jackknife(removed)
        information_error = _jackknife((cost.sum() - cost) / (n - mass) - removed)
        lower = float(torch.cat(left_out).sum() / n)
        mean, average_error = clustered_mean(average, weights, clusters)
        details = {"classes": self.probs.shape[1], "plug_in_bias": (kl - lower) / 2 if math.isfinite(lower) else None}
        seconds = time.perf_counter() - started

        def say(target: Target, bound: Bound, value: float, std_error: float, quantity: str = "kl") -> Estimate:
            return Estimate("plug-in", target, bound, value, std_error, quantity, 0, seconds, details)

        if len(held) == 1:
            return (
                say("population", "exact", mean, average_error, "average-kl"),
                say("empirical", "exact", mean - kl, 0.0, "mutual-information"),
                say("empirical", "exact", kl, 0.0),
            )
        return (
            say("population", "exact", mean, average_error, "average-kl"),
            say("empirical", "exact", mean - kl, 0.0, "mutual-information"),
            say("population", "lower", mean - kl, information_error, "mutual-information"),
            say("population", "upper", mean - lower, information_error, "mutual-information"),
            say("empirical", "exact", kl, 0.0),
            say("population", "upper", kl, error),
            say("population", "lower", lower, error, "leave-one-out"),
        )


def _summed(rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Sums of rows by cluster, shape (G, k)."""
    return torch.zeros(int(ids.max()) + 1, rows.shape[1], dtype=torch.float64).index_add_(0, ids, rows)


def _kl(probs: torch.Tensor, log_prior: torch.Tensor) -> torch.Tensor:
    """KL[probs||p] over the last dimension, nats; 0 log 0 = 0."""
    return (torch.xlogy(probs, probs) - probs * log_prior).sum(-1)


def _jackknife(without: torch.Tensor) -> float:
    """Jackknife standard error from the values that leave one point out, shape (N,)."""
    n = len(without)
    return math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
