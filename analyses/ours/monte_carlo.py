"""log q_N(z) over a whole data set: klprobe against every public way of doing it, in one process.

python -m analyses.ours.monte_carlo            # the table: seconds, ratio, error; a record and a plot
python -m analyses.ours.monte_carlo --quick    # the same on small sizes, seconds
python -m analyses.ours.monte_carlo_page       # monte_carlo.md from the last record
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from analyses.machinery.cells import NO_PAPER
from analyses.machinery.declared import Page
from analyses.machinery.machine import processor
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.posteriors import DiagonalGaussian, standard_normal
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import keep_record

HERE = Path(__file__).parent / "results"
RECORDS = HERE / "records" / "monte_carlo.jsonl"
LOG_2PI = math.log(2 * math.pi)

Method = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def mixture_same_family(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """torch.distributions.MixtureSameFamily, in chunks of latents."""
    mixture = MixtureSameFamily(Categorical(torch.ones(len(mean))), Independent(Normal(mean, std), 1))
    return torch.cat([mixture.log_prob(part) for part in z.split(16)])


def broadcast(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(m, N, D) differences, as the 2018 decomposition of the ELBO did it, in chunks of latents."""
    inverse, norm = 1 / std, -std.log() - 0.5 * LOG_2PI
    rows = [(-0.5 * ((part[:, None] - mean) * inverse).square() + norm).sum(2).logsumexp(1) for part in z.split(16)]
    return torch.cat(rows) - math.log(len(mean))


def keops(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """KeOps LazyTensor: the reduction compiled, nothing stored."""
    from pykeops.torch import LazyTensor

    left, centre, inverse = LazyTensor(z[:, None, :]), LazyTensor(mean[None]), LazyTensor((1 / std)[None])
    norm = LazyTensor((-std.log().sum(1) - 0.5 * z.shape[1] * LOG_2PI)[None, :, None])
    logits = ((left - centre) * inverse).square().sum(-1) * -0.5 + norm
    return logits.logsumexp(dim=1).flatten() - math.log(len(mean))


def one_product(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """One float64 matrix product per 256 latents, then torch.logsumexp."""
    features, weights = _product_form(z, mean, std)
    return torch.cat([torch.logsumexp(part @ weights, 1) for part in features.split(256)]) - math.log(len(mean))


def tiled_numpy(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """The same in tiles of 250 x 2048 that stay in cache, NumPy's BLAS, exp in place."""
    features, weights = (t.numpy() for t in _product_form(z, mean, std))
    out = np.empty(len(z))
    for top in range(0, len(z), 250):
        rows = features[top : top + 250]
        high, total = np.full(len(rows), -np.inf), np.zeros(len(rows))
        for left in range(0, len(mean), 2048):
            tile = rows @ weights[:, left : left + 2048]
            new = np.maximum(high, tile.max(1))
            tile -= new[:, None]
            total = total * np.exp(high - new) + np.exp(tile, out=tile).sum(1)
            high = new
        out[top : top + 250] = high + np.log(total)
    return torch.from_numpy(out - math.log(len(mean)))


def _product_form(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z, mean, std = z.double(), mean.double(), std.double()
    precision = std.reciprocal().square()
    norm = -std.log().sum(1) - 0.5 * z.shape[1] * LOG_2PI - 0.5 * (mean.square() * precision).sum(1)
    weights = torch.cat([-0.5 * precision, mean * precision, norm[:, None]], 1).T.contiguous()
    return torch.cat([z.square(), z, torch.ones_like(z[:, :1])], 1), weights


def klprobe(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """klprobe: certified screens and products, the leave-one-out density in the same pass."""
    q = DiagonalGaussian(mean, std=std)
    own = OWN[: len(z)]
    return torch.logaddexp(AggregatePosterior(q).log_sum(z.double(), own), q.log_prob_at(z.double(), own)) - math.log(len(mean))


OWN = torch.empty(0, dtype=torch.int64)
METHODS: dict[str, tuple[Method, torch.dtype]] = {
    "MixtureSameFamily": (mixture_same_family, torch.float32),
    "broadcasting (m, N, D)": (broadcast, torch.float32),
    "KeOps LazyTensor": (keops, torch.float32),
    "one float64 product": (one_product, torch.float64),
    "tiled float64, NumPy": (tiled_numpy, torch.float64),
    "klprobe": (klprobe, torch.float64),
}


def brute_force(z: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Differences in float64, one latent at a time: what every error is measured against."""
    mean, std = mean.double(), std.double()
    norm = -std.log().sum(1) - 0.5 * z.shape[1] * LOG_2PI
    rows = [torch.logsumexp(norm - 0.5 * ((row - mean) / std).square().sum(1), 0) for row in z.double()]
    return torch.stack(rows) - math.log(len(mean))


def workloads(quick: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor, int]]:
    """Name -> (mean, log-variance, number of latents)."""
    n, d, m = (4000, 50, 200) if quick else (60_000, 50, 2000)
    g = torch.Generator().manual_seed(0)
    found = {"random": (0.9 * torch.randn(n, d, generator=g), 0.5 * torch.randn(n, d, generator=g) - 2, m)}
    folder = Path(os.environ.get("KLPROBE_SHARED", HERE.parents[3] / "shared")) / "posteriors"
    for file in sorted(folder.glob("*.npz")) if folder.is_dir() else []:
        with np.load(file) as arrays:
            mean, logvar = (torch.from_numpy(arrays[k][:n]) for k in ("mean", "logvar"))
        found[file.stem] = (mean, logvar, m)
    return found


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Median wall time after one warm-up; a call that is timed once, because it takes a minute, has none."""
    if repeats > 1:
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(name: str, mean: torch.Tensor, logvar: torch.Tensor, num_latents: int) -> list[dict[str, object]]:
    """Seconds, ratio to klprobe and error of every method on one workload."""
    global OWN
    g = torch.Generator().manual_seed(1)
    std = torch.exp(0.5 * logvar)
    q = DiagonalGaussian(mean, std=std)
    OWN = torch.randperm(len(mean), generator=g)[:num_latents]
    z = q.sample_at(OWN, g).float().double()  # exactly representable in both precisions, so that errors are the method's
    truth = brute_force(z[:64], mean, std)
    rows = []
    for method, (function, dtype) in METHODS.items():
        inputs = [t.to(dtype) for t in (z, mean, std)]
        try:
            error = float((function(inputs[0][:64], *inputs[1:]).double() - truth).abs().max())
        except ImportError as missing:
            print(f"{method}: left out, {missing}")
            continue
        slow = method in ("MixtureSameFamily", "broadcasting (m, N, D)")
        took = seconds_of(lambda f=function, a=inputs: f(*a), 1 if slow else 5)
        rows.append({"workload": name, "method": method, "seconds": took, "max_error_nats": error})
        print(f"{name:20} {method:24} {took:9.3f} s   error {error:.1e}", flush=True)
    ours = next(float(str(r["seconds"])) for r in rows if r["method"] == "klprobe")
    shape = {"N": len(mean), "D": mean.shape[1], "M": num_latents}
    return [{**row, **shape, "over_klprobe": float(str(row["seconds"])) / ours} for row in rows]


def efficiency(name: str, mean: torch.Tensor, logvar: torch.Tensor, num_latents: int) -> list[dict[str, object]]:
    """Standard error of the empirical KL, and what a second buys, with control variates and without."""
    q, prior = DiagonalGaussian(mean, logvar=logvar), standard_normal(mean.shape[1])
    rows = []
    for control in (True, False):
        estimator = MonteCarlo(num_samples=num_latents, control_variates=control)

        def estimate(estimator: MonteCarlo = estimator) -> object:
            return estimator.estimate(q, prior, generator=torch.Generator().manual_seed(0))

        took = seconds_of(estimate, 3)
        value = estimator.estimate(q, prior, generator=torch.Generator().manual_seed(0))[0]
        row = {"workload": name, "control_variates": control, "seconds": took, "std_error": value.std_error, "kl": value.value}
        row["std_error_times_root_second"] = value.std_error * math.sqrt(took)
        rows.append(row)
        print(f"{name:20} control variates {control!s:5}  {value.value:8.4f} ± {value.std_error:.4f} nats in {took:.2f} s")
    return rows


def scaling(quick: bool) -> list[dict[str, object]]:
    """Pairs per second against N and D, and the rate that the machine's matrix product allows."""
    rows: list[dict[str, object]] = []
    sizes = (1000, 3000) if quick else (1000, 3000, 10_000, 30_000, 100_000, 300_000)
    for dim in (10, 50, 100):
        ceiling = _product_rate(dim)
        for n in sizes:
            g = torch.Generator().manual_seed(n)
            q = DiagonalGaussian(0.9 * torch.randn(n, dim, generator=g), logvar=0.5 * torch.randn(n, dim, generator=g) - 2)
            own = torch.randint(n, (200 if quick else 1000,), generator=g)
            z = q.sample_at(own, g)
            took = seconds_of(lambda q=q, z=z, own=own: AggregatePosterior(q).log_sum(z, own), 3)
            rows.append(
                {"N": n, "D": dim, "M": len(z), "seconds": took, "pairs_per_second": n * len(z) / took, "ceiling": ceiling}
            )
            print(f"N {n:7} D {dim:4}  {n * len(z) / took:.3g} pairs/s; one float64 product alone {ceiling:.3g}", flush=True)
    return rows


def _product_rate(dim: int) -> float:
    """Pairs per second if a pair cost nothing but its part of a float64 product with 2 D + 1 inner terms."""
    left, right = (
        np.random.default_rng(0).normal(size=(1024, 2 * dim + 1)),
        np.random.default_rng(1).normal(size=(2 * dim + 1, 2048)),
    )
    return 1024 * 2048 / seconds_of(lambda: left @ right, 9)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Pairs per second against N, one line a D, each under its ceiling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for dim, colour, marker in ((10, "#0072B2", "o"), (50, "#D55E00", "s"), (100, "#009E73", "^")):
        mine = [r for r in rows if r["D"] == dim]
        axes.plot(
            [r["N"] for r in mine], [r["pairs_per_second"] for r in mine], marker=marker, color=colour, label=f"D = {dim}"
        )
        axes.axhline(float(str(mine[0]["ceiling"])), color=colour, linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="posteriors N", ylabel="(latent, posterior) pairs per second")
    axes.set_title("klprobe's log q_N(z); dotted: the float64 matrix product alone", fontsize=10)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Run everything, append one record, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    quick = parser.parse_args().quick
    machine = {
        "processor": processor(),
        "kernels": os.environ.get("OPENBLAS_CORETYPE", "own"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    record: dict[str, object] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine}
    record |= {"versions": versions(), "commit": commit(), "table": [], "efficiency": []}
    table: list[dict[str, object]] = []
    gains: list[dict[str, object]] = []
    for name, (mean, logvar, num_latents) in workloads(quick).items():
        table += compare(name, mean, logvar, num_latents)
        gains += efficiency(name, mean, logvar, num_latents)
    record |= {"table": table, "efficiency": gains, "scaling": (rates := scaling(quick))}
    if not quick:
        keep_record(RECORDS, record)
        plot(rates, HERE / "monte_carlo.svg")


PAGE = Page(
    order=7,
    title="Monte Carlo against its peers",
    paper=NO_PAPER,
    commands="ours.monte_carlo",
    headline="[page](ours/results/monte_carlo.md)",
    records="monte_carlo.jsonl",
)


if __name__ == "__main__":
    main()
