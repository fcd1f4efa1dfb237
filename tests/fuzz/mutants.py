"""From a genuine file to a harmed one: which surgeries fit which file, and damage that knows nothing of formats."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz.archives import change_zip
from tests.fuzz.documents import change_csv, change_json, change_program
from tests.fuzz.headers import change_npy, change_safetensors
from tests.fuzz.programs import change_h5, change_onnx, change_pickle

BLIND = 0.2
"""Share of the mutants whose damage knows nothing of the format."""


def mutate(rng: random.Random, name: str, content: bytes, *, settings_only: bool = False) -> tuple[str, bytes]:
    """What was done, and the harmed content; the same for the same state of `rng`."""
    if not content or (rng.random() < BLIND and not settings_only):
        return blind(rng, content)
    try:
        return _surgery(name, content, settings_only)(rng)
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        RecursionError,
        LookupError,
        NotImplementedError,
        OSError,
        RuntimeError,
        AttributeError,
    ):
        return blind(rng, content)  # this surgery does not fit this file


def blind(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Random bytes, flipped bits, cuts, insertions and the like."""
    raw = bytearray(content)
    kind = rng.choice(("bits", "bits", "bytes", "cut", "insert", "remove", "double", "zeros", "random", "empty", "append"))
    at = rng.randrange(len(raw)) if raw else 0
    length = rng.choice((1, 2, 4, 16, 256))
    if kind == "bits" and raw:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        raw[at : at + length] = rng.randbytes(min(length, len(raw) - at))
    elif kind == "cut":
        del raw[at:]
    elif kind == "insert":
        raw[at:at] = rng.choice((rng.randbytes(length), b"\x00" * length, b"\xff" * length))
    elif kind == "remove":
        del raw[at : at + length]
    elif kind == "double":
        raw[at:at] = raw[at : at + length * 16]
    elif kind == "zeros":
        raw[at : at + length] = bytes(min(length, len(raw) - at))
    elif kind == "random":
        raw = bytearray(rng.randbytes(rng.choice((1, 8, 100, 10**5))))
    elif kind == "append":
        raw += rng.choice((rng.randbytes(length), bytes(10**6)))
    elif kind == "empty":
        raw = bytearray()
    return f"blind-{kind}", bytes(raw)


def _surgery(name: str, content: bytes, settings_only: bool) -> Callable[[random.Random], tuple[str, bytes]]:
    """The surgery that fits a file, by its name and its first bytes."""
    if name.endswith(".safetensors"):
        return lambda rng: change_safetensors(rng, content, settings_only)
    if content[:2] == b"PK":
        return lambda rng: change_zip(rng, content, mutate)
    if content[:6] == b"\x93NUMPY":
        return lambda rng: change_npy(rng, content)
    if content[:4] == b"\x89HDF":
        return lambda rng: change_h5(rng, content)
    if name.endswith(".onnx"):
        return lambda rng: change_onnx(rng, content)
    if content[:1] == b"\x80":
        return lambda rng: change_pickle(rng, content)
    for ending, change in ((".json", change_json), (".csv", change_csv), (".py", change_program)):
        if name.endswith(ending):
            return lambda rng: _encoded(change(rng, content.decode()))
    return lambda rng: blind(rng, content)


def _encoded(changed: tuple[str, str]) -> tuple[str, bytes]:
    return changed[0], changed[1].encode("utf-8", "surrogatepass")
