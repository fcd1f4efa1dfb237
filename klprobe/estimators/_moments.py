"""Mean and covariance of draws, in one pass over as many as are needed, up to a limit, and the log-ratio that they suggest."""

from __future__ import annotations

from typing import NamedTuple

import torch

from klprobe.estimators._gaussianization import Preparation
from klprobe.estimators._sides import Draw

CODES, CODES_PER_WEIGHT, NUMBERS = (20_000, 400_000), 400, 2e8
"""Least and most codes; codes for every weight of a quadratic form; and codes times D at most."""
BLOCK_NUMBERS = 8e6
"""Numbers drawn together."""
SHRINKAGES = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0)
"""Shares of the pooled covariance that are worth a try where codes are few (Friedman 1989)."""


class Moments(NamedTuple):
    """Mean, shape (D,), and covariance, shape (D, D), float64."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def towards(self, other: Moments, share: float) -> Moments:
        """With the covariance moved by that share towards the pooled one of the two."""
        pooled = 0.5 * (self.covariance + other.covariance)
        return Moments(self.mean, (1 - share) * self.covariance + share * pooled)


def moments(draw: Draw, whitening: Preparation, codes: int = 0) -> Moments:
    """Moments of this number of whitened codes; 0 takes as many as the weights of a quadratic form need."""
    dim = len(whitening.mean)
    codes = codes or max(min(CODES_PER_WEIGHT * dim**2, int(NUMBERS / dim), CODES[1]), CODES[0])
    size = int(min(codes, max(BLOCK_NUMBERS // dim, 1)))
    count = 0
    total, square = torch.zeros_like(whitening.mean), torch.zeros_like(whitening.rotation)
    for _ in range(0, codes, size):
        u = whitening(draw(size))  # products in float32 are twice as fast, and sums over a block exact enough
        count, total, square = count + len(u), total + u.sum(0, dtype=torch.float64), square + (u.T @ u).double()
    mean = total / count
    return Moments(mean, square / count - torch.outer(mean, mean))


def quadratic_ratio(q: Moments, p: Moments) -> list[torch.Tensor]:
    """Form (times D), linear part, constant of log N(mean_q, cov_q) - log N(mean_p, cov_p); zero where a covariance is flat."""
    dim = len(q.mean)
    form, linear, constant = torch.zeros_like(q.covariance), torch.zeros_like(q.mean), torch.zeros_like(q.mean[0])
    for sign, side in ((1.0, q), (-1.0, p)):
        factor, info = torch.linalg.cholesky_ex(side.covariance)
        if int(info):
            return [torch.zeros_like(form), torch.zeros_like(linear), torch.zeros_like(constant)]
        precision = torch.cholesky_inverse(factor)
        form -= sign * 0.5 * precision
        linear += sign * (precision @ side.mean)
        constant -= sign * (0.5 * side.mean @ precision @ side.mean + factor.diagonal().log().sum())
    return [form * dim, linear, constant]
