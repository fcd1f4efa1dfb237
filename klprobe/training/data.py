"""Mini-batches, the data that the loop needs, data in memory, and random changes to the images of a mini-batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from klprobe.types import InputError

SHARE_OF_DEVICE = 0.5
"""Share of a GPU's free memory that data may take; the rest is for the networks."""


class Batch(NamedTuple):
    """A mini-batch: x float32, shape (batch, *shape); labels int64, shape (batch,), or None."""

    x: torch.Tensor
    labels: torch.Tensor | None


class TrainingData(Protocol):
    """A data set as the loop needs it; `klprobe.datasets` provides it."""

    @property
    def name(self) -> str:
        """Command-line name."""

    @property
    def split(self) -> str:
        """Part of the data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one data point."""

    def __len__(self) -> int: ...

    def batch(self, indices: torch.Tensor) -> Batch:
        """The data points at `indices`, shape (batch,)."""

    def to(self, device: torch.device) -> TrainingData:
        """The same data on another device."""


@dataclass(frozen=True)
class Data:
    """A data set in memory, or mapped from a file; bytes stay bytes until a batch is made of them.

    Attributes:
        name: Command-line name, settings included.
        split: Part of the data set.
        stored: Points, shape (N, ...): uint8 (0 to 255, mapped to [0, 1] by `floats`), or another type, which stays as it is.
        labels: Labels, int64, shape (N,), or None.
        tint: Colours in which grey images are shown, float32, shape (N, 3); None leaves them as they are stored.
        augment: Random changes to the images of a mini-batch, and only there.
        notes: Sentences for the user, for instance about files left out.
        device: Device of the batches; None means that of the data.
        white: Number that `floats` maps to 1; None means 255 for bytes, and 1 for other types.
    """

    name: str
    split: str
    stored: torch.Tensor
    labels: torch.Tensor | None = None
    tint: torch.Tensor | None = None
    augment: Augment | None = None
    notes: tuple[str, ...] = ()
    device: torch.device | None = None
    white: float | None = None

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one data point."""
        stored = tuple(self.stored.shape[1:])
        return stored if self.tint is None else (3, *stored[1:])

    @property
    def x(self) -> torch.Tensor:
        """All points at once, shape (N, *shape)."""
        return self.points(slice(None))

    def points(self, which: torch.Tensor | slice) -> torch.Tensor:
        """The chosen points, uint8 where they are stored so, shape (m, *shape)."""
        chosen = self.stored[which]
        return chosen if self.tint is None else (chosen * self.tint[which][:, :, None, None]).round().byte()

    def floats(self, which: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The chosen points as float32, uint8 mapped to [0, 1], or all of them over `white`; shape (m, *shape)."""
        chosen = self.points(which).to(self.device or self.stored.device)
        if self.white is not None:
            return (chosen.double() / self.white).float()
        return chosen / 255 if chosen.dtype == torch.uint8 else chosen.float()

    def batch(self, indices: torch.Tensor) -> Batch:
        """The points at `indices`, shape (m,), as a mini-batch on the device, augmented."""
        here = indices.to(self.stored.device)
        labels = None if self.labels is None else self.labels[here].to(self.device or self.stored.device)
        x = self.floats(here)
        return Batch(x if self.augment is None else self.augment(x, indices), labels)

    def take(self, which: torch.Tensor, split: str) -> Data:
        """The points of these numbers, shape (m,), a copy, as another split."""
        labels, tint = (None if beside is None else beside[which] for beside in (self.labels, self.tint))
        return replace(self, split=split, stored=self.stored[which], labels=labels, tint=tint)

    def to(self, device: torch.device) -> Data:
        """The same data, all of them on another device if they fit, still uint8; else its batches go there one by one."""
        if not fits(self.stored, device):
            return replace(self, device=device)
        labels, tint = (None if beside is None else beside.to(device) for beside in (self.labels, self.tint))
        return replace(self, stored=self.stored.to(device), labels=labels, tint=tint, device=device)


def fits(x: torch.Tensor, device: torch.device) -> bool:
    """Whether the data leave the device enough memory for the work."""
    if device.type != "cuda":
        return True
    return x.numel() * x.element_size() <= SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True)
class Augment:
    """Random changes to the images of a mini-batch, made when it is called.

    Attributes:
        flip: Whether each image is mirrored left to right with probability 1/2.
        shift: Largest number of pixels by which each image moves, vertically and horizontally; its edge fills the gap.
    """

    flip: bool = False
    shift: int = 0

    def __call__(self, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Change images, shape (m, C, H, W).

        Args:
            x: Images, shape (m, C, H, W).
            indices: Their numbers in the data set, shape (m,). All randomness comes from them, and no generator is needed:
                the order of an epoch makes it new, and a run that is resumed repeats it.
        """
        order = hashlib.blake2b(indices.cpu().numpy().tobytes(), digest_size=8).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(order, "little"))
        if self.flip:
            turned = (torch.rand(len(x), generator=rng) < 0.5).to(x.device)
            x = torch.where(turned[:, None, None, None], x.flip(-1), x)
        return shifted(x, torch.randint(2 * self.shift + 1, (2, len(x)), generator=rng) - self.shift) if self.shift else x


def shifted(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Images, shape (m, C, H, W), moved down and right by whole pixels, shape (2, m); edges are repeated."""
    most, (height, width) = int(by.abs().max()), x.shape[2:]
    padded = F.pad(x, (most,) * 4, mode="replicate")
    top, left = (most - by).to(x.device)
    rows, columns = (start[:, None] + torch.arange(n, device=x.device) for start, n in ((top, height), (left, width)))
    image, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def augment(shape: tuple[int, ...], flip: bool, shift: int) -> Augment | None:
    """Make an `Augment` from the settings of a data set; None where they ask for no change.

    Raises:
        InputError: the points are not images, or the shift is as large as the image.
    """
    if not flip and not shift:
        return None
    if len(shape) != 3 or not 0 <= shift < min(shape[1:]):
        raise InputError(f"flip and shift are for images, shift in pixels of less than a side; got {shape} and shift={shift}.")
    return Augment(flip, shift)
