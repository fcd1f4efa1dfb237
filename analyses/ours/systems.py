"""Every system on MNIST at a budget of about a CPU minute: KL[q(z)||p(z)], reconstructions, samples.

python -m analyses.ours.systems                   # systems.md and systems.png from the records
python -m analyses.ours.systems --preset quick    # first train and measure what has no record
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main
from analyses.machinery.models import RUNS, facts, pictures, points, posterior, trained
from analyses.machinery.rebuilt import reconstruction_errors
from analyses.ours.systems_page import page, panels
from analyses.ours.systems_settings import DEAR, JUDGE_STEPS, SAMPLES, SEEDS, SYSTEMS, model
from klprobe.datasets import dataset
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.estimation.run import estimate
from klprobe.estimators.classifier import Classifier
from klprobe.estimators.maf import Maf
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.evaluation.evidence import Evidence
from klprobe.evaluation.judge import own_net
from klprobe.evaluation.run import evaluate
from klprobe.metrics.fid import FID
from klprobe.metrics.inception_score import InceptionScore
from klprobe.training.data import Data
from klprobe.training.trained import TrainedSystem
from klprobe.types import Estimator

HERE = Path(__file__).parent / "results"
SHOWN = 25


def cells(preset: Preset) -> list[Cell]:
    """One system and seed a cell, those that cost several times the others last."""
    models = [model(preset, system, seed) for seed in SEEDS[preset] for system in SYSTEMS]
    return [{"preset": preset, "model": what} for what in sorted(models, key=lambda what: what["system"] in DEAR)]


def work(cell: Cell) -> Result:
    """Train, and look at codes, reconstructions and samples of the test split."""
    preset, what = cell["preset"], cell["model"]
    system, test = trained(what), points(what, "test")
    has_encoder = "encode" in system.capabilities
    kl = kl_bounds(cell, system) if has_encoder else None
    errors = reconstruction_errors(system, test, what["seed"]) if has_encoder else None
    return {
        "kl": kl,
        "reconstruction_errors": errors,
        "quality": sample_quality(system, what, test, preset),
        "pictures": pictures(what, SHOWN),
    }


def kl_bounds(cell: Cell, system: TrainedSystem) -> dict[str, Any]:
    """klprobe's bracket on test points; the same classifier and flow for every system, exact densities where there are any."""
    tiny, seed = cell["preset"] == "tiny", cell["model"]["seed"]
    q = posterior(cell["model"], "test", 200 if tiny else None)
    methods: list[Estimator] = [Maf(steps=1500, num_samples=20_000)]
    methods.append(Classifier(steps=2000, num_samples=20_000, num_prior_samples=100_000))
    if tiny:
        methods = [Maf(steps=20, num_samples=500), Classifier(steps=20, num_samples=500, num_prior_samples=1000)]
    kind = "density"
    if isinstance(q, DiagonalGaussian):
        methods.insert(0, MonteCarlo(num_samples=100 if tiny else 10_000))
    elif isinstance(q, SampleOnly):
        kind = "deterministic" if q.deterministic else "implicit"
    prior = system.checkpoint.algorithm.prior_distribution
    report = estimate(q, prior, methods=methods, split="test", trained_on="train", seed=seed, marginals=False)
    return facts(report) | {"posterior": kind}


def sample_quality(system: TrainedSystem, what: dict[str, Any], test: Data, preset: Preset) -> dict[str, Any]:
    """FID and Inception score under klprobe's own classifier of the data, of samples and of training data in their place."""
    training, seed = points(what, "train"), what["seed"]
    net, _ = own_net(training, RUNS / "judge", JUDGE_STEPS[preset])
    about = dataset(what["dataset"])
    given = Evidence(system, test, training, about, lambda: net, num_samples=SAMPLES[preset], seed=seed)
    found = evaluate({"fid": FID(), "inception-score": InceptionScore()}, given)
    kept: dict[str, Any] = {"net": net.name, "notes": list(found.notes)}
    for row in found.rows:
        kept[row.score.quantity] = [row.score.value, row.score.std_error, row.real.value if row.real else None]
    return kept


def write(records: list[Record], folder: Path) -> list[Path]:
    """systems.md and systems.png."""
    written = folder / "systems.md"
    written.write_text(page(records))
    return [written, panels(records, folder / "systems.png")]


def headline(rows: list[Record]) -> str:
    """The lower bound of each system, the median over its seeds and their range."""
    lows: dict[str, list[float]] = {}
    for record in rows:
        if record["result"].get("kl"):
            low = record["result"]["kl"]["brackets"]["population"]["lower"]
            lows.setdefault(record["cell"]["model"]["system"], []).append(low[0])
    said = "; ".join(
        f"{name} {statistics.median(found):.2f}" + (f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else "")
        for name, found in lows.items()
    )
    return f"KL[q(z)] from p(z) at least, nats: {said}"


ITEM = Item(
    order=1,
    title="Ours: every system on MNIST",
    paper="DMVI: AAE, AAE++, AAE-GAN match better",
    headline=headline,
    folder=HERE,
    records="systems.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
