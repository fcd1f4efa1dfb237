"""`klprobe data list | fetch | show`: which data sets are here, how to get the others, and what is in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from klprobe import registry
from klprobe.cli.flags import parse
from klprobe.cli.layout import paragraphs, table
from klprobe.cli.output import answer, answer_json
from klprobe.cli.progress import bar
from klprobe.cli.source import read_dataset
from klprobe.datasets import Dataset, data_root, dataset
from klprobe.estimation.report import as_json
from klprobe.files.downloads import fetch
from klprobe.files.images import has_picture
from klprobe.printable import short
from klprobe.rendering.pictures import save_rows
from klprobe.training.data import Data
from klprobe.types import InputError

BLOCK = 10_000
"""Number of points read at a time."""
SHOWN_CLASSES = 20
SETTINGS = """The name of a data set can carry settings, here and in klprobe train: mnist:validation=5000,
cifar-10:flip:shift=4, photos:resize=64. When a setting is wrong, the error message lists the settings that the data set has."""


@dataclass(frozen=True, kw_only=True)
class ListFlags:
    """List the data sets: where each is on this machine, or how to get it.

    klprobe data list --data-root DIR
    """

    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""
    json: bool = False
    """Print the answer as one JSON document."""


@dataclass(frozen=True, kw_only=True)
class FetchFlags:
    """Download the original files of data sets, and check their SHA-256. An interrupted download continues where it stopped.

    klprobe data fetch mnist cifar-10 --data-root DIR
    """

    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""


@dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """Write a picture of some points of a data set, and print its shape, counts, classes and range.

    klprobe data show mnist --split test
    klprobe data show photos --out photos.png
    """

    split: Literal["train", "validation", "test", "all"] = "train"
    """Part of the data set to show. validation is for data sets that have such a part, as celeba or digits:validation=100."""
    num: int | None = None
    """Number of data points in the picture, evenly spread over the split; by default 64 images, or 2,500 points of the
    plane."""
    out: Path | None = None
    """PNG file to write; by default NAME.png in the current folder."""
    strict: bool = False
    """Stop at an image file that cannot be decoded; otherwise such images are left out."""
    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""
    json: bool = False
    """Print the answer as one JSON document."""


def run(arguments: list[str]) -> int:
    """Run the command that the first argument names."""
    known: dict[str, tuple[Callable[[list[str]], None], str]] = {
        "list": (_list, "List the data sets: where each is on this machine, or how to get it."),
        "fetch": (_fetch, "Download data sets: klprobe data fetch mnist cifar-10"),
        "show": (
            _show,
            "Write a picture of a data set, and print its shape, counts, classes and range: klprobe data show mnist",
        ),
    }
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        answer("usage: klprobe data list | fetch NAME ... | show NAME", "")
        answer(*table((name, line) for name, (_, line) in known.items()))
        answer("", *table([("klprobe data show --help", "show the flags of one of them")]), "")
        answer(*paragraphs(SETTINGS))
        return 0
    if first not in known:
        given = f"does not know {short(first)}" if first else "needs to be told what to do"
        raise InputError(f"klprobe data {given}: {', '.join(known)}. See klprobe data --help.")
    known[first][0](arguments[1:])
    return 0


def _list(arguments: list[str]) -> None:
    flags = parse(ListFlags, arguments, prog="klprobe data list")
    rows = [_row(name, flags.data_root) for name in registry.names("datasets")]
    if flags.json:
        answer_json(as_json(rows, indent=1))
        return
    lines = [f"{row['name']:<14} {row['state']:<8} {row['where'] or ''}".rstrip() for row in rows]
    answer(f"in {data_root(flags.data_root).resolve()} (--data-root, KLPROBE_DATA)", *lines)


def _row(name: str, root: Path | None) -> dict[str, Any]:
    """Make a row with a data set's name, whether it is here, and where it is or how to get it."""
    chosen = registry.create("datasets", name)
    if chosen.path == "":
        return {"name": name, "state": "yours", "where": registry.describe("datasets", name)}
    try:
        where = chosen.locate(root)
        if where is None:
            return {"name": name, "state": "built in", "where": registry.describe("datasets", name)}
        return {"name": name, "state": "here" if chosen.whole(root) else "partial", "where": str(where.resolve())}
    except InputError:
        remedy = f"klprobe data fetch {name}" + ("" if chosen.downloads else " says what to put where")
        return {"name": name, "state": "missing", "where": remedy}


def _fetch(arguments: list[str]) -> None:
    names, rest = _names(arguments)
    flags = parse(FetchFlags, rest, prog="klprobe data fetch NAME ...")
    if not names:
        raise InputError(
            "klprobe data fetch needs the names of data sets, and got none. klprobe data list shows which are missing."
        )
    wanted: dict[str, Dataset] = {name: registry.create("datasets", name) for name in names}
    for name, chosen in wanted.items():
        if not chosen.downloads:
            chosen.locate(flags.data_root)  # raises InputError, which says what to put where
            answer(f"{name} needs no download.")
        for download in chosen.downloads:
            with bar(download.path) as progress:
                path = fetch(download, data_root(flags.data_root), progress)
            answer(path)


def _show(arguments: list[str]) -> None:
    names, rest = _names(arguments)
    flags = parse(ShowFlags, rest, prog="klprobe data show NAME")
    if len(names) != 1:
        raise InputError(
            f"klprobe data show needs the name of one data set, a folder of images, or a .npy or .npz file; got {len(names)}."
        )
    if flags.num is not None and flags.num < 1:
        raise InputError(f"--num needs at least 1 data point; got {flags.num}.")
    chosen = dataset(names[0])
    if flags.strict:
        if chosen.strict is None:
            raise InputError(f"--strict is for data sets of image files; {names[0]} is not one of them.")
        chosen = replace(chosen, strict=True)  # type: ignore[type-var]
    data = read_dataset(chosen, names[0], flags.split, flags.data_root)
    facts = describe(data)
    if has_picture(data.shape):
        num = min(flags.num or (2500 if data.shape == (2,) else 64), len(data))
        which = torch.linspace(0, len(data) - 1, num, dtype=torch.float64).round().long()
        out = flags.out or Path(f"{Path(names[0]).stem.replace(':', '-')}.png")
        save_rows(out, {data.name: _shown(data, which, facts["range"])})
        facts["picture"] = str(out)
    if flags.json:
        answer_json(as_json(facts, indent=1))
    else:
        answer(*_lines(facts))


def _shown(data: Data, which: torch.Tensor, found: list[float]) -> torch.Tensor:
    """Prepare points for drawing: images, and vectors that fill a square, from black at their least value to white."""
    x, (low, high) = data.floats(which), found
    if data.stored.dtype == torch.uint8 or data.shape == (2,) or 0 <= low <= high <= 1:
        return x
    return (x - low) / (high - low)


def _names(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into those before the first flag, and the rest."""
    first = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def describe(data: Data) -> dict[str, Any]:
    """Collect name, split, number, shape and type of the points, their range, mean and spread, and the counts of classes.

    Mean and spread are over all numbers, in float64, a block of points at a time.
    """
    low, high, count, total, squares = math.inf, -math.inf, 0, 0.0, 0.0
    for block in _blocks(data):
        low, high = min(low, block.min().item()), max(high, block.max().item())
        count, total = count + block.numel(), total + block.sum().item()
    mean = total / count
    for block in _blocks(data):
        squares += (block - mean).square().sum().item()
    labels = data.labels
    classes = None
    if labels is not None:
        classes = {str(label): number for label, number in enumerate(labels.bincount().tolist()) if number}
    return {
        "name": data.name,
        "split": data.split,
        "num_points": len(data),
        "shape": list(data.shape),
        "dtype": str(data.stored.dtype).removeprefix("torch."),
        "range": [low, high],
        "mean": mean,
        "std": math.sqrt(squares / count),
        "classes": classes,
    }


def _blocks(data: Data) -> Iterator[torch.Tensor]:
    return (data.points(slice(start, start + BLOCK)).double() for start in range(0, len(data), BLOCK))


def _lines(facts: dict[str, Any]) -> list[str]:
    shape = " x ".join(map(str, facts["shape"]))
    lines = [f"{facts['name']} ({facts['split']}): {facts['num_points']:,} points of shape {shape}, {facts['dtype']}"]
    low, high = facts["range"]
    lines.append(f"range    {low:g} to {high:g}, mean {facts['mean']:.4g}, standard deviation {facts['std']:.4g}")
    classes = facts["classes"]
    if classes is not None:
        some = [f"{name}: {number:,}" for name, number in list(classes.items())[:SHOWN_CLASSES]]
        more = f"  and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""
        lines.append(f"classes  {len(classes)}; {'  '.join(some)}{more}")
    lines.append(f"picture  {facts['picture']}" if "picture" in facts else f"picture  none: points of shape {shape} have none")
    return lines
