"""How heavy the upper tail of a sample is: whether its mean says anything, and whether there is one.

Beyond a high threshold a sample's excesses follow a generalised Pareto law, whose shape k is the tail's index: moments of
order 1/k and above are infinite. From k = 1 on there is no mean; between 0.5 and 1 there is no variance, so that no standard
error can be trusted, and from about 0.7 on means from any practical number of draws are off by many of their errors.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.posteriors import prior_log_prob
from klprobe.distributions.statistics import visit_evenly
from klprobe.types import Posterior, Tail

Array = NDArray[np.float64]

FEWEST = 25
"""Draws below which no tail can be judged: it would be five of them."""
PAIRS = 4000
"""Pairs of draws at one point, whose tail's index is then known to a tenth."""
GUESSES, PRIOR_WEIGHT, PRIOR_INDEX = 30, 10, 0.5
"""Least number of values of theta that are averaged over; draws that the prior knowledge of k is worth, and its value."""


def tail_of(values: Array) -> Tail | None:
    """The tail of draws of shape (n,), finite; None where there is none to look at."""
    index = tail_index(values)
    squares = (values - values.mean()) ** 2
    return None if index is None else Tail(index, float(squares.max() / squares.sum()))


def tail_index(values: Array) -> float | None:
    """k of the largest values, a fifth of them or 3 sqrt(n), whichever is less; None where there is no tail to look at.

    Args:
        values: Independent draws, shape (n,), finite.
    Returns:
        About 0 for tails that fall off exponentially, below it for bounded ones. Its own error is about (1 + k) / sqrt(m),
        with m the number of values in the tail.
    Reference: Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution;
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, appendix C.
    """
    n = len(values)
    count = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    if n < FEWEST:
        return None
    largest = np.sort(values)[-count - 1 :]
    excesses = largest[1:] - largest[0]
    least = excesses[int(count / 4 + 0.5) - 1]
    if not math.isfinite(excesses[-1]) or not least > 1e-12 * abs(largest[0]):
        return None  # ties: a discrete quantity has no such tail
    k = _pareto_shape(excesses / least)
    return (k * count + PRIOR_WEIGHT * PRIOR_INDEX) / (count + PRIOR_WEIGHT)


def _pareto_shape(x: Array) -> float:
    """Shape of the generalised Pareto law of excesses x > 0 in increasing order, by the mean of its profile posterior."""
    m = GUESSES + int(math.sqrt(len(x)))
    steps = 1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))
    theta = 1 / x[-1] + steps / (3 * x[int(len(x) / 4 + 0.5) - 1])
    shape = np.log1p(-theta[:, None] * x).mean(1)
    log_profile = len(x) * (np.log(-theta / shape) - shape - 1)
    weight = np.exp(log_profile - log_profile.max())
    best = float((theta * weight).sum() / weight.sum())
    return float(np.log1p(-best * x).mean())


def tail_within_points(q: Posterior, prior: Distribution, generator: torch.Generator) -> Tail | None:
    """Tail of log q(z|x_n) - log p(z) over draws at one point: whether KL[q(z|x_n)||p] has a mean that draws can show.

    From pairs of draws at one point each: their difference leaves out how the points differ from each other, which is no
    matter of draws where every point is visited.

    Args:
        q, prior: Both with a density.
        generator: Only its seed is used, so that other draws stay as they are.
    Returns:
        None where there is no tail, or where a difference is infinite.
    """
    rng = torch.Generator().manual_seed((generator.initial_seed() + 1) % 2**63)
    points = visit_evenly(torch.arange(q.num_points), PAIRS, rng)
    first, second = (q.sample_at(points, rng) for _ in range(2))
    cost, other = (q.log_prob_at(z, points) - prior_log_prob(prior, z) for z in (first, second))
    difference = (cost - other).abs().cpu().numpy()
    return tail_of(difference) if np.isfinite(difference).all() else None


def infinite_at(point_kl: torch.Tensor) -> str | None:
    """Why KL[q||p] is infinite, from that of every point; None where it is not."""
    count = int(point_kl.isinf().sum())
    if not count:
        return None
    return f"infinite: KL[q(z|x)||p] is infinite for {count:,} of {len(point_kl):,} points"


def outside_prior(log_p: torch.Tensor) -> str | None:
    """Why KL[q||p] is infinite, from log p(z) at draws of q; None where no draw shows it."""
    share = float(log_p.isneginf().double().mean())
    return f"infinite: {share:.2g} of the draws of q lie where the prior's density is 0" if share else None
