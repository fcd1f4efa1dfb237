"""Samples whose maker is not here: what metrics may look at is the samples and real data, and no system can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import torch

from klprobe.evaluation.feature_net import UNIT, range_note, to_unit, unit_range
from klprobe.training.data import Data
from klprobe.types import CapabilityError, InputError


@dataclass(frozen=True)
class SamplesAlone:
    """Samples in the place of a trained system, which can do nothing but give them.

    Attributes:
        given: The samples.
        device, capabilities, conditional, classes: As of a `klprobe.training.trained.TrainedSystem`.
    """

    given: Data
    device: str = "cpu"
    capabilities: frozenset[str] = field(default=frozenset())
    conditional: bool = False
    classes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return self.given.shape

    def some(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """So many of the samples, chosen at random, float32, shape (num, *shape)."""
        return self.given.floats(torch.randperm(len(self.given), generator=generator)[:num].sort().values).cpu()

    def need(self, capability: str) -> NoReturn:
        """Raise CapabilityError: whatever is needed beside the samples is not here."""
        raise CapabilityError(
            f"needs the system that made the samples ({capability}), and {self.given.name} is samples alone: give --checkpoint"
        )


def as_data_are(samples: torch.Tensor, data: torch.Tensor) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Samples on the scale of the data, and what was done to them; images alone have scales that can be told by their values.

    Raises:
        InputError: values in no range of images, while those of the data are in one.
    """
    if samples.dim() != 4:
        return samples, ()
    try:
        wanted = unit_range(data)
    except InputError:
        return samples, ()
    try:
        found = unit_range(samples)
    except InputError as error:
        raise InputError(f"Of the samples, {error}") from error
    if found == wanted:
        return samples, ()
    low, high = wanted
    note = range_note(found).replace("images were", "samples were")
    if wanted != UNIT:
        note += f", and then to the data's [{low:g}, {high:g}]"
    return low + (high - low) * to_unit(samples, found), (note,)
