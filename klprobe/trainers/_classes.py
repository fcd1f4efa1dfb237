"""Systems whose data come in classes: labels beside the data, and data sets that keep most of their labels to themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from klprobe.training.data import Batch, TrainingData
from klprobe.types import CapabilityError, InputError

UNKNOWN = -1
"""Label of a point whose class is not known."""


class WithClasses(Protocol):
    """A system with a setting `classes`; which is all that the functions below need."""

    @property
    def classes(self) -> int:
        """Number of classes; labels count from 0."""

    @property
    def by_class(self) -> bool:
        """Whether its networks are given the classes."""


def beside(system: WithClasses, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Points, or codes, with their one-hot labels: behind the numbers of a vector, as constant channels of an image.

    Args:
        x: Shape (batch, D) or (batch, channels, height, width).
        labels: Shape (batch,).
    Returns:
        Shape (batch, D + classes) or (batch, channels + classes, height, width); x where the system has no classes.
    Raises:
        CapabilityError: no labels, and a system with classes.
    """
    if not system.by_class:
        return x
    if labels is None:
        raise CapabilityError("A system trained with classes needs the label of every point or code: give labels.")
    ones = F.one_hot(labels, system.classes).to(x.dtype)
    return torch.cat([x, ones if x.dim() == 2 else ones[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


def check_labels(system: WithClasses, labels: torch.Tensor | None, who: str, least: int = 0) -> torch.Tensor:
    """The labels of a mini-batch.

    Raises:
        InputError: there are none, or some outside of `least` to classes - 1.
    """
    if labels is None:
        raise InputError(f"{who} learns from labels, and these data have none: choose a data set with labels.")
    low, high = int(labels.min()), int(labels.max())
    if not least <= low <= high < system.classes:
        raise InputError(f"{who} has {system.classes} classes, but there are labels from {low} to {high}: set --classes.")
    return labels


@dataclass(frozen=True)
class FewLabels:
    """A data set of which few labels are told: a mini-batch is as many points without labels as with, in this order.

    The points without labels are drawn from all of them. Those with labels are a fixed set, of as many points of each class
    as there can be (Kingma et al. 2014, section 4), visited evenly.

    Args:
        data: With labels.
        chosen: Indices of the points whose labels are told.
    """

    data: TrainingData
    chosen: torch.Tensor

    @property
    def name(self) -> str:
        """Name of the data."""
        return self.data.name

    @property
    def split(self) -> str:
        """Split of the data."""
        return self.data.split

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a data point."""
        return self.data.shape

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: torch.Tensor) -> Batch:
        """The points at `indices` without labels, then as many with labels."""
        everyone, told = self.data.batch(indices), self.data.batch(self.chosen[indices % len(self.chosen)])
        assert told.labels is not None
        return Batch(torch.cat([everyone.x, told.x]), torch.cat([torch.full_like(told.labels, UNKNOWN), told.labels]))

    def to(self, device: torch.device) -> FewLabels:
        """The same on another device."""
        return FewLabels(self.data.to(device), self.chosen)


def few_labels(data: TrainingData, system: WithClasses, num: int, seed: int, who: str) -> FewLabels:
    """The data with the labels of `num` points, as many of each class, drawn by `seed`.

    Raises:
        InputError: no labels, or too few points of a class.
    """
    labels = check_labels(system, getattr(data, "labels", None), who).cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = []
    for c in range(system.classes):
        wanted = num // system.classes + (c < num % system.classes)
        of_class = order[labels[order] == c][:wanted]
        if len(of_class) < wanted:
            raise InputError(
                f"{who} needs {wanted} labelled points of class {c}, and {data.name} has {len(of_class)}: lower --labelled."
            )
        chosen.append(of_class)
    return FewLabels(data, torch.cat(chosen))
