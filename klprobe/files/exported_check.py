"""Make a `torch.export` file safe to load, since torch 2.13 unpickles, evaluates and compiles parts of such a file.

Torch gets a new file in memory: the entries listed here and no other, the two kinds of JSON written anew from the values that
`exported_schema` understood, and the bytes of the tensors, each as long as its description says.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from klprobe.files.archive import repacked
from klprobe.files.exported_schema import BYTES, constants, program, weights
from klprobe.files.exported_values import Parser, Refused, shown
from klprobe.types import InputError

TABLES = {
    "data/weights/model_weights_config.json": weights,
    "data/constants/model_constants_config.json": constants,
}
DOCUMENTS: dict[str, Parser] = {"models/model.json": program, **TABLES}
TENSOR = re.compile(r"data/weights/weight_[0-9]{1,6}|data/constants/tensor_[0-9]{1,6}")
FIXED = {"archive_format": b"pt2", "archive_version": b"0", ".data/version": b"[0-9]{1,3}\n?", "byteorder": b"little|big"}
"""Entries of a few bytes, and the values that they may have."""
EMPTIED = "data/sample_inputs/model.pt"
"""A pickle that torch reads even where this runs Python code; it is not needed, and replaced by an empty one."""
LEFT_OUT = re.compile(r"extra/.*|\.data/serialization_id", re.DOTALL)
EXPANDED = 1 << 24
"""Largest number of elements of a tensor beyond those stored for it, as one stored number can represent a whole row."""


def sanitised(path: Path) -> io.BytesIO:
    """Make the version of the file that torch may load.

    Raises:
        InputError: the file is damaged, a zip bomb, or holds anything but a graph of listed operators and plain tensors.
    """
    lengths: dict[str, int] = {}
    tables: dict[str, Any] = {}

    def change(name: str, content: bytes) -> bytes | None:
        lengths[name] = len(content)
        if name in DOCUMENTS:
            document = _parsed(content, DOCUMENTS[name])
            if name in TABLES:
                tables[name] = document["config"]
            return json.dumps(document, allow_nan=False).encode()
        if TENSOR.fullmatch(name) or (name in FIXED and re.fullmatch(FIXED[name], content)):
            return content
        if name == EMPTIED:
            return b""
        if LEFT_OUT.fullmatch(name):
            return None
        raise Refused(f"{shown(name)} is no graph and no plain tensor")

    try:
        copy = repacked(path, change)
        for name, table in tables.items():
            _check_lengths(name, table, lengths)
    except Refused as error:
        raise InputError(
            f"{path.name}: {error}. klprobe does not load it, since what it does not know could run code: export the encoder "
            "alone with torch.export.save, with plain tensors as weights, or as ONNX."
        ) from None
    return copy


def _parsed(content: bytes, parser: Callable[[Any], Any]) -> Any:
    try:
        read = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"what should be JSON is none ({error})") from None
    return parser(read)


def _check_lengths(table_name: str, table: dict[str, Any], lengths: dict[str, int]) -> None:
    """Refuse a tensor that needs more bytes than are stored for it, because torch would use arbitrary values for the rest."""
    folder = table_name.rpartition("/")[0]
    for name, payload in table.items():
        meta = payload["tensor_meta"]
        sizes = [size["as_int"] for size in meta["sizes"]]
        strides = [stride["as_int"] for stride in meta["strides"]]
        if len(sizes) != len(strides):
            raise Refused(f"the tensor {name} has {len(sizes)} sizes and {len(strides)} strides")
        elements, last = 1, meta["storage_offset"]["as_int"]
        for size, stride in zip(sizes, strides, strict=True):
            elements *= size
            last += (size - 1) * stride
        stored = lengths.get(f"{folder}/{payload['path_name']}", 0) // BYTES[meta["dtype"]]
        if elements and (last >= stored or elements > max(stored, EXPANDED)):
            raise Refused(f"the tensor {name} is larger than its {stored:,} stored elements")
