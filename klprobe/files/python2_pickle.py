"""Read the pickles of CIFAR-10, which hold plain values and arrays of bytes, without running anything that the file names."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from klprobe.types import InputError

MOST_STEPS = 300_000
"""Largest number of steps of the unpickler, each of which may make an object 50 times as large; a batch takes 50,000."""
LONGEST_ERROR = 200


class _Bytes:
    """A replacement of a NumPy array while the file is read, which keeps the file's values without calling NumPy."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        """Ignore shape and kind, which are those of an empty array here; the state that follows has the true ones."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Make the array from the state (version, shape, dtype, Fortran order, bytes); only bytes are allowed."""
        _, shape, kind, fortran, content = self.state
        if not isinstance(kind, _Kind) or kind.name not in ("u1", b"u1") or fortran or not isinstance(content, bytes):
            raise ValueError("an array that is not of bytes in C order")
        return np.frombuffer(content, np.uint8).reshape(shape)


class _Kind:
    """A replacement of a NumPy dtype."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and similar facts, which bytes do not need."""


STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Bytes,
    ("numpy._core.multiarray", "_reconstruct"): _Bytes,
    ("numpy", "ndarray"): _Bytes,
    ("numpy", "dtype"): _Kind,
}


class _Steps(dict[int, Any]):
    """Functions of the unpickler for each byte, with a limited number of steps, and without those that allocate memory."""

    left = MOST_STEPS

    def __getitem__(self, key: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("it has more parts than any batch of images")
        if key not in self or key == pickle.BYTEARRAY8[0]:
            raise pickle.UnpicklingError(f"it has a part of kind {key}, which no batch of images has")
        return super().__getitem__(key)


class _Reader(pickle._Unpickler):
    """The unpickler that is written in Python; in the one written in C, one damaged byte can allocate 64 GB."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        vars(self)["dispatch"] = _Steps(pickle._Unpickler.dispatch)  # a table for this file alone, because it counts

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of an array or dtype; anything else is refused before it is imported."""
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array is made of")
        return STAND_INS[module, name]


def read_pickle(content: bytes, label: str) -> dict[bytes, Any]:
    """Read a dictionary whose keys and strings are bytes and whose arrays are uint8 from a pickle of Python 2 or 3.

    Raises:
        InputError: the file is damaged, not a dictionary, or holds anything but plain values and arrays of bytes.
    """
    try:
        found = _Reader(content).load()
        return {key: value.array() if isinstance(value, _Bytes) else value for key, value in found.items()}
    except Exception as error:  # a damaged pickle raises many kinds of errors
        said = (str(error).strip() or type(error).__name__)[:LONGEST_ERROR]
        raise InputError(f"{label} is damaged, or is not a pickle of arrays ({said}): fetch it again.") from error
