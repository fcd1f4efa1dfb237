"""`klprobe synthetic estimate | minimize`: Gaussians whose KL is known, and a classifier's estimate of it."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Annotated, Any

from klprobe.cli.estimate_flags import Bare
from klprobe.cli.evaluate import WIDTH, columns
from klprobe.cli.flags import parse
from klprobe.cli.layout import table
from klprobe.cli.machine import DeviceName, check_writable, choose_device
from klprobe.cli.output import answer, give
from klprobe.cli.progress import bars
from klprobe.distributions.problems import features_of
from klprobe.rendering import synthetic as report
from klprobe.rendering.files import write_together
from klprobe.runtime.records import Record, keep_record, read_records
from klprobe.synthetic.run import Diverged, run_one
from klprobe.synthetic.settings import PRESETS, Experiment, Preset, Settings, is_cell
from klprobe.types import InputError

RECORDS = "synthetic.jsonl"
KNOWN: dict[Experiment, str] = {
    "estimate": "Keep both Gaussians fixed, and compare what a trained classifier says of their KL with the truth.",
    "minimize": "Let the second Gaussian learn from the classifier, and see whether the true KL falls.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs to make, and where to write the answer."""

    dims: tuple[int, ...] = (1, 10, 100)
    """Dimensions d of the Gaussians, each of which is run."""
    seeds: int = 10
    """Number of runs at each dimension, with seeds 0, 1, ... for the classifier's weights and all draws."""
    preset: Preset = "quick"
    """Values of the settings below that are not given. quick suits one CPU core (a minute a seed), and paper has those of DMVI
    (hours a seed on a GPU)."""
    device: DeviceName = "auto"
    """Device for the networks; auto takes a GPU where there is one."""
    out: Path | None = None
    """Folder to write a figure and synthetic.jsonl to, with one line for each run; a run that is already recorded there is not
    run again. By default nothing is written."""


def run(arguments: list[str]) -> int:
    """Run the command that the first argument names."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        answer("usage: klprobe synthetic estimate | minimize [flags]", "")
        answer(*table(KNOWN.items()))
        answer("", *table([("klprobe synthetic estimate --help", "show the flags")]))
        return 0
    if first not in KNOWN:
        given = f"does not know {first!r}" if first else "needs to be told what to do"
        raise InputError(f"klprobe synthetic {given}: {', '.join(KNOWN)}. See klprobe synthetic --help.")
    experiment: Experiment = "estimate" if first == "estimate" else "minimize"
    runs, settings = _flags(experiment, arguments[1:])
    records = _run(experiment, runs, settings)
    changed = sorted({name for record in records for name in record["changed"]})
    title = f"Synthetic Gaussians, {experiment}, preset {runs.preset}" + (f" but {', '.join(changed)}" if changed else "")
    said = [report.MEANING[experiment], report.remark(records)]
    lines = [title, *columns(report.table(records, experiment)), ""]
    lines += [line for text in said if text for line in textwrap.wrap(text, WIDTH)]

    def write(folder: Path) -> None:
        plot = report.draw(records, experiment, title)
        write_together(folder, ((f"{plot.name}.{kind}", getattr(plot, kind)) for kind in ("png", "svg")))

    give(lambda: answer(*lines), write, runs.out, "records and figure")
    return 0


def _flags(experiment: Experiment, arguments: list[str]) -> tuple[Runs, Settings]:
    """Parse the flags of the runs, and settings, whose defaults are those of the preset that the flags name."""
    text = f"{KNOWN[experiment]}\n\nklprobe synthetic {experiment} --dims 1 10 --seeds 3 --out runs/synthetic"

    def read(preset: Preset) -> Any:
        default = dataclasses.field(default_factory=lambda: Settings(**PRESETS[preset]))
        groups: list[Any] = [("runs", Annotated[Runs, Bare], dataclasses.field(default_factory=Runs))]
        groups.append(("settings", Annotated[Settings, Bare], default))
        kind = dataclasses.make_dataclass("Flags", groups, namespace={"__doc__": text})
        return parse(kind, arguments, prog=f"klprobe synthetic {experiment}")

    flags = read("quick")
    if flags.runs.preset != "quick":
        flags = read(flags.runs.preset)
    return flags.runs, flags.settings


def _run(experiment: Experiment, runs: Runs, settings: Settings) -> list[Record]:
    """Make the records, or read those that are there already; `minimize` also needs the estimations to compare with."""
    if runs.seeds < 1:
        raise InputError(f"There is nothing to run: --seeds must be at least 1; got {runs.seeds}.")
    for dim in runs.dims:
        features_of(dim, settings.features)
    device = choose_device(runs.device)
    if runs.out is not None:
        check_writable(runs.out)
    path = runs.out / RECORDS if runs.out is not None else None
    recorded = read_records(path) if path else []
    kinds: tuple[Experiment, ...] = ("estimate",) if experiment == "estimate" else ("estimate", "minimize")
    cells = [(kind, dim, seed) for seed in range(runs.seeds) for dim in dict.fromkeys(runs.dims) for kind in kinds]
    found: list[Record] = []
    try:
        with bars("all runs", len(cells)) as progress_of:
            for kind, dim, seed in cells:
                progress = progress_of(f"{kind} d = {dim}, seed {seed}")
                record = next((r for r in recorded if is_cell(r, kind, dim, seed, settings)), None)
                if record is None:
                    record = run_one(kind, dim, seed, settings, preset=runs.preset, device=device, progress=progress)
                    if path:
                        keep_record(path, record)
                if experiment == "estimate" and record["diverged"]:
                    raise Diverged(record)
                found.append(record)
    except KeyboardInterrupt as stop:
        kept = f"{len(found)} of {len(cells)} runs are kept in {runs.out}; the same command goes on."
        raise KeyboardInterrupt(f"stopped; {kept if path else 'without --out nothing was kept.'}") from stop
    return found
