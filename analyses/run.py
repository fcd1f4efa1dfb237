"""The plan of long jobs, in stretches of time: trains the most useful cells first, each from its last checkpoint.

python -m analyses.run --preset paper --hours 2.5 --jobs 2
python -m analyses.run --preset paper --list

Takes the cells of `analyses/plan.toml` in their order. What has a record is not run again; what was stopped or killed goes on
from its last checkpoint, which is at most five minutes old, to the same bits as a run without a break. Checkpoints lie in the
user's cache folder, or in KLPROBE_RUNS. Several runners may work at once, also on several machines that share that folder.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, get_args

from analyses.machinery.cells import Preset

if TYPE_CHECKING:
    from analyses.machinery.worker import Orders

MARGIN, SHARE = 60.0, 0.1
"""Seconds before the deadline at which workers look for a checkpoint, and the share of all the time that they are at most."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 where a worker died; 2 for unusable flags; 130 or 143 where Ctrl-C or SIGTERM stopped it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", choices=get_args(Preset), required=True, help="sizes of the cells; paper: the paper's")
    add("--hours", type=float, help="stop at checkpoints before so many hours are over; default: go on to the end")
    add("--jobs", type=int, default=1, help="cells at once, each on one thread of its own; default 1")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where networks train and run; default cpu")
    add("--list", action="store_true", help="show the plan and how far it is, and run nothing")
    add("--retry", action="store_true", help="run cells again that failed before")
    add("--plan", type=Path, help="another file than analyses/plan.toml")
    add("--out", type=Path, help="keep records in this folder; default: beside each item's page")
    flags = parser.parse_args(argv)
    if flags.hours is not None and not 0 < flags.hours < math.inf:
        parser.error(f"--hours must be above 0; got {flags.hours:g}.")
    if flags.jobs < 1:
        parser.error(f"--jobs must be at least 1; got {flags.jobs}.")
    if not hasattr(signal, "setitimer"):
        parser.error("the runner needs timers and locks of a Unix system; python -m analyses.FOLDER.ITEM runs everywhere.")
    os.environ["KLPROBE_DEVICE"] = flags.device  # before what is read below is imported, here and in the workers
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return _run(parser, flags)


def _run(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> int:
    import torch

    from analyses.machinery.listing import listing, summary
    from analyses.machinery.plan import PLAN, jobs_of, read_plan, records_of
    from analyses.machinery.worker import Orders
    from klprobe.types import InputError

    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu, or install torch with CUDA.")
    plan = flags.plan or PLAN
    try:
        parts = read_plan(flags.preset, plan, flags.out)
        jobs = jobs_of(parts)
        if flags.list:
            print(listing(parts, flags.jobs))
            return 0
        failed = {j.name: len(found) for j in jobs if (found := records_of(j)) and all(r["failed"] for r in found)}
    except (InputError, OSError) as error:
        parser.error(str(error))
    begun, whole = time.time(), math.inf if flags.hours is None else 3600 * flags.hours
    orders = Orders(
        preset=flags.preset,
        plan=plan,
        out=flags.out,
        deadline=begun + whole - min(MARGIN, SHARE * whole) if math.isfinite(whole) else math.inf,
        retried=failed if flags.retry else {},
        parent=os.getpid(),
    )
    stopped, dead = _work(flags.jobs, orders, begun + whole)
    print(summary(parts, flags.jobs, begun, stopped=stopped is not None))
    for number, code in dead.items():
        print(f"Worker {number} ended with code {code}; its cell goes on from its last checkpoint when you run this again.")
    return 128 + stopped if stopped is not None else 1 if dead else 0


def _work(jobs: int, orders: Orders, end: float) -> tuple[int | None, dict[int, int]]:
    """Run the workers; which signal stopped them, and the exit codes of those that died by themselves."""
    from analyses.machinery.worker import say, work_through

    start = multiprocessing.get_context("spawn").Process
    workers = {number: start(target=work_through, args=(number, orders)) for number in range(1, jobs + 1)}
    stopped: list[int] = []
    late: set[int] = set()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.append(signum)
        if len(stopped) == 1:
            say(0, "stopping at the next checkpoints; once more ends at once, and loses what was done since the last ones")
        for worker in workers.values():
            if worker.is_alive():
                worker.terminate() if len(stopped) == 1 else worker.kill()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for worker in workers.values():
            if not stopped:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the workers too, and they inherit this
                worker.start()
                signal.signal(signal.SIGINT, stop)
        while any(worker.is_alive() for worker in workers.values()):
            time.sleep(0.2)
            for number, worker in workers.items():
                if time.time() > end and worker.is_alive():
                    worker.kill()  # deep in one long computation, it hears nothing
                    late.add(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in sorted(late):
        say(number, "ended at the deadline, for it did not stop in time; its cell goes on from its last checkpoint")
    ended = {number: worker.exitcode for number, worker in workers.items() if number not in late and not stopped}
    dead = {number: code for number, code in ended.items() if code}
    return (stopped[0] if stopped else None), dead


if __name__ == "__main__":
    sys.exit(main())
