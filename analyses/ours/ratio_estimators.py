"""Every estimator that needs samples alone, on pairs of distributions whose KL is known: median, range and seconds of CPU.

python -m analyses.ours.ratio_estimators                  # run what is not recorded yet, then print the table
python -m analyses.ours.ratio_estimators --table          # the table, from the records alone
python -m analyses.ours.ratio_estimators --only paper-100/denoising --seeds 5
python -m analyses.ours.ratio_estimators --quick          # two small cells, recorded nowhere

Cases: `paper-D` are DMVI's pairs of Gaussians, W and b of standard normal entries, k = 10 D; `warped-D` are such pairs divided
by sqrt(k) and sent through asinh(2 x), then x_d + 0.3 x_(d-1), which leaves the KL as it is; `same-D` are draws of one such
Gaussian twice. No method is told a density. Each cell is one fit with the package's defaults on one torch thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from analyses.machinery.machine import machine
from klprobe import registry
from klprobe.distributions.problems import Pair, paper_gaussian, paper_pair, two_samples, warped
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import keep_record, read_records
from klprobe.types import InputError

RECORDS = Path(__file__).parent / "results" / "records" / "ratio_estimators.jsonl"
GOALS = {
    "paper-1": ("nats", 0.02),
    "paper-10": ("nats", 0.02),
    "paper-100": ("share", 0.03),
    "paper-1000": ("share", 0.10),
    "warped-10": ("share", 0.10),
    "warped-100": ("share", 0.10),
    **{f"same-{dim}": ("nats", 0.01) for dim in (1, 10, 100, 1000)},
}
"""Largest error of the median, in nats or as a share of the truth."""
BEST = {
    "paper-1": ("classifier",),
    "paper-10": ("classifier", "telescoping"),
    "paper-100": ("denoising", "telescoping", "classifier"),
    "paper-1000": ("denoising",),
    "warped-10": ("gaussianized",),
    "warped-100": ("gaussianized",),
    "same-1": ("classifier",),
    "same-10": ("classifier",),
    "same-100": ("denoising",),
    "same-1000": ("denoising",),
}
"""Methods that get all seeds first."""
METHODS = ("classifier", "gaussianized", "telescoping", "denoising", "critic", "least-squares", "knn")
SLOW = {
    ("least-squares", 1000): "it misses much of the KL in fewer latents already",
    ("knn", 1000): "it misses most of the KL in fewer latents already",
    ("critic", 1000): "the classifier's form of 10^6 weights, under a loss that ends at log n",
    ("gaussianized", 1000): "the search for independent components of a thousand latents takes longer than all other methods",
    ("telescoping", 1000): "a step of 32 links with a form of 10^6 weights each takes seconds, and a fit thousands of steps",
}
"""Left out, with the reason."""


def pair_of(case: str, seed: int) -> Pair:
    """The two distributions of one case and seed."""
    kind, _, dim = case.partition("-")
    generator = torch.Generator().manual_seed(1000 + seed)
    if kind == "same":
        one = paper_gaussian(int(dim), generator=generator)
        return Pair(one, one, 0.0)
    pair = paper_pair(int(dim), generator=generator, unit_scale=kind == "warped")
    return warped(pair, "asinh-mix") if kind == "warped" else pair


def cells(seeds: int) -> list[tuple[str, str, int]]:
    """(case, method, seed) in the order they are run: the best methods' seeds, then everything once, then the rest."""
    best = [(case, method, seed) for case, methods in BEST.items() for method in methods for seed in range(seeds)]
    rest = [
        (case, method, seed)
        for seed in range(seeds)
        for case in GOALS
        for method in METHODS
        if (method, int(case.partition("-")[2])) not in SLOW
    ]
    return list(dict.fromkeys(best + rest))


def run(case: str, method: str, seed: int, **settings: Any) -> dict[str, Any]:
    """One record."""
    pair = pair_of(case, seed)
    problem = two_samples(pair)
    estimator = registry.load("estimators", method)(**settings)
    started = time.process_time()
    record: dict[str, Any] = {"case": case, "method": method, "seed": seed, "truth": pair.kl}
    try:
        found = estimator.estimate(problem.posterior, problem.prior, generator=torch.Generator().manual_seed(seed))
    except InputError as error:
        record["failed"] = str(error)
        found = ()
    record["cpu_seconds"] = round(time.process_time() - started, 1)
    record["estimates"] = {
        e.quantity: {"value": e.value, "std_error": e.std_error, "bound": e.bound} for e in found if e.target == "population"
    }
    facts = {
        k: v for e in found for k, v in e.details.items() if k in ("chosen_step", "steps_done", "links", "calibration_after")
    }
    versions_of = {name: version for name, version in versions().items() if name in ("klprobe", "torch", "numpy")}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"machine": machine(), "commit": commit(), "versions": versions_of, "time": when}
    return record | {"settings": settings, "facts": facts} | made


def headline(record: dict[str, Any]) -> dict[str, Any] | None:
    """The number that a method is judged by: its plain estimate, `kl` or `mean-logit`."""
    estimates = record["estimates"]
    return estimates.get("kl") or estimates.get("mean-logit")


def table(records: list[dict[str, Any]]) -> str:
    """One row for each case and method, errors in nats or per cent of the truth as the case's goal is."""
    lines = [
        "| case | true KL | goal | method | seeds | median error | range | reported error | lower bound below truth | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, (unit, goal) in GOALS.items():
        for method in METHODS:
            rows = [r for r in records if (r["case"], r["method"]) == (case, method) and not r["settings"]]
            if rows:
                lines.append(_row(case, unit, goal, method, rows))
    return "\n".join(lines)


def _row(case: str, unit: str, goal: float, method: str, rows: list[dict[str, Any]]) -> str:
    truths = [r["truth"] for r in rows]
    truth = f"{min(truths):.3g}" if max(truths) - min(truths) < 1e-9 else f"{min(truths):.3g} to {max(truths):.3g}"
    seconds = f"{statistics.median(r['cpu_seconds'] for r in rows):.0f}"
    limit = f"{goal:g} nats" if unit == "nats" else f"{goal:.0%}"
    heads = [(r, e) for r in rows if (e := headline(r)) is not None and math.isfinite(e["value"])]
    if not heads:
        return (
            f"| {case} | {truth} | {limit} | {method} | {len(rows)} | failed: {rows[0].get('failed', 'not finite')} | | | | |"
        )
    scale = [1.0 if unit == "nats" else r["truth"] for r, _ in heads]
    show = "{:+.3f}" if unit == "nats" else "{:+.1%}"
    errors = [(e["value"] - r["truth"]) / s for (r, e), s in zip(heads, scale, strict=True)]
    median = statistics.median(errors)
    said = statistics.median(e["std_error"] / s for (_, e), s in zip(heads, scale, strict=True))
    below = [
        (r["truth"] - r["estimates"]["donsker-varadhan"]["value"]) / s
        for (r, _), s in zip(heads, scale, strict=True)
        if "donsker-varadhan" in r["estimates"]
    ]
    reached = " (reached)" if abs(median) <= goal else ""
    spread = f"{show.format(min(errors))} to {show.format(max(errors))}"
    bound = show.format(statistics.median(below)) if below else ""
    middle = f"{show.format(median)}{reached} | {spread} | {show.format(said).lstrip('+')} | {bound}"
    return f"| {case} | {truth} | {limit} | {method} | {len(heads)} | {middle} | {seconds} |"


def main() -> None:
    """Run the cells that are missing, in order, each written as soon as it is done; then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table from the records and run nothing")
    parser.add_argument("--quick", action="store_true", help="two small cells, recorded nowhere")
    parser.add_argument("--only", nargs="*", default=[], help="CASE/METHOD, CASE/ or /METHOD")
    parser.add_argument("--seeds", type=int, default=5)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    if flags.quick:
        small = {"knn": {"num_samples": 500}, "classifier": {"steps": 100, "num_samples": 1000, "num_prior_samples": 5000}}
        print(table([run("paper-1", method, 0, **settings) | {"settings": {}} for method, settings in small.items()]))
        return
    done = {(r["case"], r["method"], r["seed"]) for r in read_records(RECORDS) if not r["settings"]}
    wanted = [c for c in cells(flags.seeds) if c not in done and (not flags.only or _named(c, flags.only))]
    for i, cell in enumerate([] if flags.table else wanted):
        record = run(*cell)
        keep_record(RECORDS, record)
        head = headline(record) or {"value": math.nan}
        said = f"{head['value']:.4g} for {record['truth']:.4g} in {record['cpu_seconds']:.0f} s"
        print(f"{i + 1}/{len(wanted)} {'/'.join(map(str, cell))}: {said}", flush=True)
    print(table(read_records(RECORDS)))


def _named(cell: tuple[str, str, int], only: list[str]) -> bool:
    parts = [name.partition("/")[::2] for name in only]
    return any(case in ("", cell[0]) and method in ("", cell[1]) for case, method in parts)


if __name__ == "__main__":
    main()
