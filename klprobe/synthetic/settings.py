"""Settings of the experiments on synthetic Gaussians, and their two presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from klprobe.runtime.records import Record
from klprobe.types import InputError

Experiment = Literal["estimate", "minimize"]
Preset = Literal["quick", "paper"]
GeneratorLoss = Literal["reverse-kl", "non-saturating"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one run; the defaults are the preset `quick`, for one CPU core."""

    classifier_layers: int = 4
    """Number of hidden layers of the classifier (paper: 4; figure 8: 3)."""
    classifier_width: int = 128
    """Number of units in each hidden layer (paper: about 100 million parameters in all, which 5,700 units give)."""
    classifier_lr: float = 1e-4
    """Learning rate of Adam for the classifier (paper: 1e-4; figure 9: 1e-3)."""
    classifier_steps_per_generator_step: int = 1
    """Number of updates of the classifier for each update of the second Gaussian (paper: 1; figure 10: 5); minimize only."""
    generator_lr: float = 1e-3
    """Learning rate of Adam for W and b of the second Gaussian (paper: 1e-3); minimize only."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Both betas of Adam, for the classifier and the second Gaussian (paper: beta1 0.5 in appendix E, beta2 0.9 in appendix
    K)."""
    batch_size: int = 64
    """Number of draws of each Gaussian in a step (paper: 64 in appendix K)."""
    steps: int = 4000
    """Number of steps: of the classifier in estimate, of the second Gaussian in minimize (paper: 1,000,000)."""
    features: int | None = None
    """Number k of features in x = W^T z + b, where W is in R^{k x d}; by default 10 d, as in the paper."""
    pair_seed: int = 0
    """Seed that W and b of both Gaussians are drawn with (standard normal; the paper does not say). The other seeds change the
    classifier and the draws."""
    scale: float = 1.0
    """Standard deviation of the entries of W and b (ours: the paper does not say). The KL is the same for every one, and the
    classifier sees draws of another size."""
    generator_loss: GeneratorLoss = "reverse-kl"
    """Loss that the second Gaussian lowers, of D, the probability of the first (paper: the reverse-KL loss). reverse-kl is
    E[-log D/(1 - D)], and non-saturating is E[-log D]; minimize only."""
    logged: int = 60
    """Number of points of a logged curve."""
    log_draws: int = 2000
    """Number of fresh draws of q for each logged estimate."""
    report_draws: int = 20_000
    """Number of fresh draws of each Gaussian for the estimates at the end; estimate only."""

    def __post_init__(self) -> None:
        for name in ("classifier_layers", "classifier_width", "classifier_steps_per_generator_step", "batch_size", "steps"):
            _at_least(1, name, getattr(self, name))
        for name in ("logged", "log_draws", "report_draws"):
            _at_least(2, name, getattr(self, name))
        for name in ("classifier_lr", "generator_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name.replace('_', '-')} is a learning rate and must be above 0; got {getattr(self, name)}.")
        if not 0 < self.scale < math.inf:
            raise InputError(f"scale is a standard deviation and must be above 0; got {self.scale}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are Adam's and must lie in [0, 1); got {self.betas}.")

    def of(self, experiment: Experiment) -> dict[str, Any]:
        """The settings that matter to one experiment."""
        of_generator = ("classifier_steps_per_generator_step", "generator_lr", "generator_loss")
        idle = of_generator if experiment == "estimate" else ("report_draws",)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items() if k not in idle}

    def log_steps(self) -> set[int]:
        """The steps at which a curve has a point: 0, the last, and even ones between."""
        return {round(i * self.steps / (self.logged - 1)) for i in range(self.logged)}


PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {"quick": {}, "paper": {"classifier_width": 5700, "steps": 1_000_000, "logged": 200}}
)
"""Changes of each preset to the defaults; 3 x 5700^2 + 5700 d weights between 4 hidden layers and the data are 98 million at
d = 100 and 103 million at d = 1000 (DMVI section 5, figure 8: "100 million parameters")."""


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise InputError(f"{name.replace('_', '-')} must be at least {least}; got {value}.")


def is_cell(record: Record, experiment: Experiment, dim: int, seed: int, settings: Settings) -> bool:
    """Whether the record is of this experiment with these settings."""
    wanted = (experiment, dim, seed, settings.of(experiment))
    made = Settings().of(experiment) | record["settings"]  # records of before a setting was there have its default
    return (record["experiment"], record["dim"], record["seed"], made) == wanted
