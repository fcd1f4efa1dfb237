"""Metrics of sample quality, one in each file.

Three layers: `klprobe.evaluation.feature_net` turns images into features by a net, `_statistics` turns features into
moments and errors, and a metric turns those into scores. A metric is a frozen dataclass of settings with one method,
`measure`; the names of its arguments say what it looks at, and `klprobe.evaluation.evidence` hands it over:

    samples, data      points of shape (m, *shape), made by the model and held out; on the scale of the data where both are
                       asked for, else images in [0, 1]
    validation         further points that the model was not trained on, or None
    sample_features, data_features      `Features` of the same points
    sample_labels      classes that the samples were asked to be of, shape (m,)
    data_labels        classes of the held-out points, shape (m,), where the model is conditional; None elsewhere
    own_logits, held_out_labels         of the held-out points, by the model's own classifier, shape (n, classes); their classes
    model              `Model`: what a trained system can be asked for
    codes, means       draws of the aggregate posterior, one a data point, shape (n, D), and the posterior means or None
    prior_codes        draws of the prior, shape (m, D)
    centres, std       of the modes, where the data have some
    perceptual         path of a net whose layers judge likeness
    generator          source of all randomness
    progress           told how far the work is
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch.distributions import Distribution

from klprobe.types import InputError

Better = Literal["higher", "lower", "closer", "neither"]
"""Direction in which a score is better; closer means closer to the value of real data, or to that of the prior."""


@dataclass(frozen=True)
class Score:
    """One number of a metric.

    Attributes:
        quantity: Name of the number.
        value: Value; None where there is no number, and `reason` says why.
        std_error: Standard error of the value, over fresh samples and data; None where it is not known.
        better: Direction in which it is better.
        unit: Unit; empty for a number without one.
        net: Feature net that it depends on; values under different nets are not comparable.
        reason: Reason why there is no value, or no error.
        details: Further results, as strict-JSON values.
        note: Sentence, without its full stop, that a reader of the value has to know; empty where there is none.
    """

    quantity: str
    value: float | None
    std_error: float | None
    better: Better
    unit: str = ""
    net: str | None = None
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Features:
    """Features of data points under a net.

    Attributes:
        values: Features, float64, shape (n, dim).
        net: Name of the net.
        logits: Unnormalised log-probabilities of its classes, float64, shape (n, classes); None for a net without classes.
    """

    values: torch.Tensor
    net: str
    logits: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


class Model(Protocol):
    """The methods of a `klprobe.training.trained.TrainedSystem` that metrics use; codes are (m, D), points (m, *shape)."""

    @property
    def latent_dim(self) -> int:
        """D, the number of latents."""

    @property
    def prior(self) -> Distribution:
        """p(z), event shape (D,)."""

    def decode(self, z: torch.Tensor, labels: torch.Tensor | None = None, grad: bool = False) -> torch.Tensor:
        """Points of codes; `grad`: differentiable."""

    def draw(
        self, x: torch.Tensor, num: int, labels: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z ~ q(z|x), shape (num, m, D), and their log q(z|x), shape (num, m), float64.

        A conditional system takes the labels of x. Raises CapabilityError without an encoder that has a density.
        """

    def log_likelihood(
        self,
        x: torch.Tensor,
        z: torch.Tensor,
        labels: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """log p(x|z) of each pair in nats, shape (m,), float64. Raises CapabilityError where p(x|z) has no density."""


def check_pair(samples: Features, data: Features, metric: str, least: int = 2) -> None:
    """Raise InputError unless both are finite features of one net, at least `least` points each."""
    if samples.net != data.net:
        raise InputError(f"{metric} compares features of one net; got those of {samples.net} and of {data.net}.")
    if samples.values.dim() != 2 or data.values.dim() != 2 or samples.values.shape[1] != data.values.shape[1]:
        raise InputError(
            f"{metric} compares features of shape (n, dim); got {tuple(samples.values.shape)} and {tuple(data.values.shape)}."
        )
    for name, points in (("samples", samples), ("data", data)):
        if len(points) < least:
            raise InputError(f"{metric} needs at least {least} points; got {len(points)} {name}.")
        if not points.values.isfinite().all():
            raise InputError(f"{metric} needs finite features; those of the {name} by {points.net} are not.")


def seed_of(generator: torch.Generator) -> int:
    """Draw a seed from a torch generator, for a library that takes no generator."""
    return int(torch.randint(2**31, (), generator=generator))
