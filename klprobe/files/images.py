"""Read image files as tensors: find, decode, turn to grey and resize them, for data sets and for encoders alike."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

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
WHITE = {torch.uint8: 255, torch.int32: 65535}
"""The level that is white in a tensor of levels, by its type."""
DIM = 32
"""Level of 255 that some pixel of a file of 16-bit colours reaches at least: of 12 bits in 16, only the 4 highest are read."""
HIDDEN = (".", "__MACOSX", "@eaDir")
"""How files and folders begin that systems and programs keep beside images: `._a.png` of macOS, `.ipynb_checkpoints`."""
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I")
"""Modes of 16-bit grey levels, which pillow would cut off at 255."""

_one_large = threading.Lock()


class Undecodable(InputError):
    """A file is not an image, or is a damaged one."""


class Found(NamedTuple):
    """The images below a folder in the order of their paths, and how many by hidden names were passed over."""

    files: list[Path]
    hidden: int

    def note(self, label: str) -> tuple[str, ...]:
        """What the user should know of those that were passed over."""
        which = "1 hidden image was" if self.hidden == 1 else f"{self.hidden:,} hidden images were"
        return (f"{label}: {which} passed over, such as ._a.png or what lies in .ipynb_checkpoints.",) if self.hidden else ()


def find_images(folder: Path) -> Found:
    """Find every image below a folder, by suffix, that is not hidden; also broken links, which cannot be decoded.

    Raises:
        InputError: there is no image.
    """
    every = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.is_dir())
    files = [file for file in every if not any(part.startswith(HIDDEN) for part in file.relative_to(folder).parts)]
    if not files:
        if idx := next(folder.rglob("*-idx3-ubyte*"), None):
            root = idx.parent.parent.parent if idx.parent.name == "raw" else idx.parent.parent
            raise InputError(
                f"{folder} holds the files of a data set such as MNIST, and no images: give the set by its name, such as "
                f"mnist, and --data-root {root}."
            )
        hidden = f" but {len(every):,} hidden ones" if every else ""
        raise InputError(f"{folder} holds no image ({', '.join(SUFFIXES)}){hidden}: give a folder of images.")
    return Found(files, len(every) - len(files))


def read_image(
    file: Path | IO[bytes],
    label: str,
    *,
    gray: bool = False,
    rgb: bool = False,
    size: tuple[int, int] | None = None,
    expected: tuple[int, int] | None = None,
    box: tuple[int, int, int, int] | None = None,
    white: float | None = None,
) -> torch.Tensor:
    """Read one image, uint8, shape (C, H, W) with C = 1 or 3; alpha and palettes are resolved, and levels of 16 bits made 8.

    Args:
        file: A path, or an open file.
        label: Name of the file, for messages.
        gray: Whether to turn colours into grey levels (ITU-R BT.601).
        rgb: Whether to turn grey levels into three equal channels.
        size: Size (H, W) to resize to, bilinear and antialiased, even if the proportions change.
        expected: Size (H, W) that the file must have, checked before anything is decoded.
        box: Box (left, top, right, bottom) to cut out before resizing.
        white: Level that becomes 255; by default the highest of the file's number of bits.
    Raises:
        Undecodable: no image, or a damaged one.
        InputError: not of the expected size, or of levels above white.
    """
    levels = read_levels(file, label, gray=gray, rgb=rgb, size=size, expected=expected, box=box)
    if levels.dtype == torch.uint8 and white is None:
        return levels
    most = float(white or WHITE[levels.dtype])
    if float(levels.max()) > most:
        raise InputError(f"{label} has a level of {int(levels.max())}, above scale={most:g}: give the level that is white.")
    return (levels.double() * 255 / most).floor().byte()


def read_levels(
    file: Path | IO[bytes],
    label: str,
    *,
    gray: bool = False,
    rgb: bool = False,
    size: tuple[int, int] | None = None,
    expected: tuple[int, int] | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> torch.Tensor:
    """Read one image as its file has it, shape (C, H, W): uint8, or int32 from 0 to 65535 where it has 16 bits a pixel.

    Args:
        file: A path, or an open file.
        label: Name of the file, for messages.
        gray, rgb, size, expected, box: As in `read_image`.
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
            if opened.format == "TIFF" and getattr(opened, "n_frames", 1) > 1:
                raise ValueError("it holds several pages, of which none is the image: save each as a file of its own")
            sixteen = opened.mode not in DEEP_MODES and ";16" in str(getattr(opened, "tile", ""))
            pixels = _pixels(opened, gray, size, box)
            if sixteen and 0 < int(pixels.max()) < DIM:
                raise InputError(
                    f"{label} has colours of 16 bits, of which 8 are read, and these reach {int(pixels.max())} of 255: "
                    "save such images as one .npy of shape (N, C, H, W)."
                )
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pillow's readers raise many kinds of errors for a damaged file
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise Undecodable(f"{label} cannot be read as an image ({said}): remove or replace it.") from error
    pixels = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.movedim(-1, 0).contiguous()
    return pixels.expand(3, -1, -1).contiguous() if rgb and len(pixels) == 1 else pixels


def _pixels(opened: Picture, gray: bool, size: tuple[int, int] | None, box: tuple[int, int, int, int] | None) -> torch.Tensor:
    """Read the levels of an open image, shape (H, W) or (H, W, 3), uint8 or int32."""
    from PIL import Image

    deep = opened.mode in DEEP_MODES
    image: Picture = Image.fromarray(_sixteen_bits(opened)) if deep else opened
    if not deep:
        image = image.convert("L" if gray or image.mode in GREY_MODES else "RGB")
    if box is not None:
        image = image.crop(box)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    levels = np.array(image, copy=True)
    return torch.from_numpy(levels.round().astype(np.int32) if deep else levels)


def _sixteen_bits(deep: Picture) -> NDArray[np.float32]:
    """Levels of 16 bits, which pillow resizes as floating-point numbers alone; ValueError where they are none."""
    levels = np.asarray(deep).astype(np.int64)
    if levels.size and not 0 <= int(levels.min()) <= int(levels.max()) <= WHITE[torch.int32]:
        raise ValueError(f"its levels are {levels.min()} to {levels.max()}, of no known range, which .npy files are for")
    return levels.astype(np.float32)


def channels_first(x: torch.Tensor) -> torch.Tensor:
    """Turn images whose channels come last, as in most arrays, to (N, C, H, W); leave anything else as it is."""
    return x.movedim(-1, 1) if x.dim() == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3) else x


def parse_size(text: str, flag: str) -> tuple[int, int] | None:
    """Read (H, W) from `32` or `32x24`, and None from an empty string; InputError, which names the flag, for anything else."""
    size = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text or "1")
    if size is None:
        raise InputError(f"{flag} {text!r} is not a size: give 32, or 32x24 for height and width.")
    return (int(size[1]), int(size[2] or size[1])) if text else None


FLAGS_REMEDY = "give --resize", "give --gray, or --rgb to make grey images three equal channels"


def check_same_shape(images: Sequence[torch.Tensor], names: Sequence[str], remedies: tuple[str, str] = FLAGS_REMEDY) -> None:
    """Raise InputError, with what to do, for the first image whose shape is not that of the first.

    Args:
        images, names: Levels of each image, shape (C, H, W), and the name of its file.
        remedies: Sentences that say what to do about several sizes, and about grey images among colours.
    """
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            needed = [images[0].shape[1:] != image.shape[1:], images[0].shape[0] != image.shape[0]]
            remedy = "; ".join(remedy for remedy, need in zip(remedies, needed, strict=True) if need)
            raise InputError(f"{names[0]} has shape {tuple(images[0].shape)} but {name} {tuple(image.shape)}: {remedy}.")


def has_picture(shape: tuple[int, ...]) -> bool:
    """Whether data points of this shape can be drawn."""
    return len(shape) == 3 or shape == (2,) or (len(shape) == 1 and square_side(shape[0]) >= 4)


def square_side(numbers: int) -> int:
    """Side of the square that this number of values fills, or 0."""
    side = math.isqrt(numbers)
    return side if side * side == numbers else 0
