"""The Gaussian mixture with diagonal components: a density by itself (gmm), and what a flow starts from (maf)."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import nn

from klprobe.distributions import LOG_2PI


class Mixture(nn.Module):
    """sum_k weight_k N(u; mean_k, diag(std_k^2)).

    Keep it in float64: the quadratic form is a difference of numbers of size 1 / variance.

    Args:
        weights: Shape (K,), positive, summing to one.
        means, variances: Shape (K, D).
    """

    def __init__(self, weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(weights.log())
        self.means = nn.Parameter(means)
        self.log_stds = nn.Parameter(0.5 * variances.log())

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """log t(u) in nats, shape (m,), for u of shape (m, D)."""
        precisions = torch.exp(-2 * self.log_stds)
        scaled = self.means * precisions
        squares = u.square() @ precisions.T - 2 * u @ scaled.T + (self.means * scaled).sum(1)
        log_normal = -0.5 * squares - self.log_stds.sum(1) - 0.5 * u.shape[1] * LOG_2PI
        return torch.logsumexp(self.logits.log_softmax(0) + log_normal, 1)


def start_mixture(
    fit: torch.Tensor, stop: torch.Tensor, components: int, iterations: int, generator: torch.Generator
) -> Mixture:
    """The mixture after EM on `fit`, of at most `components` Gaussians: as many as `stop` bears out.

    Tried are `components`, a third of it, a tenth, ..., one: with few data points a large mixture learns the points.

    Args:
        fit, stop: Codes, shapes (m, D) and (k, D), float64.
        generator: Chooses where k-means starts.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    sizes = {max(1, round(components / 10 ** (i / 2))) for i in range(5)}
    mixtures = [fit_by_em(fit, size, iterations, seed) for size in sorted(sizes) if 2 * size <= len(fit)]
    with torch.no_grad():
        return max(mixtures, key=lambda mixture: float(mixture(stop).mean()))


def fit_by_em(codes: torch.Tensor, components: int, iterations: int, seed: int) -> Mixture:
    """Maximum likelihood on codes of shape (m, D) by scikit-learn's EM from k-means."""
    em = GaussianMixture(components, covariance_type="diag", max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not have converged
        em.fit(codes.cpu().numpy())
    return Mixture(*(torch.from_numpy(part).to(codes.device) for part in (em.weights_, em.means_, em.covariances_)))
