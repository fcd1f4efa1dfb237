"""Making a `torch.export` file safe to load: torch 2.13 unpickles, parses and compiles some of its strings as Python.

What reaches torch is a copy in memory, without the stack traces and guards (which are source code), whose strings cannot be
code: no call, no assignment, no statement can be written with the characters that are let through.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from klprobe.files.archive import repacked
from klprobe.types import InputError

TARGET = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b|save\b)\w+(\.\w+)?"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
    r"|math\.\w+|torch\.sym_\w+"
)
"""Operators of a graph: arithmetic on tensors and sizes."""
HARMLESS = re.compile(r"[\w.\[\]{}\":, <>+*/-]*")
"""Strings without parentheses, equals sign or line break hold no call and no statement."""
EXPRESSION = re.compile(
    r"(?:Symbol\('[szu]\w{0,2}\d+'(?:, [a-z_]+=(?:True|False))*\)|[szu]\w{0,2}\d+|\d+"
    r"|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Max|Min|[\s+\-*/(),])*"
)
"""Symbolic sizes: torch hands them to a parser that evaluates."""
SOURCE = ("metadata", "guards_code", "stack_trace")
"""Keys whose content is source text, or names code; nothing is computed from them."""
KEPT = re.compile(
    r"models/\w+\.json|data/weights/(weight_\d+|\w+\.json)|data/constants/(tensor_\d+|\w+\.json)"
    r"|archive_(format|version)|byteorder|version|\.data/\w+"
)
"""Graph, plain tensors and their directories. What else there is may be compiled code or a pickle."""
EMPTIED = re.compile(r"data/sample_inputs/\w+\.pt")
"""A pickle that torch reads even where it takes Python code to do so; nobody needs it here."""
LEFT_OUT = re.compile(r"extra/.*")


def sanitised(path: Path) -> io.BytesIO:
    """The file as torch may load it.

    Raises:
        InputError: damaged, a zip bomb, or holding anything that is not a graph of torch's own operators and plain tensors.
    """

    def change(name: str, content: bytes) -> bytes | None:
        if LEFT_OUT.fullmatch(name):
            return None
        if EMPTIED.fullmatch(name):
            return b""
        if not KEPT.fullmatch(name):
            raise _refused(path, f"{name} is no graph and no plain tensor")
        return _checked_json(path, name, content) if name.endswith(".json") else content

    return repacked(path, change)


def _checked_json(path: Path, name: str, content: bytes) -> bytes:
    try:
        return json.dumps(_clean(path, json.loads(content))).encode()
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name}: {name} is no JSON ({error}): save the program again with torch.export.save.") from error


def _clean(path: Path, value: Any, allowed: re.Pattern[str] = HARMLESS) -> Any:
    """The same JSON without source text, each string held against what is allowed in its place."""
    if isinstance(value, str) and not allowed.fullmatch(value):
        raise _refused(path, f"{value[:60]!r} is no plain operator, size or name")
    if isinstance(value, list):
        return [_clean(path, inner, allowed) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.get("use_pickle"):
        raise _refused(path, "a tensor in it is a pickle")
    is_node = "target" in value and "inputs" in value
    cleaned = {}
    for key, inner in value.items():
        if key in SOURCE:
            cleaned[_clean(path, key)] = type(inner)()
        else:
            rule = (
                EXPRESSION
                if key == "expr_str"
                else TARGET
                if key == "as_operator" or (key == "target" and is_node)
                else HARMLESS
            )
            cleaned[_clean(path, key)] = _clean(path, inner, rule)
    return cleaned


def _refused(path: Path, why: str) -> InputError:
    return InputError(
        f"{path.name}: {why}, which could run code, so klprobe does not load it: export the encoder alone with "
        "torch.export.save, with plain tensors as weights, or as ONNX."
    )
