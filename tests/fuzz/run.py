"""Harm genuine files, run the program on each, and count what it does.

    python -m tests.fuzz.run --formats npz onnx --mutants 2000 --seed 0 --jobs 2

A run is bad when there is a traceback, an exit status other than 0, 2 and 3, when it takes over 10 s or 1 GB, when a marker
shows that code of the file was run, or when status 0 comes without an answer. `--only I` runs one mutant again and shows what
it said; the harmed files of bad runs are kept in --keep.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from klprobe.cli import main as program
from tests.fuzz.child import MEMORY, Outcome, launch, settle
from tests.fuzz.genuine import FORMATS, Made, variants
from tests.fuzz.mutants import mutate
from tests.fuzz.payloads import MARKER, MODULE, MODULE_SOURCE

VARIANTS = 20
"""Genuine files of a format, unless fewer will do."""
ALLOWED = (0, 2, 3)
LOUD = 20_000
"""Letters of an error message that flood a screen."""


class Result(NamedTuple):
    """One run: which mutant, what was done to which file, and what became of it; `verdict` is empty for a good one."""

    format: str
    seed: int
    index: int
    mutator: str
    harmed: str
    status: int
    verdict: str
    where: str
    seconds: float
    grown: int


def prepare(names: Iterable[str]) -> None:
    """Import all that the runs will need; children are forked from here."""
    import torch

    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    for module in ("cli.estimate", "cli.holes", "cli.evaluate", "cli.train", "rendering.figures"):
        importlib.import_module(f"klprobe.{module}")
    from klprobe import registry

    for kind in registry.KINDS:
        for name in registry.names(kind):
            registry.load(kind, name)
    for name in names:
        for module in FORMATS[name].needs:
            importlib.import_module(module)
    importlib.import_module("klprobe.rendering.files").figures.draw = lambda report: ()  # seconds, after all files are read
    settle()


class _Understood(BaseException):
    """Ends a command as soon as its flags have been read."""


def understand(commands: Iterable[tuple[str, ...]]) -> None:
    """Read the flags of every command before any child does: that takes longer than most harmed files."""
    original, known = tyro.cli, dict[tuple[str, ...], Any]()

    def remember(kind: Any, prog: str, args: Sequence[str], **settings: Any) -> Any:
        known[prog, *args] = original(kind, prog=prog, args=args, **settings)
        raise _Understood

    def recall(kind: Any, prog: str, args: Sequence[str], **settings: Any) -> Any:
        return known[prog, *args] if (prog, *args) in known else original(kind, prog=prog, args=args, **settings)

    tyro.cli = remember
    for command in commands:
        with contextlib.suppress(_Understood):
            program(list(command))
    tyro.cli = recall


def run_one(
    name: str, seed: int, index: int, made: list[tuple[Path, Made]], keep: Path | None = None, show: bool = False
) -> Result:
    """Harm one file, run one command on it, judge; an index below 0 harms nothing."""
    rng = random.Random(f"{name}/{seed}/{index}")
    folder, about = made[abs(index) % len(made)]
    with tempfile.TemporaryDirectory(prefix="klprobe-fuzz-") as scratch:
        here = Path(scratch) / "here"
        shutil.copytree(folder, here)
        (here / f"{MODULE}.py").write_text(MODULE_SOURCE)
        harmed, mutator = rng.choice(about.harmed), "unharmed"
        if index >= 0:
            mutator, content = mutate(rng, harmed, (here / harmed).read_bytes(), settings_only=name == "settings")
            (here / harmed).write_bytes(content)
        command = rng.choice(about.commands)
        before = (here / harmed).read_bytes()
        outcome = launch(command, here)
        if outcome.late:  # the machine may have been busy with other work
            (here / harmed).write_bytes(before)
            outcome = launch(command, here)
        verdict = judge(outcome, here, command)
        if index < 0 and not verdict and outcome.status not in (0, 3):
            verdict = "a genuine file is refused"
        if verdict and keep is not None:
            target = keep / f"{name}-{seed}-{index}"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(here, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            (target / harmed).write_bytes(before)
            (target / ".command").write_text(json.dumps(command))
        if show:
            print(
                f"{name} {seed} {index}: {mutator} on {harmed}: {' '.join(command)}\n{outcome.out[:2000]}{outcome.err[-6000:]}"
            )
            print(f"status {outcome.status}, {outcome.seconds:.1f} s, {outcome.grown >> 20} MB more; {verdict or 'good'}")
        return Result(
            name, seed, index, mutator, harmed, outcome.status, verdict, _where(outcome), outcome.seconds, outcome.grown
        )


def judge(outcome: Outcome, folder: Path, command: Sequence[str]) -> str:
    """What is bad about a run, in a few words; empty when nothing is."""
    if any((place / MARKER).exists() for place in (folder, folder.parent)):
        return "code of the file was run"
    if outcome.late:
        return "over 10 s"
    if outcome.status < 0:
        return f"signal {-outcome.status}"
    if "Traceback (most recent call last)" in outcome.err:
        return "traceback"
    if outcome.status not in ALLOWED:
        return f"exit status {outcome.status}"
    if outcome.grown > MEMORY:
        return "over 1 GB"
    if outcome.status == 2 and not re.search("^klprobe: .", outcome.err, re.MULTILINE):
        return "no reason given"
    if len(outcome.err) > LOUD:
        return "a flood of words"
    if outcome.status == 0 and not _answered(outcome.out, folder, command):
        return "status 0 without an answer"
    return ""


def _answered(out: str, folder: Path, command: Sequence[str]) -> bool:
    if "--json" not in command:
        return bool(out.strip()) and (folder / out.strip().splitlines()[-1]).exists()
    try:
        return bool(json.loads(out, parse_constant=_refuse))
    except ValueError:
        return False


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _where(outcome: Outcome) -> str:
    """The last words of a traceback, and the line of klprobe that it went through last; else the reason that was given."""
    lines = outcome.err.strip().splitlines()
    ours = [line for line in lines if "/klprobe/" in line and "File " in line and "site-packages" not in line]
    at = re.search(r'klprobe/([\w/]+\.py)"?, line (\d+)', ours[-1]) if ours else None
    said = (lines[-1] if lines else "")[:160]
    return (f"{at[1]}:{at[2]}: " if at else "") + said


def _work(args: argparse.Namespace) -> Iterator[Result]:
    """This process's share of all runs."""
    share, shares = map(int, args.share.split("/"))
    for name in args.formats:
        prepare([name])
        with tempfile.TemporaryDirectory(prefix="klprobe-genuine-") as folder:
            made = variants(name, Path(folder), args.variants)
            understand({command for _, about in made for command in about.commands})
            settle()
            indices = [-1 - i for i in range(args.variants)] * args.unharmed + list(range(args.mutants))
            for index in indices if args.only is None else [args.only]:
                if index % shares == share:
                    yield run_one(name, args.seed, index, made, args.keep, args.only is not None)


def table(results: Sequence[Result]) -> str:
    """Counts for each format, then for each mutator, then every cause of bad runs with one index to run again."""
    lines = [f"{'format':<14}{'runs':>7}{'answer':>8}{'refused':>9}{'check':>7}{'bad':>6}{'ms each':>9}{'MB most':>9}"]
    for name in dict.fromkeys(r.format for r in results):
        some = [r for r in results if r.format == name]
        count = collections.Counter("bad" if r.verdict else r.status for r in some)
        mean, most = sum(r.seconds for r in some) / len(some) * 1000, max(r.grown for r in some) >> 20
        lines.append(f"{name:<14}{len(some):>7}{count[0]:>8}{count[2]:>9}{count[3]:>7}{count['bad']:>6}{mean:>9.0f}{most:>9}")
    lines += ["", f"{'mutator':<32}{'runs':>7}{'bad':>6}"]
    for mutator, runs in sorted(collections.Counter(r.mutator for r in results).items()):
        lines.append(f"{mutator:<32}{runs:>7}{sum(r.mutator == mutator and bool(r.verdict) for r in results):>6}")
    causes: dict[tuple[str, ...], list[Result]] = collections.defaultdict(list)
    for result in results:
        if result.verdict:
            causes[result.format, result.verdict, re.sub(r"\d+", "N", result.where)[:90]].append(result)
    lines += ["", "Bad runs, by cause"]
    for (name, verdict, _), some in sorted(causes.items(), key=lambda item: (item[0][0], -len(item[1]))):
        indices = ", ".join(str(r.index) for r in some[:4])
        lines.append(f"{len(some):>5}  {name}: {verdict}: {some[0].where} [{some[0].mutator}; --only {indices}]")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 1 when a run was bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--mutants", type=int, default=100, help="harmed files of each format")
    parser.add_argument("--variants", type=int, default=VARIANTS, help="genuine files of each format")
    parser.add_argument("--unharmed", type=int, default=1, help="how often each genuine file is run as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="worker processes")
    parser.add_argument("--only", type=int, help="run one mutant alone, and show it")
    parser.add_argument("--keep", type=Path, help="folder for the harmed files of bad runs")
    parser.add_argument("--results", type=Path, help="file of one line of JSON a run")
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.keep is None:
        args.keep = Path(tempfile.mkdtemp(prefix="klprobe-fuzz-bad-"))
    results = _in_processes(args) if args.jobs > 1 and args.only is None else _here(args)
    if args.share == "0/1" and args.only is None:
        print(table(results))
        print(f"\nThe harmed files of bad runs are in {args.keep}.")
    return int(any(r.verdict for r in results))


def _here(args: argparse.Namespace) -> list[Result]:
    results = []
    for result in _work(args):
        results.append(result)
        if args.results is not None:
            with args.results.open("a") as file:
                file.write(json.dumps(result) + "\n")
    return results


def _in_processes(args: argparse.Namespace) -> list[Result]:
    """The same by several processes, each with its share of the indices."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jsonl" for i in range(args.jobs)]
        same: list[Any] = [
            "--mutants",
            args.mutants,
            "--variants",
            args.variants,
            "--unharmed",
            args.unharmed,
            "--seed",
            args.seed,
        ]
        same += ["--keep", args.keep, "--formats", *args.formats]
        command = [sys.executable, "-m", "tests.fuzz.run"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        workers = [
            subprocess.Popen(
                [*command, "--share", f"{i}/{args.jobs}", "--results", str(file), *map(str, same)], env=environment
            )
            for i, file in enumerate(files)
        ]
        for worker in workers:
            worker.wait()
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    if args.results is not None:
        args.results.write_text("\n".join(lines))
    return sorted((Result(*json.loads(line)) for line in lines), key=lambda r: (args.formats.index(r.format), r.index))


if __name__ == "__main__":
    sys.exit(main())
