"""Surgery on texts: JSON documents, comma-separated values, and programs."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from tests.fuzz.payloads import number, text

Path = tuple[Any, ...]
RAW_JSON = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-999",
    "9" * 5000,
    "1" + "0" * 400,
    "1." + "0" * 5000,
    "[" * 10**5 + "]" * 10**5,
    '{"a":' * 10**5 + "1" + "}" * 10**5,
    "[" * 900 + "]" * 900,
    '"\\ud800"',
    '"\\u0000"',
    "nul",
    "'x'",
    "",
    "[" + "1," * 10**5 + "1]",
    '{"a": 1, "a": 2}',
    "True",
    "0x10",
    "{}{}",
)


def places(value: Any, path: Path = ()) -> list[Path]:
    """Paths of every value inside, the whole one first."""
    found = [path]
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        found += places(inner, (*path, key))
    return found


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def put(value: Any, path: Path, new: Any) -> Any:
    """The value with another one at the path."""
    if not path:
        return new
    at(value, path[:-1])[path[-1]] = new
    return value


def other_value(rng: random.Random, old: Any, document: Any) -> Any:
    """What may stand in a value's place: of its type and wrong, or of another type."""
    similar: Any = text(rng)
    if isinstance(old, str) and old and rng.random() < 0.3:
        similar = rng.choice((old + similar, similar + old, old * 1000, old[:-1], old.upper(), old[::-1]))
    elif isinstance(old, int) and not isinstance(old, bool):
        similar = rng.choice((number(rng), old + 1, old - 1, old * 2, -old, float(old), str(old), [old]))
    elif isinstance(old, float):
        similar = rng.choice((-old, 0.0, 1e308, 1e-308, old * 1e6, number(rng)))
    elif isinstance(old, list):
        similar = rng.choice(([], old + old, old[:-1], old[::-1], [old], old * 1000, [number(rng) for _ in old]))
    elif isinstance(old, dict):
        similar = rng.choice(({}, list(old), [old], {**old, text(rng): number(rng)}, dict.fromkeys(old)))
    elif isinstance(old, bool):
        similar = not old
    others = (None, True, number(rng), 0.5, text(rng), [], {}, [number(rng)], {text(rng): text(rng)}, [text(rng)] * 3)
    elsewhere = at(document, rng.choice(places(document)))
    return similar if rng.random() < 0.6 else rng.choice((*others, json.loads(json.dumps(elsewhere))))


def change_value(rng: random.Random, document: Any) -> tuple[str, Any]:
    """One change at one place of a JSON value."""
    path = rng.choice(places(document)[1:] or [()])
    kind = rng.choice(("value", "value", "value", "payload", "payload", "number", "drop", "rename", "add"))
    holder = at(document, path[:-1]) if path else None
    if kind == "payload" and rng.random() < 0.8:
        leaves = [p for p in places(document) if isinstance(at(document, p), str)]
        path = rng.choice(leaves) if leaves else path
    if kind == "drop" and path:
        del holder[path[-1]]
        return kind, document
    if kind == "rename" and path and isinstance(holder, dict):
        holder[text(rng)] = holder.pop(path[-1])
        return kind, document
    if kind == "add":
        into = rng.choice([p for p in places(document) if isinstance(at(document, p), dict | list)] or [()])
        container = at(document, into)
        if isinstance(container, dict):
            container[text(rng)] = rng.choice((number(rng), text(rng), None, []))
            return kind, document
        if isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), rng.choice((number(rng), text(rng), None, [])))
            return kind, document
    if kind == "number":
        numbers = [p for p in places(document) if isinstance(at(document, p), int | float)]
        return kind, put(document, rng.choice(numbers), number(rng)) if numbers else document
    new = text(rng) if kind == "payload" else other_value(rng, at(document, path), document)
    return kind, put(document, path, new)


def change_json(rng: random.Random, content: str) -> tuple[str, str]:
    """A JSON text with one to three values changed, or with text in a value's place that json.dumps would not write."""
    document = json.loads(content)
    if rng.random() < 0.25:
        path = rng.choice(places(document))
        document = put(document, path, "@@here@@")
        return "json-raw", json.dumps(document).replace('"@@here@@"', rng.choice(RAW_JSON))
    if rng.random() < 0.06 and isinstance(document, dict) and document:
        key = rng.choice(list(document))
        twice = f"{json.dumps(key)}: {json.dumps(other_value(rng, document[key], document))}"
        whole = json.dumps(document)
        return "json-twice", whole[:-1] + ", " + twice + "}"
    kind = "value"
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind, document = change_value(rng, document)
    return f"json-{kind}", json.dumps(document)


# ---- comma-separated values

CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e9",
    "1" * 5000,
    "x" * 200_000,
    "٣",
    "²",
    "1_0",
    " 1",
    "0x1",
    "1.0",
    "\x00",
    '"',
    "=1+1",
    "é",
)


def change_csv(rng: random.Random, content: str) -> tuple[str, str]:
    """A table with cells, rows or lines that no run writes."""
    rows = [line.split(",") for line in content.splitlines()]
    row = rng.choice(rows)
    kind = rng.choice(("cell", "cell", "cell", "short", "long", "order", "twice", "header", "quote", "blank", "ends", "wide"))
    if kind == "cell":
        row[rng.randrange(len(row))] = rng.choice((*CELLS, text(rng), str(number(rng))))
    elif kind == "short":
        del row[rng.randrange(len(row)) :]
    elif kind == "long":
        row += [text(rng)] * rng.choice((1, 3))
    elif kind == "order":
        rng.shuffle(rows)
    elif kind == "twice":
        rows += [list(row) for _ in range(rng.choice((1, 1000)))]
    elif kind == "header":
        rows = rng.choice((rows[1:], rows[:1], [rows[0], *rows], [["step"], *rows[1:]], []))
    elif kind == "quote":
        row[rng.randrange(len(row))] = '"'
    elif kind == "blank":
        rows.insert(rng.randrange(len(rows) + 1), rng.choice(([], [""], [" "], [","])))
    elif kind == "wide":
        row += ["1"] * 10**5
    end = rng.choice(("\r", "\n\r", "\x0b", "\u2028", ";")) if kind == "ends" else "\n"
    return f"csv-{kind}", end.join(",".join(row) for row in rows) + end


# ---- programs, such as TorchScript's

WORD = re.compile(r"[A-Za-z_][\w.]*|\d+(?:\.\d+)?|\"[^\"]*\"")


def change_program(rng: random.Random, content: str) -> tuple[str, str]:
    """Source text with a name, number, string or line changed."""
    lines = content.splitlines()
    kind = rng.choice(("word", "word", "word", "line", "swap", "deep", "payload"))
    if kind == "line" and lines:
        lines.insert(rng.randrange(len(lines)), rng.choice((rng.choice(lines), "", "  " + text(rng), "import os")))
        return "code-line", "\n".join(lines)
    if kind == "swap" and lines:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
        return "code-swap", "\n".join(lines)
    words = list(WORD.finditer(content))
    if not words:
        return "code-payload", content + text(rng)
    word = rng.choice(words)
    deep = rng.choice((10**3, 10**5))
    new = {
        "word": rng.choice((rng.choice(words)[0], str(number(rng)), "torch.save", "torch.from_file", "ops.aten.add")),
        "deep": rng.choice(("(" * deep + word[0] + ")" * deep, "[" * deep, "-" * deep + word[0], "(" * deep)),
    }.get(kind, text(rng))
    return f"code-{kind}", content[: word.start()] + new + content[word.end() :]
