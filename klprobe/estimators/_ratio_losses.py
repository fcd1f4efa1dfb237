"""What a log-ratio f = log q/p can be learned by: losses whose optimum is f, each the negative of a variational bound.

Every one is convex in f. Arguments are f at draws of q and at draws of p; the value is a scalar, shape ().
Reference: Nguyen, Wainwright and Jordan (2010) and Nowozin, Cseke and Tomioka (2016), table 1, for f-divergences with the
critic written as a function of log q/p; Donsker and Varadhan (1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits at draws of q and at draws of p to the number that is minimised, shape ()."""


def logistic(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the labels, q's draws 1 and p's 0, both classes weighing the same; log 2 for a logit of 0."""
    return 0.5 * (functional.softplus(-on_q).mean() + functional.softplus(on_p).mean())


def nwj(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus 1 + E_q f - E_p e^f, which is at most KL[q||p]."""
    return on_p.exp().mean() - on_q.mean() - 1


def donsker_varadhan(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus E_q f - log E_p e^f, at most KL[q||p]; f is found up to a constant."""
    return torch.logsumexp(on_p, 0) - math.log(len(on_p)) - on_q.mean()


def hellinger(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus 2 - E_q e^(-f/2) - E_p e^(f/2), at most the squared Hellinger distance: mild exponents, alike on both sides."""
    return (-0.5 * on_q).exp().mean() + (0.5 * on_p).exp().mean() - 2


def reverse_kl(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus 1 - E_q e^(-f) - E_p f, which is at most KL[p||q]."""
    return (-on_q).exp().mean() + on_p.mean() - 1
