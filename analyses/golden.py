"""Golden numbers: every number that small, fixed commands give, so that a rearranged klprobe can be held to the old bits.

python -m analyses.golden --out before.json
python -m analyses.golden --compare before.json after.json

Run it in the root of a checkout. It knows klprobe by its command line and by the names that README shows, and nothing else
of it, so that the same cases run before a change and after it. Bits are those of one machine and one set of versions.
Exit codes: 0 all cases ran, or all numbers are equal; 1 a case failed, or numbers differ; 2 cases are missing.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from analyses.machinery import golden_cases
from analyses.machinery.golden_cases import Case, first_cases, later_cases, make_inputs

Numbers = dict[str, str]
"""From the path of a key, as `report.json.estimates[0].value`, to the `repr` of its number, or to a SHA-256."""

WORKERS = 2
TIMEOUT = 600
"""Seconds after which a command has failed."""
ANSWERS = (0, 3)
"""Exit codes that klprobe gives with an answer: 3 says that a check of the answer failed, as it may after so few steps."""
LEFT_OUT = re.compile(r"(\w+_)?seconds|date|commit|versions|command|input|path")
"""Names of what may differ between two runs, or two places, of the same code; all below such a name is left out."""
WORDS = frozenset({"bound", "method", "quantity", "target", "verdict"})
"""Names of texts that are part of the answer; all others may be reworded."""
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class Digest(str):
    """SHA-256 of what is too long to be written down."""


class Failed(Exception):
    """A case gave no numbers, and why."""


def numbers(value: Any, key: str = "", name: str = "") -> Iterator[tuple[str, str]]:
    """(path of the key, repr) of every number, truth value and word of the answer in a document.

    Raises:
        Failed: the document says that something was not done.
    """
    if isinstance(value, Mapping):
        for inner, entry in value.items():
            if inner == "not_done" and entry:
                raise Failed(f"{key}: not done: {entry}")
            if not LEFT_OUT.fullmatch(str(inner)):
                yield from numbers(entry, f"{key}.{inner}" if key else str(inner), str(inner))
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from numbers(entry, f"{key}[{i}]", name)
    elif isinstance(value, bool | int | float | Digest) or (isinstance(value, str) and name in WORDS):
        yield key, repr(value)


def of_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file, numbers as numbers."""
    with path.open(newline="") as file:
        return [{name: as_number(text) for name, text in row.items()} for row in csv.DictReader(file)]


def as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def of_array(array: np.ndarray) -> Digest:
    """Of type, shape and bytes."""
    said = f"{array.dtype} {array.shape} ".encode()
    return Digest(hashlib.sha256(said + np.ascontiguousarray(array).tobytes()).hexdigest())


def of_tensor(tensor: torch.Tensor) -> Digest:
    """The same of any type, bfloat16 included."""
    said = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return Digest(hashlib.sha256(said + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest())


def of_arrays(path: Path) -> dict[str, Digest]:
    with np.load(path) as arrays:
        return {name: of_array(arrays[name]) for name in arrays.files}


def of_pixels(path: Path) -> Digest:
    with Image.open(path) as image:
        return of_array(np.asarray(image))


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".csv": of_table,
    ".npz": of_arrays,
    ".png": of_pixels,
    ".safetensors": lambda path: {name: of_tensor(tensor) for name, tensor in load_file(path).items()},
}
"""How files that cases leave are read; other files (.html, .svg) show the same numbers once more."""


def of_folder(folder: Path) -> Numbers:
    """Numbers of all files in a folder, under their names."""
    found: Numbers = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in READERS:
            found |= dict(numbers(READERS[path.suffix](path), str(path.relative_to(folder))))
    return found


def run_case(case: Case, work: Path, root: Path) -> Numbers:
    """Run the commands of a case.

    Raises:
        Failed: a command gave no answer or named something not done, or the case has no number.
    """
    out = work / case.name
    out.mkdir(parents=True)
    found: Numbers = {}
    for i, command in enumerate(case.commands):
        code, stdout = run_command(shlex.split(command.replace("{out}", case.name)), work, root)
        found[f"exit[{i}]"] = repr(code)
        if stdout.startswith("{"):
            found |= dict(numbers(json.loads(stdout), f"stdout[{i}]"))
    answers = of_folder(out) | found
    if len(answers) == len(case.commands):
        raise Failed("it gave no number")
    return dict(sorted(answers.items()))


def run_command(words: list[str], work: Path, root: Path) -> tuple[int, str]:
    """Exit code and stdout of klprobe, or of a function of the library, on one thread and without data of this machine."""
    library = ["-P", str(golden_cases.__file__), *words[1:]]
    start = library if words[0] == "library" else ["-m", "klprobe", *words]
    hidden = {"KLPROBE_DATA": str(work / "data"), "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100", "MPLBACKEND": "agg"}
    paths = os.pathsep.join([str(root), str(work)])
    env = os.environ | ONE_THREAD | hidden | {"PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run([sys.executable, *start], cwd=work, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words[:2])} took more than {TIMEOUT} s") from None
    if done.returncode not in ANSWERS:
        last = (done.stderr.strip() or "no word on stderr").splitlines()[-1]
        raise Failed(f"{' '.join(words[:2])} gave exit code {done.returncode}: {last}")
    return done.returncode, done.stdout


def listed(work: Path, root: Path) -> tuple[list[str], list[str]]:
    """Methods and systems that `klprobe list` names."""
    names: dict[str, list[str]] = {}
    heading = ""
    for line in filter(str.strip, run_command(["list"], work, root)[1].splitlines()):
        first = line.split()[0]
        heading = heading if line.startswith("  ") else first
        if line.startswith("  "):
            names.setdefault(heading, []).append(first)
    return names["methods"], names.get("systems") or names["trainers"]  # the word of earlier versions


def run_all(root: Path) -> tuple[dict[str, Numbers], list[str]]:
    """Numbers of each case, and the names of those that failed."""
    found: dict[str, Numbers] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        work = Path(folder)
        make_inputs(work)
        rounds = first_cases(*listed(work, root)), later_cases()
        total = sum(map(len, rounds))

        def run(case: Case) -> None:
            started = time.monotonic()
            try:
                found[case.name] = run_case(case, work, root)
                said = f"{len(found[case.name])} numbers, {digest(found[case.name])[:12]}"
            except (Failed, OSError, ValueError) as error:
                failed.append(case.name)
                said = f"FAILED: {error}"
            seconds = time.monotonic() - started
            print(f"[{len(found) + len(failed)}/{total}] {case.name}: {seconds:.0f} s, {said}", file=sys.stderr, flush=True)

        for cases in rounds:
            list(pool.map(run, cases))
    return dict(sorted(found.items())), sorted(failed)


def digest(value: Any) -> str:
    """SHA-256 of a document in JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Numbers], after: Mapping[str, Numbers]) -> tuple[list[str], list[str]]:
    """Lines about cases that only one of the two has, and about keys that differ, or that only one of the two has."""
    lone = [f"{case}: only {'before' if case in before else 'after'}" for case in sorted(before.keys() ^ after.keys())]
    differing = [
        f"{case} {key}: {before[case].get(key, 'missing')} -> {after[case].get(key, 'missing')}"
        for case in sorted(before.keys() & after.keys())
        for key in sorted(before[case].keys() | after[case].keys())
        if before[case].get(key) != after[case].get(key)
    ]
    return lone, differing


def main(argv: list[str] | None = None) -> int:
    """Run the cases, or compare two runs."""
    parser = argparse.ArgumentParser(prog="python -m analyses.golden", description=str(__doc__).splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="run all cases, and write their numbers to this file")
    task.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="print what differs between two files")
    flags = parser.parse_args(argv)
    if flags.compare:
        try:
            before, after = (json.loads(path.read_text())["cases"] for path in flags.compare)
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"--compare needs two files of --out ({type(error).__name__}: {error}).")
        lone, differing = differences(before, after)
        print("\n".join([*lone, *differing, f"{len(lone)} cases are missing, {len(differing)} keys differ"]))
        return 2 if lone else 1 if differing else 0
    root = Path.cwd()
    if not (root / "klprobe" / "__main__.py").exists():
        parser.error("run it in the root of a checkout of klprobe.")
    found, failed = run_all(root)
    hashes = {case: digest(values) for case, values in found.items()}
    total = digest(hashes)
    flags.out.write_text(json.dumps({"total": total, "hashes": hashes, "cases": found}, indent=1) + "\n")
    print("\n".join([*(f"{value}  {case}" for case, value in hashes.items()), f"{total}  total of {len(found)} cases"]))
    if failed:
        print(f"{len(failed)} cases failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
