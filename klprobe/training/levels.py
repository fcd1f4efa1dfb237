"""The range of data points: which it is, and whether any convention has it that encoders are trained by.

An encoder that was trained on [0, 1] and is given 0 to 255 says something, and no number shows that it is wrong. So the range
is always said, and a range that fits no convention is a warning with the flag that cures it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klprobe.files.images import square_side
from klprobe.types import Check

BYTE, DEEP = 255.0, 65535.0
"""Levels that stand for white in images of 8 and of 16 bits."""
WHITES = (255, 1023, 4095, 16383, 65535)
"""The highest levels of 8, 10, 12, 14 and 16 bits."""
BLOCK = 1 << 24
"""Numbers looked at in one piece."""
SLACK = 0.01
"""By which values may pass the ends of a range that they are said to be in."""
DARK = 1 / 8
"""Share of white that the brightest of all pixels at least reaches: 12 bits in a file of 16 reach a sixteenth."""
SPREAD = 10.0
"""Standard deviations that standardised values hardly ever pass."""
LEAST_SIDE, LEAST_LEVELS = 4, 16
"""Side of the square that a vector fills, and its highest level, from which it is taken for an image laid out in a row."""


@dataclass(frozen=True)
class Levels:
    """What values were seen: their least, their greatest, and whether all are whole numbers."""

    low: float
    high: float
    whole: bool

    def joined(self, other: Levels | None) -> Levels:
        """What both have seen."""
        if other is None:
            return self
        return Levels(min(self.low, other.low), max(self.high, other.high), self.whole and other.whole)


def levels_of(x: torch.Tensor, white: float = 1.0) -> Levels | None:
    """The levels of points over the value that stands for 1; None where there are none, or none is finite."""
    if not x.numel():
        return None
    low, high = (float(end) for end in torch.aminmax(x if x.dtype != torch.bool else x.byte()))
    whole = not x.is_floating_point() or bool((x == x.round()).all())
    return Levels(low / white, high / white, whole and white == 1.0) if low <= high else None


def in_words(levels: Levels) -> str:
    """`whole numbers from 0 to 255`."""
    return f"{'whole numbers' if levels.whole else 'values'} from {levels.low:.4g} to {levels.high:.4g}"


def white_of(levels: Levels) -> int | None:
    """The level that stands for white, where the values look like levels; None where they do not."""
    if levels.low < 0 or levels.high <= 1 + SLACK:
        return None
    above = [white for white in WHITES if levels.high <= white]
    if not levels.whole:
        return 255 if 128 < levels.high <= 255 else None
    if levels.high < 128:  # levels of few bits, of which nothing tells the highest that there could be
        return int(levels.high)
    return above[0] if above else None


def doubt(levels: Levels, shape: tuple[int, ...], remedy: str) -> str | None:
    """Why an encoder may not be used to values such as these; None where they fit a convention, or are no images.

    [0, 1], [-1, 1] and standardised values are conventions of images; vectors may be anything, unless they look like levels.

    Args:
        levels: Levels of the values as the encoder gets them, before `--range`.
        shape: Shape of a data point.
        remedy: How to divide by a number, such as `--scale {}`.
    """
    picture, white = len(shape) in (2, 3), white_of(levels)
    if white is not None and (picture or _in_a_row(levels, shape) or (levels.whole and levels.high in WHITES)):
        return f"{in_words(levels)} look like levels of which {white} is white: {remedy.format(white)} makes them [0, 1]"
    if not picture or levels.low == levels.high:
        return None
    if levels.low >= 0 and 0 < levels.high < DARK:
        return (
            f"images reach only {levels.high:.3g} of white, which is nearly black: bring white to 1, as by "
            f"{remedy.format(4095)} where 12 bits lie in files of 16"
        )
    if (levels.low >= 0 and levels.high > 1 + SLACK) or max(-levels.low, levels.high) > SPREAD:
        said = f"{in_words(levels)} are neither in [0, 1] nor in [-1, 1] nor standardised"
        return f"{said}: bring images to the range that the encoder was trained on, as by {remedy.format('NUMBER')}"
    return None


def range_check(levels: Levels, shape: tuple[int, ...], name: str) -> Check:
    """Whether data are in a range that encoders are trained on; a report says so where it rests on an encoder that was run."""
    found = doubt(levels, shape, "--scale {}")
    message = f"{name}: {found}" if found else "the data are in a range that encoders are trained on"
    return Check("input-range", "warning", found is None, message)


def doubts(x: torch.Tensor, name: str, white: float, *, settings: bool = True) -> tuple[str, ...]:
    """The same of a whole data set, in a sentence, or none; a block at a time, since it may lie in a large file.

    Args:
        x: Points as they are stored, shape (N, ...).
        name: Name of the data set.
        white: The number that is made 1.
        settings: Whether its name takes settings, of which `scale` is one; else its maker has to divide.
    """
    seen: Levels | None = None
    for block in x.split(max(1, BLOCK // max(1, x[0].numel()))):
        found = levels_of(block, white)
        seen = found.joined(seen) if found else seen
    said = doubt(seen, tuple(x.shape[1:]), f"{name}:scale={{}}" if settings else "dividing by {}") if seen else None
    return (f"{name}: {said}.",) if said else ()


def _in_a_row(levels: Levels, shape: tuple[int, ...]) -> bool:
    """Whether vectors look like images laid out in a row: as many values as a square has, and levels of some bits."""
    return len(shape) == 1 and square_side(shape[0]) >= LEAST_SIDE and LEAST_LEVELS <= levels.high <= BYTE
