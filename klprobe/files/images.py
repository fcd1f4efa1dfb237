"""Image files to tensors: one way to find, decode, grey and resize them, for data sets and for encoders alike."""

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
"""Of pillow's readers, those that the suffixes name: another one would start Ghostscript for a .png that is PostScript."""
MOST_PIXELS = 1 << 26
"""Of one image: a sheet at 600 dots an inch has half as many. A file of some kilobytes can claim any number."""
LARGE = 1 << 24
"""Pixels from which images are decoded one at a time, whatever the number of threads: bounds memory."""
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I")
"""16-bit grey levels, which pillow would cut off at 255."""

_one_large = threading.Lock()


class Undecodable(InputError):
    """One file is no image, or a damaged one."""


def find_images(folder: Path) -> list[Path]:
    """Every image below a folder, by suffix, in the order of their paths; broken links too, which do not decode.

    Raises:
        InputError: there is none.
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
    """One image, uint8, shape (C, H, W) with C = 1 or 3; alpha and palettes are resolved.

    Args:
        file: A path, or an open file.
        label: What errors call it.
        gray: Make colours one grey level (ITU-R BT.601).
        size: (H, W) to resize to, bilinear and antialiased, whatever that does to the proportions.
        expected: (H, W) that the file must have, looked at before anything is decoded.
        box: (left, top, right, bottom) to cut out before resizing.
    Raises:
        Undecodable: no image, or a damaged one.
        InputError: not of the expected size.
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
    except Exception as error:  # pillow's readers fail in any way at all on a damaged file
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise Undecodable(f"{label} cannot be read as an image ({said}): remove or replace it.") from error
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.movedim(-1, 0).contiguous()


def _eight_bits(deep: Picture) -> Picture:
    """The image's 16-bit levels as 8-bit ones."""
    from PIL import Image

    return Image.fromarray((np.asarray(deep).astype(np.int64) * 255 // 65535).clip(0, 255).astype(np.uint8))


def channels_first(x: torch.Tensor) -> torch.Tensor:
    """Images with the channels last, as most arrays have them, turned to (N, C, H, W); anything else as it is."""
    return x.movedim(-1, 1) if x.dim() == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3) else x


def parse_size(text: str, flag: str) -> tuple[int, int] | None:
    """(H, W) of `32` or `32x24`, None of nothing; InputError, naming the flag, of anything else."""
    size = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text or "1")
    if size is None:
        raise InputError(f"{flag} {text!r} is not a size: give 32, or 32x24 for height and width.")
    return (int(size[1]), int(size[2] or size[1])) if text else None


FLAGS_REMEDY = "give --resize, and --gray where some images have colours"


def check_same_shape(images: Sequence[torch.Tensor], names: Sequence[str], remedy: str = FLAGS_REMEDY) -> None:
    """InputError that names the first image whose shape is not that of the first, and the remedy."""
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
