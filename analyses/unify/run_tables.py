"""The runs behind UNIFY's tables 2, 3 and 4: which there are, and what one does. `table_3` and `table_2_4` are the commands.

Training points are drawn from those of the training split that are not held out; the held-out ones say at which step a run
was best, and that step alone sees the test split. A pair of models, with and without the paper's addition, has the same points,
steps and settings otherwise.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch

from analyses.machinery import models
from analyses.machinery.cells import Cell, Costs, Preset, Result
from analyses.unify.settings import PERCENTAGES, RUNS, TEMPERATURES
from klprobe.datasets import dataset
from klprobe.evaluation.judge import own_net
from klprobe.metrics.accuracy import Accuracy
from klprobe.metrics.elbo import Elbo
from klprobe.metrics.inception_score import InceptionScore
from klprobe.trainers.aavae import AAVAE
from klprobe.trainers.iwgan import IWGAN
from klprobe.training.checkpoint import Checkpoint
from klprobe.training.data import Data
from klprobe.training.loop import METRICS, train
from klprobe.training.trained import TrainedSystem, load_system

HELD_OUT = 12
"""One training point in so many is held out."""
EVALUATIONS = 10
"""How often a run is looked at."""
PILOT = 100
"""Seed of the runs that choose the temperature; no other run has it."""
TEMPERATURE = 1.0
"""Chosen by the pilots at 10 % of the data."""
SEEDS = {"tiny": 1, "quick": 3, "paper": RUNS}
COMMON: dict[Preset, dict[str, Any]] = {
    "tiny": {"latent_dim": 2, "width": 8, "batch_size": 16},
    "quick": {"lr": 3e-3, "width": 256},
    "paper": {},
}
"""Ours: the MLP pair on pixels as vectors, and a learning rate that falls to 0; `paper` has convolutions."""
SHORT = {"batch_size": 32, "alpha": 10.0}
"""Ours, with few labels in `quick`: 32 points under every class and 32 with their label; at the paper's alpha the classifier is
hardly told of its labels in so few steps (82 % right after 250 with 0.1, 92 % with 10, on held-out points)."""
NETWORKS: dict[Preset, str] = {
    "tiny": "scikit-learn's digits, MLPs of 2 x 8 units",
    "quick": "Pixels as vectors, MLPs of 2 x 256 units, 64 points a step (32 + 32 with few labels, alpha 10)",
    "paper": "Convolutions of klprobe's table for 28 x 28 pixels",
}
AUTO_ENCODERS: dict[str, dict[str, Any]] = {
    "VAE": {"activated": False},
    "AA-VAE": {},
    "CVAE": {"activated": False, "conditional": True},
    "AA-CVAE": {"conditional": True},
    "SVAE": {"activated": False, "labelled": True},
    "AA-SVAE": {"labelled": True},
}
GANS: dict[str, dict[str, Any]] = {
    "GAN": {"weighted": False},
    "IWGAN": {},
    "CGAN": {"weighted": False, "conditional": True},
    "IWCGAN": {"conditional": True},
}
STEPS: dict[Preset, dict[str, int]] = {
    "tiny": {"bound": 4, "few labels": 4, "gan": 4, "judge": 2},
    "quick": {"bound": 1000, "few labels": 500, "gan": 1500, "judge": 2000},
    "paper": {"bound": 50_000, "few labels": 50_000, "gan": 50_000, "judge": 5000},
}
"""Ours: the paper gives none."""
SAMPLES = {"tiny": 100, "quick": 5000, "paper": 10_000}


def bound_cells(preset: Preset) -> list[Cell]:
    """Table 3: the pilots, then plain and activated next to each other, seed by seed."""
    shares = PERCENTAGES if preset != "tiny" else (10,)
    pilots = [_cell(preset, "AA-VAE", 10, PILOT, temperature) for temperature in TEMPERATURES]
    return pilots + [
        _cell(preset, model, percent, seed, TEMPERATURE)
        for pair in (("VAE", "AA-VAE"), ("SVAE", "AA-SVAE"), ("CVAE", "AA-CVAE"))
        for seed in range(SEEDS[preset])
        for percent in shares
        for model in pair
        if not (pair[0] == "SVAE" and percent == 100)
    ]


def _cell(preset: Preset, model: str, percent: int, seed: int, temperature: float) -> Cell:
    settings = COMMON[preset] | AUTO_ENCODERS[model]
    few = "labelled" in settings
    steps = STEPS[preset]["few labels" if few else "bound"]
    settings |= {"decay_steps": steps} | ({"temperature": temperature} if "activated" not in settings else {})
    if few and preset == "quick":
        settings |= SHORT
    return {"preset": preset, "model": model, "percent": percent, "seed": seed, "steps": steps, "settings": settings}


def gan_cells(preset: Preset) -> list[Cell]:
    """Table 2, left and middle, and a row of test data."""
    steps = STEPS[preset]["gan"]
    common = {"batch_size": 64, "width": 256, "lr": 1e-3} if preset == "quick" else COMMON[preset]
    models = [
        {"preset": preset, "model": model, "seed": seed, "steps": steps, "settings": common | settings}
        for seed in range(SEEDS[preset])
        for model, settings in GANS.items()
    ]
    return [{"preset": preset, "model": "test data", "seed": 0}, *models]


def costs(cell: Cell) -> Costs:
    """Training alone; a row of test data has none."""
    if "settings" not in cell:
        return Costs()
    system = "aavae" if cell["model"] in AUTO_ENCODERS else "iwgan"
    settings = {name: value for name, value in cell["settings"].items() if name != "labelled"}
    return Costs([{"system": system, "dataset": "mnist", "settings": settings, "steps": cell["steps"], "seed": cell["seed"]}])


def bound(cell: Cell) -> Result:
    """Train on a share of the data, find the best step by the held-out points, and measure there on the test points."""
    split, validation, test = _parts(cell)
    settings = dict(cell["settings"])
    if "labelled" in settings:
        settings["labelled"] = max(10, _share(cell, len(split)))
    else:
        split = _some(split, _share(cell, len(split)), cell["seed"])
    system, device = AAVAE(**settings), _device()
    curve: list[list[float]] = []
    best: dict[str, torch.Tensor] = {}

    def watch(step: int, networks: torch.nn.ModuleDict) -> None:
        trained = TrainedSystem(Checkpoint(system, networks, {"system": "aavae"}), device)
        value = _elbo(trained, validation, 2000)["elbo"].value
        assert value is not None
        if not curve or value > max(v for _, v in curve):
            best.update(copy.deepcopy(networks.state_dict()))
        curve.append([step, value])

    with tempfile.TemporaryDirectory() as folder:
        every = max(1, cell["steps"] // EVALUATIONS)
        path = train(
            system,
            split,
            steps=cell["steps"],
            out=folder,
            seed=cell["seed"],
            device=device,
            watch=watch,
            watch_every=every,
            checkpoint_every=cell["steps"],
        )
        log = _last_row(Path(folder))
        trained = load_system(path, device)
    trained.checkpoint.networks.load_state_dict(best)
    scores = _elbo(trained, test, 10_000)
    found = {name: [scores[name].value, scores[name].std_error] for name in ("elbo", "reconstruction", "kl")}
    result = {"training_points": len(split), "labelled": system.labelled, "validation": curve, "test": found, "log": log}
    if system.labelled is not None:
        logits = trained.classify(test.floats())
        assert test.labels is not None
        result["accuracy"] = float((logits.argmax(1) == test.labels).double().mean())
    return result


def gan(cell: Cell) -> Result:
    """Train on all training points, draw samples, of every class in turn, and have them judged; or judge test data."""
    split, _, test = _parts(cell | {"seed": 0})
    device, judge = _device(), _Judge(cell["preset"])
    if cell["model"] == "test data":
        return judge.scores(test.floats(), test.labels)
    system = IWGAN(**cell["settings"])
    with tempfile.TemporaryDirectory() as folder:
        path = train(
            system, split, steps=cell["steps"], out=folder, seed=cell["seed"], device=device, checkpoint_every=cell["steps"]
        )
        log, trained = _last_row(Path(folder)), load_system(path, device)
    num, noise = SAMPLES[cell["preset"]], torch.Generator(device).manual_seed(cell["seed"])
    return judge.scores(trained.sample(num, generator=noise), trained.classes_in_turn(num)) | {"log": log}


class _Judge:
    """A classifier that klprobe trains on the training split, images as they are."""

    def __init__(self, preset: Preset) -> None:
        data = _load(preset, "train")
        self.shape = data.shape
        self.net, _ = own_net(data, models.RUNS / "judges", STEPS[preset]["judge"], _device())

    def scores(self, points: torch.Tensor, labels: torch.Tensor | None) -> Result:
        """Inception score and, where classes were asked for, accuracy."""
        features, _ = self.net.features(points.reshape(-1, *self.shape))
        found = list(InceptionScore().measure(features))
        if labels is not None:
            found += Accuracy().measure(features, labels)
        return {"judge": self.net.name, "samples": len(points)} | {s.quantity: [s.value, s.std_error] for s in found}


def _parts(cell: Cell) -> tuple[Data, Data, Data]:
    """Training points not held out, held-out ones, and test points, as the preset's networks take them."""
    training, test = (_load(cell["preset"], split) for split in ("train", "test"))
    if cell["preset"] == "quick":
        training, test = (dataclasses.replace(data, stored=data.stored.flatten(1)) for data in (training, test))
    held_out = len(training) // HELD_OUT
    rest = torch.arange(len(training) - held_out)
    return _chosen(training, rest), _chosen(training, torch.arange(len(training) - held_out, len(training))), test


def _load(preset: Preset, split: Any) -> Data:
    return dataset("digits" if preset == "tiny" else "mnist").load(split)


def _share(cell: Cell, available: int) -> int:
    """Points in so many per cent of all training points, held-out ones included; 100 % is what is not held out."""
    everyone = available * HELD_OUT // (HELD_OUT - 1)
    return min(available, everyone * cell["percent"] // 100)


def _some(data: Data, num: int, seed: int) -> Data:
    return _chosen(data, torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:num])


def _chosen(data: Data, which: torch.Tensor) -> Data:
    return dataclasses.replace(data, stored=data.stored[which], labels=None if data.labels is None else data.labels[which])


def _elbo(trained: TrainedSystem, data: Data, points: int) -> dict[str, Any]:
    """Scores by name, one draw a point, the same draws for every model."""
    labels = data.labels if trained.conditional else None
    scores = Elbo(draws=1, points=points).measure(trained, data.floats(), torch.Generator().manual_seed(0), data_labels=labels)
    return {score.quantity: score for score in scores}


def _last_row(folder: Path) -> dict[str, float]:
    """Of metrics.csv: means over the last steps."""
    with (folder / METRICS).open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    return {name: round(float(value), 5) for name, value in row.items() if name != "seconds" and value}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
