"""Surgery on what a reader runs, or could: pickles, ONNX graphs, HDF5 files."""

from __future__ import annotations

import io
import pickletools
import random
import struct
from typing import Any

from tests.fuzz.payloads import MARKER, number, text

RUNS = (
    b"cos\nsystem\n(X\x0c\x00\x00\x00touch MARKERtR.",
    b"cposix\nsystem\n(X\x0c\x00\x00\x00touch MARKERtR",
    b"cpayload_module\nx\n",
    b"cbuiltins\neval\n(X\x13\x00\x00\x00open('MARKER', 'w')tR",
    b"cbuiltins\ngetattr\n",
    b"ctorch\nload\n",
    b"ctorch.storage\n_load_from_bytes\n(C\x02hitR",
    b"cnumpy\nload\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n(((tR",
)
DEEP = (b"(" * 10**5, b"]" * 10**5, b"}" * 10**4, b"(l" * 10**4 + b"a" * 10**4, b"]" + b"]a" * 10**4, b"(" * 5000 + b"t" * 5000)
ODD = (
    b"r\xff\xff\xff\xff", b"q\x00", b"h\xff", b"j\xff\xff\xff\x7f", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"b",
    b"R", b"\x81", b"Q", b"P1\n",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f",
    b"\x80\x05", b"\x80\xff",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x82\x01", b"I" + b"9" * 6000 + b"\n", b"F1e999\n",
    b"\x8a\xff" + b"\xff" * 255, b".", b"\x97\x98",
)  # fmt: skip


def _string(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def change_pickle(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """A pickle with an opcode changed, dropped, doubled or added."""
    starts = [(op.name, position) for op, _, position in pickletools.genops(content)]
    ends = [position for _, position in starts[1:]] + [len(content)]
    ops = [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]
    kind = rng.choice(
        ("string", "string", "number", "number", "global", "global", "drop", "twice", "odd", "deep", "runs", "head")
    )
    wanted = {"string": "UNICODE", "number": "INT", "global": "GLOBAL"}.get(kind, "")
    chosen = [op for op in ops if wanted in op[0] and op[0] != "STOP"] or ops
    _, start, end = rng.choice(chosen)
    new = {
        "string": _string(text(rng)),
        "number": rng.choice((_int(number(rng)), _string(text(rng)), b"N", b"]", b"G" + struct.pack(">d", float("nan")))),
        "global": rng.choice((*RUNS, b"c" + text(rng).encode("utf-8", "ignore").replace(b"\n", b"") + b"\nx\n")),
        "drop": b"",
        "twice": content[start:end] * rng.choice((2, 2, 1000)),
        "odd": content[start:end] + rng.choice(ODD),
        "deep": content[start:end] + rng.choice(DEEP),
        "runs": content[start:end] + rng.choice(RUNS),
    }.get(kind)
    if new is None:
        return "pickle-head", b"\x80\x02" + rng.choice(RUNS) + rng.choice((b".", content[2:]))
    return f"pickle-{kind}", content[:start] + new + content[end:]


# ---- ONNX


def _messages(message: Any) -> list[Any]:
    """The message and all inside it."""
    found = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _many(field) else [value]:
                found += _messages(inner)
    return found


def _many(field: Any) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


OPERATORS = (
    "Loop",
    "If",
    "Scan",
    "Tile",
    "Expand",
    "ConstantOfShape",
    "Range",
    "Resize",
    "Gemm",
    "Reshape",
    "RandomNormal",
    "OneHot",
    "Pad",
    "",
)
OUTSIDE = ("/etc/passwd", "../../etc/passwd", "/dev/zero", "payload_module.py", "x.npy", "", "/dev/stdin", "encoder.onnx")


def change_onnx(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """An ONNX model with a field changed, of whatever message inside."""
    import onnx

    model = onnx.load_from_string(content)
    kind = rng.choice(("text", "text", "number", "number", "drop", "twice", "operator", "outside", "bytes", "shape", "bomb"))
    everything = _messages(model)
    if kind == "operator":
        node = rng.choice(model.graph.node)
        node.op_type = rng.choice(OPERATORS)
        node.domain = rng.choice((node.domain, "", "ai.onnx.ml", "com.microsoft", text(rng).encode("utf-8", "ignore").decode()))
    elif kind == "outside":
        tensor = rng.choice(model.graph.initializer)
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (("location", rng.choice(OUTSIDE)), ("offset", "0"), ("length", str(rng.choice((4, 10**10, -1))))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    elif kind == "shape":
        tensor = rng.choice(model.graph.initializer)
        tensor.dims[:] = [abs(number(rng)) % 2**63 for _ in range(rng.choice((0, 1, 2, 9)))]
    elif kind == "bomb":
        _add_bomb(rng, model, onnx)
    elif kind == "twice":
        message = rng.choice(everything)
        repeated = [(f, v) for f, v in message.ListFields() if _many(f) and f.type == f.TYPE_MESSAGE]
        if repeated:
            values = rng.choice(repeated)[1]
            for inner in list(values) * rng.choice((1, 1, 500)):
                values.add().CopyFrom(inner)
    else:
        _change_field(rng, kind, everything)
    return f"onnx-{kind}", model.SerializeToString()


def _change_field(rng: random.Random, kind: str, everything: list[Any]) -> None:
    wanted = {"text": (9,), "number": (1, 2, 3, 5, 13, 14), "bytes": (12,), "drop": tuple(range(19))}[kind]
    fields = [(m, f) for m in everything for f, _ in m.ListFields() if f.type in wanted]
    if not fields:
        return
    message, field = rng.choice(fields)
    if kind == "drop":
        message.ClearField(field.name)
        return
    value: Any = text(rng).encode("utf-8", "ignore").decode()
    if kind == "number":
        value = number(rng) % 2 ** (31 if field.type in (5, 13, 14) else 63)
        value = float(value) if field.type in (1, 2) else value
    if kind == "bytes":
        value = getattr(message, field.name)
        value = rng.choice((b"", b"\xff" * 64, value[0][:-1] if _many(field) else value[:-1]))
    if _many(field):
        getattr(message, field.name)[rng.randrange(len(getattr(message, field.name)))] = value
    else:
        setattr(message, field.name, value)


def _add_bomb(rng: random.Random, model: Any, onnx: Any) -> None:
    """A node before all others that makes as many numbers as it is told to."""
    size = onnx.helper.make_tensor("bomb_size", 7, [2], [10 ** rng.choice((3, 5, 6)), 10 ** rng.choice((3, 4, 6))])
    model.graph.initializer.append(size)
    node = onnx.helper.make_node("ConstantOfShape", ["bomb_size"], ["bomb"])
    model.graph.node.insert(0, node)
    if rng.random() < 0.5:
        model.graph.node.insert(1, onnx.helper.make_node("ReduceSum", ["bomb"], ["bomb_sum"], keepdims=0))
        last = model.graph.node[-1]
        old = last.output[0]
        last.output[0] = "before_bomb"
        model.graph.node.append(onnx.helper.make_node("Add", ["before_bomb", "bomb_sum"], [old]))


# ---- HDF5


def change_h5(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """An HDF5 file with an attribute, a dataset or a link changed."""
    import h5py
    import numpy as np

    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        kind = rng.choice(("attribute", "attribute", "drop", "dataset", "huge", "link", "outside", "add", "text", "deep"))
        item = file[name]
        if kind == "attribute":
            item = rng.choice([file, *(file[n] for n in names if len(file[n].attrs))])
            key = rng.choice(list(item.attrs) or ["encoding-type"])
            values = (
                _printable(rng),
                number(rng) % 2**31,
                np.zeros(3),
                [b"x"],
                "csr_matrix",
                "dataframe",
                "categorical",
                "awkward-array",
                "array",
            )
            item.attrs[key] = rng.choice(values)
        elif kind == "add":
            file.create_dataset(f"{name}-{rng.randrange(9)}", data=rng.choice((0.0, "x", np.zeros((3, 3)))))
        elif kind == "deep":
            file.create_group("/".join("d" * 500))
        else:
            old = item[()] if isinstance(item, h5py.Dataset) else None
            kept = dict(item.attrs)
            del file[name]
            if kind == "huge":
                shape = rng.choice(((10**9,), (10**5, 10**5), (10**6, 8), (2**31, 8)))
                file.create_dataset(name, shape, "f4", chunks=tuple(min(1000, s) for s in shape), compression="gzip")
            elif kind == "dataset":
                new = (
                    np.zeros(0),
                    np.float64(1),
                    np.full((24, 8), np.nan),
                    "x",
                    np.arange(5),
                    np.array([b"a", b"b"]),
                    np.zeros((24, 8), "c8"),
                )
                file.create_dataset(name, data=rng.choice(new))
            elif kind == "text" or old is None:
                file.create_dataset(name, data=_printable(rng))
            elif kind == "link":
                file[name] = h5py.SoftLink(rng.choice((f"/{name}", "/", "/X", "/nowhere", "/obs")))
            elif kind == "outside":
                file[name] = h5py.ExternalLink(rng.choice(("/etc/passwd", "x.npy", "other.h5", f"../{MARKER}")), "/x")
            if kind != "drop" and name in file and isinstance(file.get(name, getlink=True), h5py.HardLink):
                for key, value in kept.items():
                    file[name].attrs[key] = value
    return f"h5-{kind}", stream.getvalue()


def _printable(rng: random.Random) -> str:
    return text(rng).encode("utf-8", "ignore").decode().replace("\x00", "")[:60000]
