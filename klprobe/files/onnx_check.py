"""Check the paths of an ONNX file's weights, which are read from the file itself before onnxruntime opens them.

ONNX is a protobuf message. This module visits the fields that can hold a tensor, and reads the locations of the tensors.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from klprobe.files.plain import check_plain
from klprobe.types import InputError

MODEL, GRAPH, NODE, ATTRIBUTE, SPARSE, FUNCTION, TRAINING, TENSOR = range(8)
INSIDE = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    TRAINING: {1: GRAPH, 2: GRAPH},
}
"""Number of a field to the kind of message in it (onnx.proto3): all that lead to tensors."""
EXTERNAL_DATA = 13
"""Field of a tensor that holds entries of key (1) and value (2); the value of `location` is a path."""
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
DEEPEST = 64
"""Largest depth of nested graphs; loops and branches of a network are a few deep."""


def check_external_data(path: Path) -> None:
    """Raise InputError unless all weights lie in the file, or in plain files of its own folder.

    Raises:
        InputError: weights lie elsewhere, or the file is not an ONNX file.
    """
    check_plain(path, path.name)
    folder = path.parent.resolve()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            locations = set(_locations(content, 0, len(content), MODEL, 0))
    except (ValueError, IndexError) as error:  # an empty file cannot be mapped
        raise InputError(f"{path.name} is damaged, or is not an ONNX model: export it again.") from error
    for location in locations:
        plain = not (PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or "\0" in location)
        target = (folder / location).resolve() if plain else None
        if target is None or not target.is_relative_to(folder) or not target.is_file():
            raise InputError(
                f"{path.name} says that its weights lie in {location[:80]!r}, but klprobe reads them from the file itself or "
                "from its own folder only: export it again with the weights inside."
            )


def _locations(content: mmap.mmap, start: int, stop: int, kind: int, depth: int) -> Iterator[str]:
    """Find the paths that the tensors of a message name."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    for number, begin, end in _fields(content, start, stop):
        if kind == TENSOR:
            if number == EXTERNAL_DATA:
                entry = {n: content[a:b] for n, a, b in _fields(content, begin, end)}
                if entry.get(1) == b"location":
                    yield entry.get(2, b"").decode()
        elif number in INSIDE[kind]:
            yield from _locations(content, begin, end, INSIDE[kind][number], depth + 1)


def _fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field that holds bytes; ValueError where the bytes are not a message."""
    at = start
    while at < stop:
        key, at = _varint(content, at, stop)
        number, wire = key >> 3, key & 7
        if key >> 32 or not number:  # other readers drop the bits above 32, and would read another field
            raise ValueError("a field of no possible number")
        if wire == BYTES:
            length, at = _varint(content, at, stop)
            if length > stop - at:
                raise ValueError("a field beyond its message")
            yield number, at, at + length
            at += length
        elif wire == VARINT:
            _, at = _varint(content, at, stop)
        elif wire in (FIXED_64, FIXED_32):
            at += 8 if wire == FIXED_64 else 4
        else:
            raise ValueError("a field of no known kind")
    if at != stop:
        raise ValueError("a message that is cut")


def _varint(content: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A whole number of up to 10 bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise ValueError("a number that is cut")
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without end")
