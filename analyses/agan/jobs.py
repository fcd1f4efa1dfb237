"""The jobs of the sweeps: systems x learning rates x weights, each trained and looked at by the papers' metrics.

python -m analyses.agan.box_plots --preset quick --jobs 2     # MNIST as vectors, three jobs a system
python -m analyses.agan.box_plots --preset paper --backend dask --address tcp://HOST:8786
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import torch

from analyses.machinery.cells import Cell, Preset, Result
from analyses.machinery.models import folder, pictures, points, trained
from klprobe.evaluation.feature_net import FeatureNet, read_net
from klprobe.metrics import Score
from klprobe.metrics.critic import Critic
from klprobe.metrics.fid import FID
from klprobe.metrics.inception_score import InceptionScore
from klprobe.metrics.ms_ssim import MsSsim
from klprobe.training.loop import CHECKPOINT

HERE = Path(__file__).parent / "results"
RECORDS = "sweep.jsonl"
GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "vae": {"lr": (1e-3, 5e-4, 5e-3)},
    "dcgan": {"lr": (1e-4, 2e-4, 3e-4)},
    "wgan-gp": {"lr": (1e-4, 2e-4, 3e-4)},
    "aae": {"lr": (1e-3, 5e-4, 5e-3), "code_lr": (5e-4, 5e-5, 1e-5)},
    "aae-plus": {"lr": (1e-4, 5e-4), "encoder_weight": (1, 5, 10, 50), "generator_weight": (1, 5, 10, 50)},
    "aae-gan": {"lr": (1e-4, 5e-4), "encoder_weight": (1, 5, 10, 50), "generator_weight": (1, 5, 10, 50)},
    "age": {"lr": (1e-4, 2e-4, 5e-4), "reconstruction_weight": (100, 500, 1000, 2000)},
    "veegan": {"lr": (1e-3, 5e-4), "discriminator_lr": (5e-5, 1e-4)},
}
"""DMVI Table 5, AGAN Table 2 and appendix H.1."""
QUICK: dict[str, tuple[dict[str, float], ...]] = {
    "aae": ({"lr": 1e-3}, {"lr": 5e-4}, {"lr": 1e-3, "code_lr": 5e-5}),
    "aae-plus": tuple({"encoder_weight": w, "generator_weight": w} for w in (1, 5, 10)),
    "aae-gan": tuple({"encoder_weight": w, "generator_weight": w} for w in (1, 5, 10)),
    "age": tuple({"reconstruction_weight": w} for w in (100, 500, 1000)),
    "veegan": ({"lr": 1e-3}, {"lr": 5e-4}, {"lr": 1e-3, "discriminator_lr": 5e-5}),
}
"""Three jobs a system; the others take the three learning rates of their grid."""
VECTORS: dict[str, Any] = {"width": 256, "layers": 2, "batch_norm": False, "output": "sigmoid"}
"""The MLP pair on MNIST as vectors, ours: minutes of a CPU go three times as far as with convolutions."""
PAPER = {"color-mnist": (100_000, (10, 50, 75)), "cifar-10": (200_000, (100,)), "celeba": (200_000, (100,))}
"""Data, iterations, latents (DMVI and AGAN, appendices)."""
STEPS = {"tiny": 4, "quick": 1500}
NETS = {"tiny": ("digits",), "quick": ("mnist", "fashion-mnist"), "paper": ("cifar-10",)}
"""Data that the classifiers behind the Inception scores are trained on; ImageNet's weights are not here."""
NET_STEPS = {"tiny": 4, "quick": 400, "paper": 80_000}
SHOWN = {"tiny": 60, "quick": 2000, "paper": 10_000}


def cells(preset: Preset) -> list[Cell]:
    """One trained model a cell, the first job of every system before the second."""
    if preset == "paper":
        where = [(data, steps, size) for data, (steps, sizes) in PAPER.items() for size in sizes]
        return [_cell(preset, system, *what, job) for what in where for system in GRID for job in _jobs(system)]
    data, latents = ("digits", 4) if preset == "tiny" else ("mnist:flat", 10)
    systems = ("aae-gan", "dcgan") if preset == "tiny" else tuple(GRID)
    listed = [(i, s, job) for s in systems for i, job in enumerate(QUICK.get(s) or _jobs(s))]
    listed = sorted((entry for entry in listed if entry[0] < (1 if preset == "tiny" else 3)), key=lambda entry: entry[0])
    return [_cell(preset, s, data, STEPS[preset], latents, VECTORS | job) for _, s, job in listed]


def work(cell: Cell) -> Result:
    """Train, draw samples, and let the metrics look at them and at as many test images."""
    model, preset = cell["model"], cell["preset"]
    loaded, shown = trained(model), SHOWN[preset]
    data = points(model, "test", shown).floats()
    made = loaded.sample(len(data), generator=torch.Generator().manual_seed(model["seed"]))
    found = looked_at(preset, images(made), images(data))
    critic = Critic(steps=2 if preset == "tiny" else 600)
    (distance,) = critic.measure(made, data, torch.Generator().manual_seed(0))
    found["critic"] = {**said(distance), "curve": distance.details["curves"][0]}
    return {"scores": found, "pictures": pictures(model)}


def looked_at(preset: Preset, made: torch.Tensor, data: torch.Tensor) -> dict[str, Any]:
    """Diversity, Inception scores and FID of samples, shape (n, C, H, W), and of data and noisy data in their place."""
    noisy = (data + 0.1 * torch.randn(data.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    found: dict[str, Any] = {}
    for whose, some in (("model", made), ("data", data), ("noisy data", noisy)):
        (diversity,) = MsSsim().measure(some, torch.Generator().manual_seed(0))
        found[f"diversity, {whose}"] = said(diversity)
    for i, name in enumerate(NETS[preset]):
        net = judge(name, NET_STEPS[preset])
        features = {w: net.features(some.reshape(-1, *(net.shape or ())))[0] for w, some in (("model", made), ("data", data))}
        for whose, of in features.items():
            (score,) = InceptionScore(splits=2 if preset == "tiny" else 10).measure(of)
            found[f"Inception score, {name} net, {whose}"] = said(score)
        if i == 0 and preset != "tiny":
            scores = FID().measure(features["model"], features["data"], torch.Generator().manual_seed(0))
            found[f"FID, {name} net, model"] = said(scores[0])
    return found


@functools.cache
def judge(name: str, steps: int) -> FeatureNet:
    """A classifier that klprobe trains on a data set, once."""
    small = {"batch_size": 64} if name == "digits" else {}
    classifier = {"system": "classifier", "dataset": name, "settings": small, "steps": steps, "seed": 0}
    return read_net(folder(classifier) / CHECKPOINT, "cpu")


def images(some: torch.Tensor) -> torch.Tensor:
    """The same as images: vectors fill a square."""
    side = int(some[0].numel() ** 0.5)
    return some if some.dim() == 4 else some.reshape(-1, 1, side, side)


def said(score: Score) -> dict[str, float]:
    """What a record keeps of a score."""
    return {"value": score.value, "error": score.std_error}


def _jobs(system: str) -> list[dict[str, float]]:
    return [dict(zip(GRID[system], values, strict=True)) for values in itertools.product(*GRID[system].values())]


def _cell(preset: Preset, system: str, data: str, steps: int, latents: int, settings: dict[str, Any]) -> Cell:
    model = {"system": system, "dataset": data, "settings": {"latent_dim": latents, **settings}, "steps": steps, "seed": 0}
    return {"preset": preset, "system": system, "model": model}
