"""Making a `torch.export` file safe to load: torch 2.13 unpickles, parses and compiles some of its strings as Python.

What reaches torch is a copy in memory, without the stack traces and guards (which are source code), whose strings cannot be
code: no call, no assignment, no statement can be written with the characters that are let through.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from klprobe.encoders._archive import check_archive, names_in, read_entry
from klprobe.types import InputError

TARGET = re.compile(
    r"torch\.ops\.(aten|prims|higher_order)\.(?!from_file\b|save\b)\w+(\.\w+)?"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
    r"|math\.\w+|torch\.sym_\w+"
)
"""Operators of a graph: arithmetic on tensors and sizes."""
HARMLESS = re.compile(r"[\w.\[\]{}\":, <>+*/-]*")
"""Strings without parentheses, equals sign or line break hold no call and no statement."""
EXPRESSION = re.compile(r"(?:[szu]\w?\d+|\d+|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Max|Min|[\s+\-*/(),])*")
"""Symbolic sizes: torch hands them to a parser that evaluates."""
SOURCE = ("metadata", "guards_code", "stack_trace")
"""Keys whose content is source text, or names code; nothing is computed from them."""
FORBIDDEN = re.compile(r"data/aotinductor/|data/weights/[^/]*\.pt$|data/constants/(?!tensor_|[^/]*\.json$)|.*\.so$")
"""Compiled libraries, and weights or objects that are pickles."""


def sanitised(path: Path) -> io.BytesIO:
    """The file as torch may load it.

    Raises:
        InputError: damaged, a zip bomb, or holding anything that is not a graph of torch's own operators and plain tensors.
    """
    check_archive(path)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as archive:
        for name in names_in(path):
            if FORBIDDEN.match(name):
                raise _refused(path, f"{name} is compiled code or a pickle")
            content = read_entry(path, name)
            if name.endswith(".json"):
                content = _checked_json(path, name, content)
            archive.writestr(f"{path.stem}/{name}", content)
    copy.seek(0)
    return copy


def _checked_json(path: Path, name: str, content: bytes) -> bytes:
    try:
        return json.dumps(_clean(path, json.loads(content))).encode()
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name}: {name} is no JSON ({error}): save the program again with torch.export.save.") from error


def _clean(path: Path, value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        if value.get("use_pickle"):
            raise _refused(path, "a tensor in it is a pickle")
        emptied = {name: type(inner)() for name, inner in value.items() if name in SOURCE}
        for name in value:
            _check_string(path, "", name)
        return {
            name: emptied.get(name, None) if name in emptied else _clean(path, inner, name) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_clean(path, inner, key) for inner in value]
    if isinstance(value, str):
        _check_string(path, key, value)
    return value


def _check_string(path: Path, key: str, text: str) -> None:
    allowed = {"target": TARGET, "expr_str": EXPRESSION}.get(key, HARMLESS)
    if key == "target" and HARMLESS.fullmatch(text) and "." not in text:
        return  # the name of a weight in the signature, not of an operator
    if not allowed.fullmatch(text) and not (
        key == "target" and not text.startswith(("torch", "_operator", "math", "#")) and HARMLESS.fullmatch(text)
    ):
        raise _refused(path, f"its {key or 'text'} {text[:60]!r} is no plain operator, size or name")


def _refused(path: Path, why: str) -> InputError:
    return InputError(
        f"{path.name}: {why}, which could run code, so klprobe does not load it: export the encoder alone with "
        "torch.export.save, with plain tensors as weights, or as ONNX."
    )
