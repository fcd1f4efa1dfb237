"""Surgery on headers that say what the bytes behind them are: numpy's and safetensors'."""

from __future__ import annotations

import json
import random
import struct

from tests.fuzz.documents import change_json
from tests.fuzz.payloads import number, text

SHAPES = (
    "()", "(0,)", "(0, 2)", "(-1, 2)", "(1.5, 2)", "(True, 2)", "None", "2", "[24, 2]", "(24,)", "(24, 2, 1)", "'x'",
    "((24, 2),)",
    "(1000000000, 2)", "(1000000000, 1000000000)", "(18446744073709551616, 2)", "(9223372036854775807, 2)",
    "(24, 2" , "24, 2)",
    "(1j, 2)", "(4294967296, 4294967296)", "(0, 18446744073709551616)", "(0, 1000000000000)", "(" + "1," * 64 + ")",
    "(" + "1," * 20 + ")", "(1,)*9", "(24, 0)",
)  # fmt: skip
TYPES = (
    "'|O'", "'<f8'", "'>f4'", "'<f2'", "'<f16'", "'<c8'", "'<i8'", "'|b1'", "'|S0'", "'<U0'", "'<U1'",
    "'<U1000000000'", "'|V0'",
    "'|V1000000000'", "'<M8[ns]'", "'<m8'", "[('a', '<f4')]", "[('a', '<f4', (1000000000,))]", "[('a', '|O')]", "''",
    "None", "3",
    "'f4,f4'", "'(1000000000,)f4'", "'no'", "{'names': ['a'], 'formats': ['<f4']}", "('<f4', (2,))", "[]", "'<f3'",
    "'\\ud800'",
    "'|S2147483647'", "'|S4294967296'", "b'<f4'", "'=f4'", "'|u1'",
)  # fmt: skip
WHOLE = (
    "", "{", "}", "{}", "[]", "None", "{'descr': '<f4'}", "__import__('os').system('touch MARKER')",
    "{'descr': '<f4', 'shape': ",
    "(" * 10**5, "[" * 5000, "{'a':" * 3000, "'" + "a" * 60000,
    '"""', "\\", "{'descr'\n: '<f4'}", "\x00" * 64, "é" * 30, "{**1}", "1e999",
    "-" * 5000 + "1", "lambda: 0", "f'{1}'",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (24, 2), 'shape': (1,)}", "0777", "1__0", "$", "?",
    "\t {", "{\n(", " " * 60000, "9" * 5000,
)  # fmt: skip


def change_npy(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """An .npy file with another header."""
    size = struct.unpack("<H", content[8:10])[0]
    header, data = content[10 : 10 + size].decode("latin1"), content[10 + size :]
    kind = rng.choice(("shape", "shape", "type", "type", "whole", "order", "letter", "letter", "version", "length", "extra"))
    descr, order, shape = (
        header.split("'descr': ")[1].split(", 'fortran")[0],
        "False",
        "(" + header.split("(")[1].split(")")[0] + ")",
    )
    if kind == "shape":
        shape = rng.choice((*SHAPES, f"({number(rng)}, {number(rng)})", f"({number(rng)},)", text(rng)))
    elif kind == "type":
        descr = rng.choice((*TYPES, repr(text(rng))))
    elif kind == "order":
        order = rng.choice(("True", "None", "1", "'x'", "[]", text(rng)))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if kind == "whole":
        header = rng.choice((*WHOLE, text(rng)))
    elif kind == "letter":
        at = rng.randrange(len(header))
        header = (
            header[:at]
            + rng.choice(("'", '"', "(", ")", "{", "\n", "\\", "#", "", "0", "\x0c", "\x00", "é", "`"))
            + header[at + 1 :]
        )
    elif kind == "extra":
        header = header[:-1] + f"{text(rng)!r}: {text(rng)!r}}}"
    raw = header.encode("utf-8", "surrogatepass") + b"\n"
    version, length = b"\x01\x00", len(raw)
    if kind == "version":
        version = bytes((rng.choice((0, 1, 2, 3, 4, 255)), rng.choice((0, 1, 255))))
    if kind == "length":
        length = rng.choice((0, 1, 10, length + 1, length - 1, 65535, length * 2))
    packed = struct.pack(
        "<H" if len(raw) < 65536 and version[0] == 1 else "<I", min(length, 65535) if version[0] == 1 else length
    )
    if len(raw) >= 65536:
        version, packed = b"\x02\x00", struct.pack("<I", len(raw))
    return f"npy-{kind}", b"\x93NUMPY" + version + packed + raw + data


def change_safetensors(rng: random.Random, content: bytes, only_settings: bool = False) -> tuple[str, bytes]:
    """A safetensors file with another header: its own entries, or the JSON inside its metadata."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    about = header.get("__metadata__", {})
    if "klprobe.settings" in about and (only_settings or rng.random() < 0.5):
        kind, about["klprobe.settings"] = change_json(rng, about["klprobe.settings"])
        return f"settings-{kind}", _with_header(json.dumps(header, ensure_ascii=False), data)
    kind = rng.choice(("json", "json", "tensor", "tensor", "offsets", "name", "size", "swap", "values"))
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    if kind == "json":
        kind, changed = change_json(rng, json.dumps(header))
        return f"header-{kind}", _with_header(changed, data)
    if kind == "tensor":
        key = rng.choice(("dtype", "shape", "shape"))
        types = ("F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", "", None)
        one = header[name]["shape"]
        shapes = ([], [0], [number(rng)], [number(rng), number(rng)], [*one, 1], one[::-1], [[1]], [-1], [1.5], None, [1] * 70)
        header[name][key] = rng.choice(types if key == "dtype" else shapes)
    elif kind == "offsets":
        start, end = header[name]["data_offsets"]
        wrong = (
            [end, start],
            [start, end + 4],
            [0, number(rng)],
            [start],
            [],
            [start, end, end],
            [-1, 4],
            [0, 0],
            [2**63, 2**64],
            "x",
        )
        header[name]["data_offsets"] = rng.choice(wrong)
    elif kind == "name":
        header[text(rng)] = header.pop(name)
    elif kind == "swap":
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
    elif kind == "values":
        return _other_values(rng, header, data)
    changed = _with_header(json.dumps(header), data)
    if kind == "size":
        changed = struct.pack("<Q", abs(number(rng)) % 2**64) + changed[8:]
    return f"header-{kind}", changed


def _other_values(rng: random.Random, header: dict, data: bytes) -> tuple[str, bytes]:
    """NaN, infinity and huge numbers, among the tensors' values."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 5))):
        if len(raw) >= 8:
            at = 4 * rng.randrange(len(raw) // 4)
            raw[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -3e38, 3e38, 1e-45, -0.0, 1e20)))
    return "values", _with_header(json.dumps(header), bytes(raw[: len(data)]))


def _with_header(header: str, data: bytes) -> bytes:
    raw = header.encode("utf-8", "surrogatepass")
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + data
