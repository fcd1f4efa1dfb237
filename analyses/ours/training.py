"""A training step of klprobe against the same step written by hand, and against pythae's: same networks, same batches.

python -m analyses.ours.training             # measure, append a record, write training.md; needs pythae 0.1.2
python -m analyses.ours.training --page      # training.md from the last record
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from analyses.machinery.cells import NO_PAPER
from analyses.machinery.declared import Page
from analyses.ours import _pythae
from klprobe.registry import load
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import keep_record, read_records
from klprobe.training.data import Batch, Data
from klprobe.training.loop import train
from klprobe.training.losses import bernoulli_nll, fake_loss, gaussian_kl, l1, real_loss, reverse_kl

HERE = Path(__file__).parent / "results"
RECORDS = HERE / "records" / "training.jsonl"
NUM_POINTS, WARM_UP = 4096, 3
GOAL = 0.05
"""Share of a step by hand that the loop may cost on top."""
CODE = {"code_width": 128, "code_layers": 2}


@dataclass(frozen=True)
class Case:
    """Networks and data of one row; `steps` in a block, so that a block takes about half a second."""

    system: str
    shape: tuple[int, ...]
    settings: dict[str, Any]
    steps: int

    @property
    def label(self) -> str:
        """As in the table."""
        sizes = " x ".join(map(str, self.shape)) if len(self.shape) > 1 else f"{self.shape[0]} values"
        return f"{self.system}, {sizes}, " + (f"{self.settings['width']} x 2" if len(self.shape) == 1 else "convolutions")


CASES = (
    Case("vae", (2,), {"width": 32, "latent_dim": 8}, 150),
    Case("vae", (2,), {"width": 128, "latent_dim": 8}, 150),
    Case("vae", (784,), {"width": 256, "latent_dim": 50}, 50),
    Case("vae", (1, 28, 28), {"latent_dim": 50}, 4),
    Case("aae", (2,), {"width": 128, "latent_dim": 8, "posterior": "gaussian", **CODE}, 100),
    Case("aae", (784,), {"width": 256, "latent_dim": 50, "posterior": "gaussian", **CODE}, 40),
    Case("aae", (1, 28, 28), {"latent_dim": 50, "posterior": "gaussian", **CODE}, 3),
)
"""AAE with a Gaussian posterior: pythae's encoder always gives mean and log-variance."""


def main() -> None:
    """Measure where asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each kind, taken in turns")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch, for the comparison with pythae")
    flags = parser.parse_args()
    if not flags.page:
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
            "versions": versions() | _pythae.versions(),
            "commit": commit(),
            "rounds": flags.rounds,
            **measure(CASES, flags.rounds, flags.threads),
        }
        keep_record(RECORDS, record)
    (HERE / "training.md").write_text(page(read_records(RECORDS)[-1]))


def measure(cases: tuple[Case, ...], rounds: int, threads: list[int]) -> dict[str, Any]:
    """Overhead over a loop by hand with one thread; ratios to pythae with each of these numbers of threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        overheads = [{"case": case.label, **overhead(case, rounds)} for case in cases]
        ratios = []
        for number in threads:
            torch.set_num_threads(number)
            ratios += [{"case": case.label, "threads": number, **against_pythae(case, rounds)} for case in cases]
        torch.set_num_threads(1)
        return {"overhead": overheads, "pythae": ratios, "batches_per_second": batches_per_second(rounds)}
    finally:
        torch.set_num_threads(before)


def overhead(case: Case, rounds: int) -> dict[str, float]:
    """CPU seconds of a step of klprobe and of a step by hand, in lockstep, so that whatever slows one slows the other.

    The data set of klprobe's run takes a step by hand each time a step begins, off klprobe's clock.
    """
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        by_hand = BY_HAND[case.system](case)
        clock: list[tuple[float, float]] = []

        def both(by_hand: Iterator[None] = by_hand, clock: list[tuple[float, float]] = clock) -> None:
            before = time.process_time()
            next(by_hand)
            clock.append((before, time.process_time()))

        _train(case, Timed(case, both), case.steps + WARM_UP)
        theirs += [after - before for before, after in clock[WARM_UP:-1]]
        ours += [later[0] - after for (_, after), later in zip(clock[WARM_UP:-1], clock[WARM_UP + 1 :], strict=True)]
    ratios = [a / b - 1 for a, b in zip(ours, theirs, strict=True)]
    return {
        "hand": statistics.median(theirs),
        "klprobe": statistics.median(ours),
        "overhead": statistics.median(ratios),
        "overhead_undisturbed": first_decile(ours) / first_decile(theirs) - 1,
    }


def first_decile(seconds: list[float]) -> float:
    """Nine in ten are larger: a step that other processes have hardly slowed."""
    return statistics.quantiles(seconds, n=10)[0]


def against_pythae(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of a step, CPU and wall, of klprobe and of pythae with its own Adam and with the fused one; blocks in turns."""
    kinds: dict[str, Callable[[], list[tuple[float, float]]]] = {
        "klprobe": lambda: _steps(case),
        "pythae": lambda: _pythae.steps(_pythae_run(case), fused=False),
        "pythae, fused Adam": lambda: _pythae.steps(_pythae_run(case), fused=True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, block in kinds.items():
            times = block()[WARM_UP:]
            found[name].append((statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)))
    seconds = {
        name: {clock: statistics.median(block[i] for block in blocks) for i, clock in enumerate(("cpu", "wall"))}
        for name, blocks in found.items()
    }
    ratios = {
        name: {
            clock: statistics.median(p[i] / k[i] for p, k in zip(found[name], found["klprobe"], strict=True))
            for i, clock in enumerate(("cpu", "wall"))
        }
        for name in kinds
        if name != "klprobe"
    }
    return {"seconds": seconds, "ratios": ratios}


def batches_per_second(rounds: int) -> dict[str, float]:
    """Batches of 64 points of 784 bytes a second of CPU time: klprobe's data path, and pythae's."""
    case = next(case for case in CASES if case.shape == (784,))
    data, order = random_bytes(case), torch.randperm(NUM_POINTS, generator=torch.Generator().manual_seed(0)).split(64)

    def ours() -> None:
        for indices in order:
            data.batch(indices)

    loader = _pythae.loader(data.floats(), 64)

    def theirs() -> None:
        for _ in loader:
            pass

    pairs = [(_cpu_seconds(ours), _cpu_seconds(theirs)) for _ in range(rounds)]
    return {name: len(order) / statistics.median(pair[i] for pair in pairs) for i, name in enumerate(("klprobe", "pythae"))}


class Timed:
    """Random bytes for `train`, which calls `hook` before each step's first batch."""

    name, split = "random bytes", "train"

    def __init__(self, case: Case, hook: Callable[[], None]) -> None:
        self.data, self.hook = random_bytes(case), hook

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one data point."""
        return self.data.shape

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: torch.Tensor) -> Batch:
        """Call the hook first: all steps here take one mini-batch."""
        self.hook()
        return self.data.batch(indices)

    def to(self, device: torch.device) -> Timed:
        """The same."""
        return self


def random_bytes(case: Case) -> Data:
    """Points of a case's shape."""
    generator = torch.Generator().manual_seed(0)
    return Data("random bytes", "train", torch.randint(256, (NUM_POINTS, *case.shape), generator=generator, dtype=torch.uint8))


def vae_by_hand(case: Case) -> Iterator[None]:
    """The usual loop, one step at a time."""
    system, networks, batches, noise = _start(case)
    encoder, generator = networks["encoder"], networks["generator"]
    optimizer = torch.optim.Adam(networks.parameters(), system.lr, (system.adam_beta1, system.adam_beta2), fused=True)
    for x in batches:
        mean, logvar = encoder(x).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise)
        loss = bernoulli_nll(generator(z), x) + gaussian_kl(mean, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def aae_by_hand(case: Case) -> Iterator[None]:
    """Both players on the same codes, as klprobe's are."""
    system, networks, batches, noise = _start(case)
    encoder, generator, judge = networks["encoder"], networks["generator"], networks["code_discriminator"]
    betas = (system.adam_beta1, system.adam_beta2)
    both = torch.optim.Adam([*encoder.parameters(), *generator.parameters()], system.lr, betas, fused=True)
    other = torch.optim.Adam(judge.parameters(), system.code_lr, betas, fused=True)
    for x in batches:
        mean, logvar = encoder(x).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise)
        judge.requires_grad_(False)
        loss = l1(x, generator(z)) + reverse_kl(judge(z))
        judge.requires_grad_(True)
        both.zero_grad()
        loss.backward()
        both.step()
        loss = real_loss(judge(torch.randn(z.shape, generator=noise))) + fake_loss(judge(z.detach()))
        other.zero_grad()
        loss.backward()
        other.step()
        yield


BY_HAND = {"vae": vae_by_hand, "aae": aae_by_hand}


def _start(case: Case) -> tuple[Any, torch.nn.ModuleDict, Iterator[torch.Tensor], torch.Generator]:
    """Settings, fresh networks, endless batches of floats, and noise."""
    system, noise = load("trainers", case.system)(**case.settings), torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        networks = system.networks(case.shape).train()
    pixels = random_bytes(case).stored

    def batches() -> Iterator[torch.Tensor]:
        while True:
            for indices in torch.randperm(len(pixels), generator=noise).split(system.batch_size):
                yield pixels[indices] / 255

    return system, networks, batches(), noise


def _train(case: Case, data: Timed, steps: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        train(load("trainers", case.system)(**case.settings), data, steps=steps, out=out, checkpoint_every=steps)


def _steps(case: Case) -> list[tuple[float, float]]:
    """CPU and wall seconds of klprobe's steps."""
    times: list[tuple[float, float]] = []
    _train(case, Timed(case, lambda: times.append((time.process_time(), time.perf_counter()))), case.steps + WARM_UP)
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(times)]


def _pythae_run(case: Case) -> _pythae.Run:
    system, networks, _, _ = _start(case)
    points = 64 * (case.steps + WARM_UP)
    x = random_bytes(case).floats()
    return _pythae.Run(case.system, system, networks, x.repeat(-(-points // len(x)), *[1] * len(case.shape))[:points])


def _cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _reached(missed: list[str]) -> str:
    return f"missed by {'; '.join(missed)}" if missed else "reached by every step"


def page(record: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| step | by hand, ms | klprobe, ms | overhead | of the fastest tenth |", "|---|---:|---:|---:|---:|"]
    for r in record["overhead"]:
        shares = " | ".join(f"{100 * r[name]:+.1f} %" for name in ("overhead", "overhead_undisturbed"))
        lines.append(f"| {r['case']} | {1e3 * r['hand']:.2f} | {1e3 * r['klprobe']:.2f} | {shares} |")
    table = ["| step | threads | klprobe, ms | pythae, ms | pythae / klprobe, CPU | wall | with fused Adam, CPU | wall |"]
    table.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for r in record["pythae"]:
        own, fused = (r["ratios"][name] for name in ("pythae", "pythae, fused Adam"))
        times = " | ".join(f"{1e3 * r['seconds'][name]['cpu']:.2f}" for name in ("klprobe", "pythae"))
        ratios = " | ".join(f"{ratio[clock]:.2f}" for ratio in (own, fused) for clock in ("cpu", "wall"))
        table.append(f"| {r['case']} | {r['threads']} | {times} | {ratios} |")
    late = [r["case"] for r in record["overhead"] if max(r["overhead"], r["overhead_undisturbed"]) >= GOAL]
    slow = [
        f"{r['case']} ({r['threads']} thread{'s' * (r['threads'] > 1)})"
        for r in record["pythae"]
        if min(ratio["cpu"] for ratio in r["ratios"].values()) < 1
    ]
    rates, machine = record["batches_per_second"], record["machine"]
    head = f"{record['date'][:10]}, torch {record['versions']['torch']}, pythae {record['versions']['pythae']}, "
    return (
        "\n\n".join(
            [
                "# A training step",
                f"Made by `python -m analyses.ours.training`. {head}batches of 64 random points; medians of "
                f"{record['rounds']} blocks, times of CPU time. The machine's {machine['cores']} cores had a load of "
                f"{machine['load']} when it began.",
                "## klprobe's loop against a loop by hand\n\n"
                "The same networks, losses, batches and fused Adam, without seeds for every step, log, checks or progress; one "
                "thread, steps taken in turns. The overhead is the median of the ratios of neighbours; beside it the ratio "
                "of the steps at the first decile of either, which other work has hardly slowed.",
                "\n".join(lines),
                f"Goal, under {100 * GOAL:.0f} % by both: {_reached(late)}.",
                "## klprobe against pythae\n\n"
                "pythae's own trainers with klprobe's networks inside, blocks of steps taken in turns. A ratio above 1 says "
                "that pythae takes longer; those of wall time hold what other work on the machine took as well. "
                "klprobe gives networks without convolutions one thread, however many there are.",
                "\n".join(table),
                f"Goal, at least as fast as pythae by CPU time, whichever Adam it has: {_reached(slow)}.",
                f"## The data path\n\nBatches of 64 points of 784 bytes a second: klprobe {rates['klprobe']:,.0f}, pythae's "
                f"loader {rates['pythae']:,.0f}.",
            ]
        )
        + "\n"
    )


PAGE = Page(
    order=8,
    title="A training step, against pythae and a loop by hand",
    paper=NO_PAPER,
    commands="ours.training",
    headline="[page](ours/results/training.md)",
    records="training.jsonl",
)


if __name__ == "__main__":
    main()
