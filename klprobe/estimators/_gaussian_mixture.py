"""Fit a Gaussian mixture with diagonal components, which is a density by itself (gmm), and the start of a flow (maf)."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from klprobe.distributions.flows import Mixture


def start_mixture(
    fit: torch.Tensor, stop: torch.Tensor, components: int, iterations: int, generator: torch.Generator
) -> Mixture:
    """Fit a mixture by EM on `fit`; it has at most `components` Gaussians, as many as fit `stop` best.

    Their number is `components`, a third of it, a tenth, ..., or one, since with few data points a large mixture overfits.

    Args:
        fit, stop: Codes to fit and to validate on, shapes (m, D) and (k, D), float64.
        generator: Source of the randomness that k-means starts with.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    sizes = {max(1, round(components / 10 ** (i / 2))) for i in range(5)}
    mixtures = [fit_by_em(fit, size, iterations, seed) for size in sorted(sizes) if 2 * size <= len(fit)]
    with torch.no_grad():
        return max(mixtures, key=lambda mixture: float(mixture(stop).mean()))


def fit_by_em(codes: torch.Tensor, components: int, iterations: int, seed: int) -> Mixture:
    """Maximise the likelihood of codes, shape (m, D), by scikit-learn's EM, which starts from k-means."""
    em = GaussianMixture(components, covariance_type="diag", max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the start of a fit need not have converged
        em.fit(codes.cpu().numpy())
    return Mixture(*(torch.from_numpy(part).to(codes.device) for part in (em.weights_, em.means_, em.covariances_)))
