"""A classifier of the data set at hand: the net that judges samples where there are no Inception weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from klprobe.training.data import Batch
from klprobe.training.loop import Algorithm, Capability, Loss, Player
from klprobe.training.networks import classifier_trunk, encoder
from klprobe.types import InputError

__all__ = ["Classifier"]

CROP = 24
"""Side of the random crops of AGAN Table 5."""
MOMENTUM, DECAY, DECAYED_AT = 0.9, 0.1, (40_000, 60_000)
"""AGAN Table 5: momentum, and the factor of the learning rate at two steps."""


@dataclass(frozen=True)
class Classifier(Algorithm):
    """Classifier of labelled data, whose features and classes `klprobe evaluate` judges samples by; no generator.

    One player lowers the cross-entropy. `preset` small has the encoder's network, a layer of `features` and Adam: minutes on
    a CPU. agan has the CIFAR-10 network and training of AGAN Table 5 (random 24 x 24 crops, then the central one; momentum
    0.9, learning rate 0.1, a tenth of it from step 40,000, a hundredth from 60,000; l2 1e-4; 80,000 steps of 256 points).

    Reference: AGAN (Rosca et al. 2017), Table 5; scores: Salimans et al. (2016), Heusel et al. (2017).
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"look"})

    preset: Literal["small", "agan"] = "small"
    """Network and training: small is ours, and agan is that of AGAN Table 5."""
    classes: int = 10
    """Number of classes; labels count from 0."""
    features: int = 64
    """Number of units of the layer before the classes; agan has 512."""
    batch_size: int = 128
    """Number of data points in a mini-batch (ours; AGAN Table 5: 256)."""
    width: int = 256
    """Number of units in each hidden layer, for data that are vectors."""
    layers: int = 2
    """Number of hidden layers, for data that are vectors."""
    lr: float = 1e-3
    """Learning rate of Adam in the preset small (ours); agan starts with 0.1."""
    weight_decay: float = 1e-4
    """Weight of the l2 penalty: half of it times the squared weights is added to the loss (AGAN Table 5)."""

    def __post_init__(self) -> None:
        least = {"classes": 2, "features": 1, "batch_size": 2, "width": 1, "layers": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"classifier needs {name} of at least {low}; got {getattr(self, name)}.")
        if not 0 < self.lr < math.inf or not 0 <= self.weight_decay < math.inf:
            raise InputError(f"classifier needs lr above 0 and weight_decay of at least 0; got {self.lr}, {self.weight_decay}.")

    @property
    def latent_dim(self) -> int:
        """Number of features."""
        return 512 if self.preset == "agan" else self.features

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Trunk, from data to features, and head, from features to logits."""
        if self.preset == "small":
            trunk = encoder(shape, self.features, width=self.width, layers=self.layers)
            return nn.ModuleDict({"trunk": trunk, "head": nn.Sequential(nn.ReLU(), nn.Linear(self.features, self.classes))})
        if len(shape) != 3 or min(shape[1:]) < CROP:
            raise InputError(
                f"classifier's preset agan crops images to {CROP} x {CROP}; data of shape {shape} are smaller: choose "
                "preset small."
            )
        return nn.ModuleDict({"trunk": classifier_trunk(shape[0]), "head": nn.Linear(512, self.classes)})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The classifier alone."""

        def loss(batch: Batch, rng: torch.Generator) -> Loss:
            if batch.labels is None:
                raise InputError("classifier learns from labels, and these data have none: choose a data set with labels.")
            if not 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < self.classes:
                raise InputError(
                    f"classifier has {self.classes} classes, but there are labels from {int(batch.labels.min())} to "
                    f"{int(batch.labels.max())}: set --classes."
                )
            x = random_crops(batch.x, rng) if self.preset == "agan" else batch.x
            logits = networks["head"](networks["trunk"](self._seen(x)))
            right = (logits.argmax(1) == batch.labels).float().mean()
            return F.cross_entropy(logits, batch.labels), {"accuracy": right.detach()}

        return (Player("classifier", ("trunk", "head"), loss, self._optimizer()),)

    def look(self, networks: nn.ModuleDict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, shape (batch, features), and logits, shape (batch, classes); put the networks in eval mode first."""
        if self.preset == "agan":
            top, left = (x.shape[2] - CROP) // 2, (x.shape[3] - CROP) // 2
            x = x[:, :, top : top + CROP, left : left + CROP]
        features = networks["trunk"](self._seen(x))
        return features, networks["head"](features)

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """agan's network takes pixels in [-1, 1]."""
        return 2 * x - 1 if self.preset == "agan" else x

    def _optimizer(self) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
        if self.preset == "agan":
            return lambda parameters: DecayedSGD(parameters, 0.1, momentum=MOMENTUM, weight_decay=self.weight_decay)
        return lambda parameters: torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay, fused=True)


class DecayedSGD(torch.optim.SGD):
    """Gradient descent whose learning rate falls by `DECAY` at each of `DECAYED_AT` steps, counted in its saved state."""

    def step(self, closure: Any = None) -> Any:
        """One step."""
        counter = self.state[self.param_groups[0]["params"][0]]
        done = int(counter.get("step", 0))
        for group in self.param_groups:
            group["lr"] = self.defaults["lr"] * DECAY ** sum(done >= at for at in DECAYED_AT)
        result = super().step(closure)
        counter["step"] = torch.tensor(float(done + 1))
        return result


def random_crops(x: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Each image cropped to 24 x 24 at a place of its own; `noise` on the device of x."""
    batch, channels, height, width = x.shape
    steps = torch.arange(CROP, device=x.device)
    rows, columns = (
        torch.randint(side - CROP + 1, (batch, 1), generator=noise, device=x.device) + steps for side in (height, width)
    )
    which, channel = (torch.arange(n, device=x.device) for n in (batch, channels))
    return x[which[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
