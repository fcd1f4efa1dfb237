"""Read image files as tensors: find, decode, turn to grey and resize them, for data sets and for encoders alike."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch

from klprobe.types import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
"""Readers of pillow that may be used; another one would start Ghostscript for a .png file that is PostScript."""
MOST_PIXELS = 1 << 26
"""Largest number of pixels of one image, since a small file can claim any number; a page at 600 dpi has half of that."""
LARGE = 1 << 24
"""Number of pixels from which images are decoded one at a time, for any number of threads, which limits memory."""
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I")
"""Modes of 16-bit grey levels, which pillow would cut off at 255."""

_one_large = threading.Lock()


class Undecodable(InputError):
    """A file is not an image, or is a damaged one."""


def find_images(folder: Path) -> list[Path]:
    """Find every image below a folder, by suffix, in the order of their paths; also broken links, which cannot be decoded.

    Raises:
        InputError: there is no image.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.is_dir())
    if not files:
        raise InputError(f"{folder} holds no image ({', '.join(SUFFIXES)}).")
    return files


def read_image(
    file: Path | IO[bytes],
    label: str,
    *,
    gray: bool = False,
    size: tuple[int, int] | None = None,
    expected: tuple[int, int] | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> torch.Tensor:
    """Read one image, uint8, shape (C, H, W) with C = 1 or 3; alpha and palettes are resolved.

    Args:
        file: A path, or an open file.
        label: Name of the file, for messages.
        gray: Whether to turn colours into grey levels (ITU-R BT.601).
        size: Size (H, W) to resize to, bilinear and antialiased, even if the proportions change.
        expected: Size (H, W) that the file must have, checked before anything is decoded.
        box: Box (left, top, right, bottom) to cut out before resizing.
    Raises:
        Undecodable: the file is not an image, or is damaged.
        InputError: the image does not have the expected size.
    """
    from PIL import Image

    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise Undecodable(f"{label} is a device, a pipe or a folder, and no file: remove it.")
    try:
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(Image.open(file, formats=FORMATS))
            if expected is not None and opened.size != expected[::-1]:
                raise InputError(
                    f"{label} is {opened.height} x {opened.width}; images of {expected[0]} x {expected[1]} are needed."
                )
            pixels_claimed = opened.width * opened.height
            if pixels_claimed > MOST_PIXELS:
                raise ValueError(f"it has {opened.height} x {opened.width} pixels, and {MOST_PIXELS:,} is the limit")
            if pixels_claimed > LARGE:
                stack.enter_context(_one_large)
            if opened.mode == "F":
                raise ValueError("its pixels are floating-point numbers of no known range, which .npy files are for")
            image: Picture = _eight_bits(opened) if opened.mode in DEEP_MODES else opened
            image = image.convert("L" if gray or image.mode in GREY_MODES else "RGB")
            if box is not None:
                image = image.crop(box)
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image, copy=True))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pillow's readers raise many kinds of errors for a damaged file
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise Undecodable(f"{label} cannot be read as an image ({said}): remove or replace it.") from error
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.movedim(-1, 0).contiguous()


def _eight_bits(deep: Picture) -> Picture:
    """Convert the image's 16-bit levels to 8-bit ones."""
    from PIL import Image

    return Image.fromarray((np.asarray(deep).astype(np.int64) * 255 // 65535).clip(0, 255).astype(np.uint8))


def channels_first(x: torch.Tensor) -> torch.Tensor:
    """Turn images whose channels come last, as in most arrays, to (N, C, H, W); leave anything else as it is."""
    return x.movedim(-1, 1) if x.dim() == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3) else x


def parse_size(text: str, flag: str) -> tuple[int, int] | None:
    """Read (H, W) from `32` or `32x24`, and None from an empty string; InputError, which names the flag, for anything else."""
    size = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text or "1")
    if size is None:
        raise InputError(f"{flag} {text!r} is not a size: give 32, or 32x24 for height and width.")
    return (int(size[1]), int(size[2] or size[1])) if text else None


FLAGS_REMEDY = "give --resize, and --gray where some images have colours"


def check_same_shape(images: Sequence[torch.Tensor], names: Sequence[str], remedy: str = FLAGS_REMEDY) -> None:
    """Raise InputError, with the remedy, for the first image whose shape is not that of the first."""
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise InputError(f"{names[0]} has shape {tuple(images[0].shape)} but {name} {tuple(image.shape)}: {remedy}.")


def has_picture(shape: tuple[int, ...]) -> bool:
    """Whether data points of this shape can be drawn."""
    return len(shape) == 3 or shape == (2,) or (len(shape) == 1 and square_side(shape[0]) >= 4)


def square_side(numbers: int) -> int:
    """Side of the square that this number of values fills, or 0."""
    side = math.isqrt(numbers)
    return side if side * side == numbers else 0
