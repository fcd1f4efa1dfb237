"""Loss terms: tensors in, scalar nats out, averaged over the batch and summed over everything else.

Discriminators come in as logits, log D - log(1 - D), so that no logarithm of a sigmoid is ever taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from klprobe.types import InputError

LOG_STD_FLOOR = -8.0
"""Least log standard deviation of a quantized normal in units of the pixel range: a tenth of one of 256 levels (ours)."""


def bernoulli_nll(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """-E_x log p(x) of independent Bernoulli pixels; grey levels count as probabilities.

    For binary x it is a negative log-likelihood. For grey levels it is the cross-entropy, whose floor is the pixels' own
    entropy, not 0; DMVI and most of the literature quote this number as "the ELBO" all the same.

    Args:
        logits: log-odds of each pixel, shape (batch, ...).
        x: Pixels in [0, 1], same shape.
    Returns:
        Nats per data point, shape ().
    Raises:
        InputError: pixels outside [0, 1], where this loss has no minimum.
    """
    _check_pixels(x, "Bernoulli")
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def laplace_nll(centre: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
    """-E_x log p(x) of independent Laplace values of one scale b: |x - centre|_1 / b + D log 2b.

    Args:
        centre, x: Shape (batch, ...) each.
        scale: b; 1/b is the lambda of AGAN's p(x|z), proportional to exp(-lambda |x - G(z)|_1).
    """
    return l1(x, centre) / scale + x[0].numel() * math.log(2 * scale)


def quantized_normal_nll(
    mean: torch.Tensor, raw_log_std: torch.Tensor, x: torch.Tensor, noise: torch.Generator, levels: int = 256
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
    Raises:
        InputError: pixels outside [0, 1].
    Reference: DMVI section 4.2, appendix D.
    """
    _check_pixels(x, "Quantized Normal")
    y = ((levels - 1) * x + torch.rand(x.shape, generator=noise, device=x.device, dtype=x.dtype)) / levels
    log_std = LOG_STD_FLOOR + F.softplus(raw_log_std - LOG_STD_FLOOR)
    squares = ((y - mean) * torch.exp(-log_std)).square()
    return (0.5 * squares + log_std + 0.5 * math.log(2 * math.pi) + math.log(levels)).sum() / len(x)


def gaussian_kl(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """E_x KL[N(mean, diag(exp(logvar))) || N(0, I)], shape () from two of shape (batch, dim).

    Reference: Kingma and Welling (2014), appendix B.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)


def l1(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """E |x - y|_1, the sum over all values of a point; shape () from two of shape (batch, ...)."""
    return (x - y).abs().sum() / len(x)


def real_loss(logits: torch.Tensor) -> torch.Tensor:
    """-E log D: what a discriminator pays for real points, and a non-saturating generator for its own (AGAN eq. 1, 2)."""
    return F.softplus(-logits).mean()


def fake_loss(logits: torch.Tensor) -> torch.Tensor:
    """-E log(1 - D): what a discriminator pays for fake points (AGAN eq. 1)."""
    return F.softplus(logits).mean()


def reverse_kl(logits: torch.Tensor) -> torch.Tensor:
    """E[-log D + log(1 - D)] = -E logit D: R_D and R_C of AGAN Algorithm 1; estimates KL[fake||real] at the best D."""
    return -logits.mean()


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


def cosine_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """E[1 - cos(a, b)], shape () from two of shape (batch, dim)."""
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


def _check_pixels(x: torch.Tensor, who: str) -> None:
    low, high = (float(v) for v in x.aminmax())
    if low < 0 or high > 1:
        raise InputError(
            f"{who} pixels need values in [0, 1], but the data range from {low:g} to {high:g}: rescale them, or take "
            "another visible distribution, such as laplace."
        )
