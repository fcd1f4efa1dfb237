"""Critics trained on their own variational bound: f-GAN's family, of which the classifier is the Jensen-Shannon member.

Each loss is minus a variational bound; its optimum is f = log q/p, and it is convex in f. The arguments are f at draws of q and
at draws of p; the value is a scalar, shape ().
Reference: Nguyen, Wainwright and Jordan (2010) and Nowozin, Cseke and Tomioka (2016), table 1, for f-divergences with the
critic written as a function of log q/p; Donsker and Varadhan (1983).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch

from klprobe.estimators._ratio import Loss
from klprobe.estimators._ratio_estimator import RatioEstimator

__all__ = ["Critic"]


def nwj(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus 1 + E_q f - E_p e^f, which is at most KL[q||p]."""
    return on_p.exp().mean() - on_q.mean() - 1


def donsker_varadhan(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus E_q f - log E_p e^f, at most KL[q||p]; f is found up to a constant."""
    return torch.logsumexp(on_p, 0) - math.log(len(on_p)) - on_q.mean()


def hellinger(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus 2 - E_q e^(-f/2) - E_p e^(f/2), at most the squared Hellinger distance; its exponents are small on both sides."""
    return (-0.5 * on_q).exp().mean() + (0.5 * on_p).exp().mean() - 2


def reverse_kl(on_q: torch.Tensor, on_p: torch.Tensor) -> torch.Tensor:
    """Minus 1 - E_q e^(-f) - E_p f, which is at most KL[p||q]."""
    return (-on_q).exp().mean() + on_p.mean() - 1


OBJECTIVES: dict[str, Loss] = {
    "nwj": nwj,
    "donsker-varadhan": donsker_varadhan,
    "hellinger": hellinger,
    "reverse-kl": reverse_kl,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critic(RatioEstimator):
    """Density ratio of a critic trained on its own bound: NWJ, Donsker-Varadhan, or that of another f-divergence."""

    objective: Literal["nwj", "donsker-varadhan", "hellinger", "reverse-kl"] = "nwj"
    """The bound that the training maximises. nwj and donsker-varadhan bound the KL itself, but their e^f rests on few draws."""
    lr: float = 1e-3
    """Learning rate of Adam at the start of the fit."""

    def loss(self) -> Loss:
        """Minus the bound that `objective` names."""
        return OBJECTIVES[self.objective]
