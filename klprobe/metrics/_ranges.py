"""The range that images have, known by their values, and the way to [0, 1]."""

from __future__ import annotations

import torch

from klprobe.types import InputError

UNIT, SYMMETRIC, BYTES = (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)
OUTSIDE = 0.25
"""Share of its range that values may lie outside of it before the range is taken to be another."""


def unit_range(x: torch.Tensor) -> tuple[float, float]:
    """The range that images have by their values, a quarter of it left for outliers: [0, 1], [-1, 1], or bytes' [0, 255].

    Raises:
        InputError: none of them.
    """
    least, most = float(x.min()), float(x.max())
    for low, high in (UNIT, SYMMETRIC):
        slack = OUTSIDE * (high - low)
        if low - slack <= least and most <= high + slack:
            return low, high
    if -0.1 * most <= least and most <= (1 + OUTSIDE) * BYTES[1]:
        return BYTES
    raise InputError(f"images lie in [{least:.3g}, {most:.3g}], no range that is known: bring them to [0, 1].")


def to_unit(x: torch.Tensor, found: tuple[float, float]) -> torch.Tensor:
    """Images of a range, in [0, 1]."""
    return (x - found[0]) / (found[1] - found[0])


def range_note(found: tuple[float, float]) -> str:
    """What was done to images of another range than [0, 1]."""
    return f"images were taken to lie in [{found[0]:g}, {found[1]:g}], by their values, and brought to [0, 1]"
