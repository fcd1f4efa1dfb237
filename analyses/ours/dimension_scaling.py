"""Every estimator of the registry at 1 to 1000 latents and 0 to 100 nats, half a minute of CPU at most for each fit.

python -m analyses.ours.dimension_scaling                        # cells that are not recorded yet; hours of one core, resumable
python -m analyses.ours.dimension_scaling --seconds 540          # begin no cell after that: a chunk
python -m analyses.ours.dimension_scaling --dims 10 --kls 5 --only knn gmm
python -m analyses.ours.dimension_scaling --quick                # two small cells, recorded nowhere

q = N(m, I) and p = N(0, I), all entries of m equal and |m|^2 / 2 the KL. Each estimator is given what it requires and no
more: fresh draws of both sides, draws of q and the density of p, or an encoder of 10,000 points whose population's q(z) is that
q and whose codes tell 5 nats about their point, at every number of latents. `dimension_scaling_settings.py` has the
settings, smaller than the package's. A fit that is not done after 30 seconds of CPU is stopped and recorded as such, and the
harder cases of that estimator with the same number of latents are not tried.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from analyses.machinery.machine import machine
from analyses.ours.dimension_scaling_settings import DIMS, KLS, POINTS, SEEDS, settings_of
from klprobe import registry
from klprobe.distributions.problems import FreshDraws, Problem, shifted_encoder, shifted_gaussians, two_samples
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import Record, keep_record, read_records
from klprobe.types import Estimator, InputError

RECORDS = Path(__file__).parent / "results" / "records" / "dimension_scaling.jsonl"
LIMIT = 30.0
"""Seconds of CPU for a fit."""
LATE = "not done after"
"""How the reason of a fit begins that took longer."""
Cell = tuple[str, int, float, int]
"""Estimator, D, true KL, seed."""


class OverBudget(Exception):
    """A fit takes longer than it may."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """OverBudget inside once this process has used so many seconds of CPU; one call into torch is never cut short."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise OverBudget

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def cells() -> list[Cell]:
    """Seed outermost, so that a grid that was interrupted is whole for some seeds."""
    names = registry.names("estimators")
    return [(name, dim, kl, seed) for seed in range(SEEDS) for dim in DIMS for kl in KLS for name in names]


def problem_for(requires: frozenset[str], dim: int, kl: float, seed: int) -> Problem:
    """q and p with the densities that are required and no others."""
    if "posterior-density" in requires:
        return shifted_encoder(dim, kl, POINTS, generator=torch.Generator().manual_seed(1000 + seed))
    pair = shifted_gaussians(dim, kl)
    return Problem(FreshDraws(pair.q), pair.p, kl) if "prior-density" in requires else two_samples(pair)


def run(cell: Cell, limit: float = LIMIT, **changed: Any) -> Record:
    """One record; `failed` says why there are no estimates, and those that are not finite are left out."""
    name, dim, kl, seed = cell
    kind = registry.load("estimators", name)
    settings = settings_of(name, dim, {field.name for field in dataclasses.fields(kind)}) | changed
    begun, failed = time.process_time(), None
    found: Record = {"estimates": []}
    try:
        with cpu_limit(limit):
            found = _estimate(kind(**settings), dim, kl, seed)
    except OverBudget:
        failed = f"{LATE} {limit:g} s of CPU"
    except InputError as error:
        failed = str(error)
    return _record(cell, failed, time.process_time() - begun, settings=settings, **found)


def _record(cell: Cell, failed: str | None, seconds: float, **found: Any) -> Record:
    used = {package: versions()[package] for package in ("klprobe", "torch", "numpy")}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"machine": machine(), "versions": used, "commit": commit(), "time": when}
    named = dict(zip(("method", "dim", "kl", "seed"), cell, strict=True))
    return named | {"failed": failed, "cpu_seconds": round(seconds, 1)} | found | made


def _estimate(estimator: Estimator, dim: int, kl: float, seed: int) -> dict[str, Any]:
    problem = problem_for(estimator.requires, dim, kl, seed)
    found = estimator.estimate(problem.posterior, problem.prior, generator=torch.Generator().manual_seed(seed))
    keys = ("quantity", "target", "bound", "value", "std_error")
    finite = [e for e in found if math.isfinite(e.value) and math.isfinite(e.std_error)]
    facts = found[0].details
    steps = {key: facts[key] for key in ("chosen_step", "steps_done") if key in facts}
    return {"estimates": [{key: getattr(e, key) for key in keys} for e in finite], **steps}


def hopeless(cell: Cell, records: list[Record]) -> str | None:
    """Why a cell need not be tried: a case of the same estimator and D, at no larger KL, took too long."""
    name, dim, kl, _ = cell
    for r in records:
        if (r["method"], r["dim"]) == (name, dim) and r["kl"] <= kl and (r["failed"] or "").startswith(LATE):
            return f"not tried: {r['failed']} at {r['kl']:g} nats, seed {r['seed']}"
    return None


def main() -> None:
    """Run what is missing, in order, each cell written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many seconds")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--kls", type=float, nargs="+", default=KLS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", nargs="+", default=registry.names("estimators"), help="estimators")
    parser.add_argument("--quick", action="store_true", help="two small cells, recorded nowhere")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    if flags.quick:
        for name in ("knn", "closed-form"):
            print(_said(run((name, 2, 1.0, 0), num_samples=500)))
        return
    started, records = time.monotonic(), read_records(RECORDS)
    done = {(r["method"], r["dim"], r["kl"], r["seed"]) for r in records}
    for cell in cells():
        name, dim, kl, seed = cell
        if cell in done or dim not in flags.dims or kl not in flags.kls or seed >= flags.seeds or name not in flags.only:
            continue
        if time.monotonic() - started > flags.seconds:
            return
        why = hopeless(cell, records)
        record = run(cell) if why is None else _record(cell, why, 0.0, settings={}, estimates=[])
        keep_record(RECORDS, record)
        records.append(record)
        print(_said(record), flush=True)


def _said(record: Record) -> str:
    values = [f"{e['quantity']} {e['value']:.3g}" for e in record["estimates"][:2]]
    where = f"{record['method']} D = {record['dim']}, KL {record['kl']:g}, seed {record['seed']}"
    return f"{where}: {record['failed'] or ', '.join(values)} ({record['cpu_seconds']:.0f} s)"


if __name__ == "__main__":
    main()
