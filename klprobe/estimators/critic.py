"""Critics trained on their own variational bound: f-GAN's family, of which the classifier is the Jensen-Shannon member."""

from __future__ import annotations

import dataclasses
from typing import Literal

from klprobe.estimators import _ratio_losses as losses
from klprobe.estimators._ratio_estimator import RatioEstimator

__all__ = ["Critic"]

OBJECTIVES: dict[str, losses.Loss] = {
    "nwj": losses.nwj,
    "donsker-varadhan": losses.donsker_varadhan,
    "hellinger": losses.hellinger,
    "reverse-kl": losses.reverse_kl,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critic(RatioEstimator):
    """Density ratio of a critic trained on its own bound: NWJ, Donsker-Varadhan, or that of another f-divergence."""

    objective: Literal["nwj", "donsker-varadhan", "hellinger", "reverse-kl"] = "nwj"
    """The bound that the training maximises. nwj and donsker-varadhan bound the KL itself, but their e^f rests on few draws."""
    lr: float = 1e-3
    """Learning rate of Adam at the start of the fit."""

    def loss(self) -> losses.Loss:
        """Minus the objective."""
        return OBJECTIVES[self.objective]
