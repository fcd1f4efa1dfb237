"""The data set that a checkpoint remembers: a name in a file, which is no word of the user's, and is followed with care."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klprobe import registry
from klprobe.images import SUFFIXES
from klprobe.types import InputError

SIZES = re.compile(r":(?:dim|size|resize)=([^:]*)")
"""Settings of data sets that make points as large as one wishes."""
UNKNOWN_FILES, SHARE = 10_000, 0.05
"""A folder of images may hold so many other files; beyond that, this share of its files must be images."""


def remembered(settings: Mapping[str, Any], label: str) -> str:
    """The name of the data set that a checkpoint was trained on.

    Raises:
        InputError: no data set of klprobe (--data takes more, Python code too, because the user types it), one whose points
            would be of another size than the network's, or a folder of anything but images.
    """
    name = str(settings["dataset"])
    remedy = "say with --data what to take"
    if name.partition(":")[0].replace("_", "-") not in registry.names("datasets"):
        raise InputError(f"{label} was trained on {name[:80]!r}, which is no data set of klprobe list: {remedy}.")
    allowed = {str(size) for size in settings["input_shape"]}
    if any(size not in allowed for found in SIZES.findall(name) for size in found.split("x") if found):
        raise InputError(
            f"{label} was trained on {name[:80]!r}, whose points are not of shape {settings['input_shape']}: {remedy}."
        )
    folder = re.search(r"^image.folder:(?:.*:)?path=([^:]*)", name)
    if folder and not _mostly_images(Path(folder[1])):
        raise InputError(f"{label} was trained on the images in {folder[1][:80]!r}, which holds mostly other files: {remedy}.")
    return name


def _mostly_images(folder: Path) -> bool:
    """Whether the folder can be searched for images in reasonable time."""
    every = images = 0
    for _, folders, files in os.walk(folder):
        every += len(files) + len(folders)
        images += sum(file.lower().endswith(SUFFIXES) for file in files)
        if every > UNKNOWN_FILES and images < SHARE * every:
            return False
    return True
