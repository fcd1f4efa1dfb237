"""Loss terms: tensors in, scalar nats out, averaged over the batch and summed over everything else."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from klprobe.types import InputError


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
    low, high = (float(v) for v in x.aminmax())
    if low < 0 or high > 1:
        raise InputError(f"Bernoulli pixels need values in [0, 1], but the data range from {low:g} to {high:g}: rescale them.")
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def gaussian_kl(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """E_x KL[N(mean, diag(exp(logvar))) || N(0, I)], shape () from two of shape (batch, dim).

    Reference: Kingma and Welling (2014), appendix B.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)
