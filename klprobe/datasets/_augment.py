"""Flips and shifts of images, made anew whenever a mini-batch is drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from klprobe.types import InputError


@dataclass(frozen=True)
class Augment:
    """What happens to the images of a mini-batch; called, it does it.

    Attributes:
        flip: Whether each is turned left to right with probability 1/2.
        shift: Pixels that each moves at most, down or up and right or left; its edge fills what it leaves.
    """

    flip: bool = False
    shift: int = 0

    def __call__(self, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Images, shape (m, C, H, W), changed.

        Args:
            x: Images, shape (m, C, H, W).
            indices: Their numbers in the data set, shape (m,). All randomness comes from them, and no generator is needed:
                the order of an epoch makes it new, and a run that is resumed repeats it.
        """
        order = hashlib.blake2b(indices.cpu().numpy().tobytes(), digest_size=8).digest()
        noise = torch.Generator().manual_seed(int.from_bytes(order, "little"))
        if self.flip:
            turned = (torch.rand(len(x), generator=noise) < 0.5).to(x.device)
            x = torch.where(turned[:, None, None, None], x.flip(-1), x)
        return shifted(x, torch.randint(2 * self.shift + 1, (2, len(x)), generator=noise) - self.shift) if self.shift else x


def shifted(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Images, shape (m, C, H, W), moved down and right by whole pixels, shape (2, m); edges are repeated."""
    most, (height, width) = int(by.abs().max()), x.shape[2:]
    padded = F.pad(x, (most,) * 4, mode="replicate")
    top, left = (most - by).to(x.device)
    rows, columns = (start[:, None] + torch.arange(n, device=x.device) for start, n in ((top, height), (left, width)))
    image, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def augment(shape: tuple[int, ...], flip: bool, shift: int) -> Augment | None:
    """The settings of a data set as an `Augment`; None where they ask for nothing.

    Raises:
        InputError: points that are no images, or a shift that leaves nothing of them.
    """
    if not flip and not shift:
        return None
    if len(shape) != 3 or not 0 <= shift < min(shape[1:]):
        raise InputError(f"flip and shift are for images, shift in pixels of less than a side; got {shape} and shift={shift}.")
    return Augment(flip, shift)
