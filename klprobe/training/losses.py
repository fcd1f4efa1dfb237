"""Loss terms: tensors in, scalar nats out, averaged over the batch and summed over everything else.

Discriminators come in as logits, log D - log(1 - D), so that no logarithm of a sigmoid is ever taken. Where a term takes
`weights`, shape (batch,), the sum over the batch with these weights stands in place of the average.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from klprobe.types import InputError

LOG_STD_FLOOR = -8.0
"""Least log standard deviation of a quantized normal in units of the pixel range: a tenth of one of 256 levels (ours)."""


def bernoulli_nll(logits: torch.Tensor, x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """-E_x log p(x) of independent Bernoulli pixels; grey levels count as probabilities.

    For binary x it is a negative log-likelihood. For grey levels it is the cross-entropy, whose floor is the pixels' own
    entropy, not 0; DMVI and most of the literature quote this number as "the ELBO" all the same.

    Args:
        logits: log-odds of each pixel, shape (batch, ...).
        x: Pixels in [0, 1], same shape.
        weights: Weights of the points.
    Returns:
        Nats per data point, shape ().
    Raises:
        InputError: pixels outside [0, 1], where this loss has no minimum.
    """
    _check_pixels(x, "Bernoulli")
    return _average(F.binary_cross_entropy_with_logits(logits, x, reduction="none"), weights)


def laplace_nll(centre: torch.Tensor, x: torch.Tensor, scale: float, weights: torch.Tensor | None = None) -> torch.Tensor:
    """-E_x log p(x) of independent Laplace values of one scale b: |x - centre|_1 / b + D log 2b.

    Args:
        centre, x: Shape (batch, ...) each.
        scale: b; 1/b is the lambda of AGAN's p(x|z), proportional to exp(-lambda |x - G(z)|_1).
        weights: Weights of the points.
    """
    return _average((x - centre).abs() / scale + math.log(2 * scale), weights)


def quantized_normal_nll(
    mean: torch.Tensor,
    raw_log_std: torch.Tensor,
    x: torch.Tensor,
    noise: torch.Generator,
    levels: int = 256,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """-E_x log p(y) of independent normals on pixel values with uniform [0, 1] noise added: y = (levels - 1) x + u.

    On average over u an upper bound on the negative log-probability of the discrete pixels, so it cannot fall below 0
    for ever as a density's would.

    Args:
        mean: Means over y / levels, shape (batch, ...).
        raw_log_std: Log standard deviations over y / levels before the soft floor at LOG_STD_FLOOR, same shape.
        x: Pixels in [0, 1], same shape.
        noise: Source of u, on the device of x.
        levels: Values that a pixel can have, with equal steps between them.
        weights: Weights of the points.
    Raises:
        InputError: pixels outside [0, 1].
    Reference: DMVI section 4.2, appendix D.
    """
    _check_pixels(x, "Quantized Normal")
    y = ((levels - 1) * x + torch.rand(x.shape, generator=noise, device=x.device, dtype=x.dtype)) / levels
    log_std = LOG_STD_FLOOR + F.softplus(raw_log_std - LOG_STD_FLOOR)
    squares = ((y - mean) * torch.exp(-log_std)).square()
    return _average(0.5 * squares + log_std + 0.5 * math.log(2 * math.pi) + math.log(levels), weights)


def gaussian_kl(mean: torch.Tensor, logvar: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """E_x KL[N(mean, diag(exp(logvar))) || N(0, I)], shape () from two of shape (batch, dim).

    Reference: Kingma and Welling (2014), appendix B.
    """
    return _average(0.5 * (mean.square() + logvar.exp() - 1 - logvar), weights)


def gaussian_nll(mean: torch.Tensor, logvar: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """-E log N(x; mean, diag(exp(logvar))), shape () from three of shape (batch, dim)."""
    return _average(0.5 * ((x - mean).square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi)), None)


def l1(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """E |x - y|_1, the sum over all values of a point; shape () from two of shape (batch, ...)."""
    return (x - y).abs().sum() / len(x)


def squared_error(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """E |x - y|_2^2, the sum over all values of a point; shape () from two of shape (batch, ...)."""
    return (x - y).square().sum() / len(x)


def best_match(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """E min_i |x - y_i|_1: of T reconstructions of a point the nearest one pays, and it alone has a gradient.

    Args:
        x: Data points, shape (batch, ...).
        y: T reconstructions of each, shape (T, batch, ...).
    Returns:
        Shape ().
    Reference: BMS section 3.3: the max over i of log p(x|z_i) in eq. 7, without lambda.
    """
    return (x - y).abs().flatten(2).sum(2).amin(0).mean()


def real_loss(logits: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """-E log D: what a discriminator pays for real points, and a non-saturating generator for its own (AGAN eq. 1, 2)."""
    return _average(F.softplus(-logits), weights)


def importance_weights(logits: torch.Tensor) -> torch.Tensor:
    """w_i = D_i / (1 - D_i), divided by their sum over the mini-batch: the softmax of the logits; no gradient.

    Args:
        logits: Logits of generated points, shape (batch, 1).
    Returns:
        Shape (batch,), sums to 1.
    Reference: UNIFY (Hu et al. 2018), eq. 16, with y = 0 for generated points.
    """
    return logits.detach().flatten().softmax(0)


def fake_loss(logits: torch.Tensor) -> torch.Tensor:
    """-E log(1 - D): what a discriminator pays for fake points (AGAN eq. 1)."""
    return F.softplus(logits).mean()


def reverse_kl(logits: torch.Tensor) -> torch.Tensor:
    """E[-log D + log(1 - D)] = -E logit D: R_D and R_C of AGAN Algorithm 1; estimates KL[fake||real] at the best D."""
    return -logits.mean()


def hinge_real(scores: torch.Tensor, target: float = 1.0) -> torch.Tensor:
    """E max(0, target - f): what a score f pays for real points below the target.

    Reference: Miyato et al. (2018), eq. 16, target 1; BMS Algorithm 1, where f = log D_I and the target is a.
    """
    return F.relu(target - scores).mean()


def hinge_fake(scores: torch.Tensor, target: float = 1.0) -> torch.Tensor:
    """E max(0, target + f): what a score f pays for fake points above minus the target (BMS: b)."""
    return F.relu(target + scores).mean()


def gradient_penalty(
    critic: Callable[[torch.Tensor], torch.Tensor], real: torch.Tensor, fake: torch.Tensor, noise: torch.Generator
) -> torch.Tensor:
    """E (|grad_x critic(x)|_2 - 1)^2 at points x drawn uniformly between pairs of real and fake points.

    Reference: Gulrajani et al. (2017), Improved training of Wasserstein GANs, Algorithm 1.
    """
    shape = (len(real), *[1] * (real.dim() - 1))
    share = torch.rand(shape, generator=noise, device=real.device, dtype=real.dtype)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def empirical_kl(z: torch.Tensor) -> torch.Tensor:
    """KL[N(m, diag(s^2)) || N(0, I)] / n of a mini-batch's moments, nats per latent dimension.

    Args:
        z: Codes, shape (batch, n); m_i and s_i are their mean and (uncorrected) standard deviation along each dimension.
    Reference: AGAN eq. 18, with the -1/2 that the print lost, divided by n as its appendix D says.
    """
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (0.5 * (variance + mean.square() - 1) - 0.5 * variance.log()).mean()


def imq_mmd(z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of two samples, unbiased, so that it may fall below 0.

    The kernel is k(a, b) = C / (C + |a - b|^2) with C = 2 dim, the mean squared distance of two draws of N(0, I). Its
    tails are heavy: codes far out still feel a pull. Kernel values are summed in float64, since they nearly cancel.

    Args:
        z, p: Codes, shape (n, dim) each, n of at least 2.
    Returns:
        Shape (), in the type of z.
    Reference: Tolstikhin et al. (2018), Wasserstein Auto-Encoders, Algorithm 2 and section 4.
    """
    num, scale = len(z), 2 * z.shape[1]

    def total(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (scale / (scale + (a[:, None] - b).square().sum(2))).sum(dtype=torch.float64)

    within = (total(z, z) + total(p, p) - 2 * num) / (num * (num - 1))  # k(a, a) = 1
    return (within - 2 * total(z, p) / num**2).to(z.dtype)


def cosine_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """E[1 - cos(a, b)], shape () from two of shape (batch, dim)."""
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


def _average(nats: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Mean over points, shape (batch, ...), of the sums of their values; with weights, the weighted sum over points."""
    return nats.sum() / len(nats) if weights is None else (weights * nats.flatten(1).sum(1)).sum()


def _check_pixels(x: torch.Tensor, who: str) -> None:
    low, high = (float(v) for v in x.aminmax())
    if low < 0 or high > 1:
        raise InputError(
            f"{who} pixels need values in [0, 1], but the data range from {low:g} to {high:g}: rescale them, or take "
            "another visible distribution, such as laplace."
        )
