"""The evidence lower bound on held-out data, its two terms, and the tighter bound by importance weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klprobe.metrics import Model, Score
from klprobe.metrics._statistics import mean_error
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Elbo"]

POINTS_AT_ONCE = 500


@dataclass(frozen=True)
class Elbo:
    """Test ELBO and its two terms, bits per dimension, and the importance-weighted log-likelihood; all lower bounds.

    elbo = E_q[log p(x|z)] - KL[q(z|x)||p(z)], and importance-weighted = E log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x) over K
    draws, which is between the ELBO and log p(x) and rises with K. Means over data points; errors are over points and their
    draws. What log p(x|z) measures is up to the visible distribution: Bernoulli takes grey levels as probabilities, a
    quantized normal's is of discrete pixels, and a Laplace density's bits are no code length. A conditional system's bounds are
    of log p(x|y), given the class.

    Reference: Kingma and Welling (2014); Burda et al. (2016), eq. 8; DMVI section 4; UNIFY Table 3.
    """

    draws: int = 64
    """Number K of draws of z for each data point, both for the ELBO and for the importance weights."""
    points: int = 1000
    """Largest number of data points; they are chosen at random."""

    def measure(
        self,
        model: Model,
        data: torch.Tensor,
        generator: torch.Generator,
        progress: Progress = no_progress,
        data_labels: torch.Tensor | None = None,
    ) -> tuple[Score, ...]:
        """`elbo`, `reconstruction`, `kl`, `importance-weighted` in nats a data point, and both bounds as bits per dimension.

        Raises:
            CapabilityError: an encoder or a decoder without a density.
            InputError: fewer than 2 points, or no draws.
        """
        if len(data) < 2 or self.draws < 1:
            raise InputError(f"elbo needs at least 2 points and 1 draw; got {len(data)} and {self.draws}.")
        chosen = torch.randperm(len(data), generator=generator)[: self.points]
        x, visible, divergence, done = data[chosen], [], [], 0
        for some in chosen.split(POINTS_AT_ONCE):
            block, labels = data[some], None if data_labels is None else data_labels[some]
            z, log_q = model.draw(block, self.draws, labels, generator)
            visible.append(torch.stack([model.log_likelihood(block, codes, labels, generator) for codes in z]))
            divergence.append(log_q - model.prior.log_prob(z.double()))
            done += len(block)
            progress(done, len(x))
        log_likelihood, log_ratio = torch.cat(visible, 1), torch.cat(divergence, 1)
        weighted = torch.logsumexp(log_likelihood - log_ratio, 0) - math.log(self.draws)
        elbo = (log_likelihood - log_ratio).mean(0)
        bit = -x[0].numel() * math.log(2)
        details = {"points": len(x), "draws": self.draws}
        return (
            Score("elbo", *_mean(elbo), "higher", "nats", details=details),
            Score("reconstruction", *_mean(log_likelihood.mean(0)), "higher", "nats", details=details),
            Score("kl", *_mean(log_ratio.mean(0)), "neither", "nats", details=details),
            Score("importance-weighted", *_mean(weighted), "higher", "nats", details=details),
            Score("elbo-bits", *_mean(elbo / bit), "lower", "bits/dim", details=details),
            Score("importance-weighted-bits", *_mean(weighted / bit), "lower", "bits/dim", details=details),
        )


def _mean(values: torch.Tensor) -> tuple[float, float]:
    return float(values.mean()), mean_error(values)
