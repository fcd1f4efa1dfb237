"""Find the data set that a file names, among klprobe's own data sets and nowhere else.

A name that a user types is trusted, even `package.module:name`, which imports the user's code. A name in a file is not trusted:
it can only choose among klprobe's data sets, and imports and calls nothing else. No function takes both kinds of names:
`klprobe.datasets.dataset` and `klprobe.formats._inputs.open_inputs` take a user's name, `dataset_of_file` takes a file's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from klprobe import registry
from klprobe.files.images import SUFFIXES
from klprobe.printable import short, visible
from klprobe.types import InputError

MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Pattern of package.module:name."""
LONGEST = 4096
"""Largest number of letters of a data set's name, which is that of a path on Linux."""
LONGEST_MODULE = 200
"""Largest number of letters of package.module:name that the message repeats."""
GIVE = "give --data a data set's name, a folder or a file"
SIZES = re.compile(r":(?:dim|size|resize)=([^:]*)")
"""Pattern of settings of data sets that can make points of any size."""
UNKNOWN_FILES, SHARE = 10_000, 0.05
"""Number of other files that a folder of images may hold; beyond that, this share of its files must be images."""
NETWORK = ("\\\\", "//")
"""Beginnings of paths on another machine, which would be contacted with the user's credentials."""


class NotOurs(InputError):
    """A file names data that klprobe does not open on a file's word alone.

    Attributes:
        reason: Message without its remedy, which is a flag of the command for the checkpoint.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}.")
        self.reason = reason


def dataset_of_file(name: object, file: str, shape: Sequence[int]) -> Any:
    """Find klprobe's own data set that a file names, with settings, as `celeba:size=128` or `image-folder:path=photos`.

    Args:
        name: Value in the file, of any type.
        file: Name of the file, for messages.
        shape: Shape of the points that the file's network takes.
    Raises:
        NotOurs: the value does not name a data set of klprobe's; the message says which flag gives the data instead.
        InputError: the data set does not have a setting, or does not take its value.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST:
        raise NotOurs(f"{file} names no data set that it was trained on ({short(name)})", GIVE)
    if name.partition(":")[0].replace("_", "-") not in registry.names("datasets"):
        if len(name) <= LONGEST_MODULE and MODULE.fullmatch(name):
            why = "which klprobe does not import because a file says so"
            raise NotOurs(f"{file} was trained on {name}, {why}", f"give --data {name}")
        raise NotOurs(f"{file} was trained on {short(name)}, which is no data set of klprobe's", GIVE)
    sizes = {str(size) for size in shape}
    if any(size not in sizes for found in SIZES.findall(name) for size in found.split("x") if found):
        raise NotOurs(f"{file} was trained on {short(name)}, whose points are not of shape {tuple(shape)}", GIVE)
    try:
        chosen = registry.create("datasets", name)
    except InputError as error:
        raise InputError(f"{file} was trained on a data set that cannot be had. {error} {GIVE.capitalize()}.") from error
    if chosen.path is not None:
        _check_path(chosen.path, file)
    return chosen.only_reading()


def notes_of(chosen: Any, file: str) -> tuple[str, ...]:
    """Note for the user that a file named a file or folder of the user's own as its data."""
    return () if chosen.path is None else (f"data from {visible(chosen.path)}, as {file} says; --data gives others.",)


def _check_path(path: str, file: str) -> None:
    """Check that the file names a folder or a plain file on this machine, and no device or pipe."""
    if path.startswith(NETWORK):
        raise NotOurs(f"{file} was trained on {short(path)}, which klprobe does not look for on a network", GIVE)
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise NotOurs(
            f"{file} was trained on {short(path)}, and no file or folder of that name is here",
            "run klprobe where it was trained, or " + GIVE,
        )
    if Path(path).is_dir() and not _mostly_images(Path(path)):
        raise NotOurs(f"{file} was trained on the images in {short(path)}, which holds mostly other files", GIVE)


def _mostly_images(folder: Path) -> bool:
    """Whether the folder can be searched for images in reasonable time."""
    every = images = 0
    for _, folders, files in os.walk(folder):
        every += len(files) + len(folders)
        images += sum(file.lower().endswith(SUFFIXES) for file in files)
        if every > UNKNOWN_FILES and images < SHARE * every:
            return False
    return True
