"""Trained models that several items look at: each is trained once and kept in runs/ (or KLPROBE_RUNS), by what made it."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from klprobe import registry
from klprobe.datasets import dataset
from klprobe.estimation.report import Report
from klprobe.estimation.run import estimate
from klprobe.rendering.pictures import png, tiled
from klprobe.training.data import Data
from klprobe.training.loop import CHECKPOINT, METRICS, train
from klprobe.training.trained import TrainedSystem, load_system

RUNS = Path(os.environ.get("KLPROBE_RUNS", "runs"))


def folder(model: Mapping[str, Any]) -> Path:
    """The finished training run of `system`, `dataset`, `settings`, `steps` and `seed`; trained now unless it is there.

    Two processes that want the same model train it once: the second waits.
    """
    name = hashlib.sha256(json.dumps(dict(model), sort_keys=True).encode()).hexdigest()[:16]
    done, unfinished = RUNS / name, RUNS / f"{name}.unfinished"
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            system = registry.load("trainers", model["system"])(**model["settings"])
            data = dataset(model["dataset"]).load("train")
            begun = (unfinished / CHECKPOINT).exists()
            if not begun:
                shutil.rmtree(unfinished, ignore_errors=True)
            train(system, data, steps=model["steps"], out=unfinished, seed=model["seed"], resume=begun, checkpoint_every=250)
            unfinished.rename(done)
    return done


def trained(model: Mapping[str, Any]) -> TrainedSystem:
    """The model with its weights, in eval mode."""
    return load_system(folder(model) / CHECKPOINT)


def curve(model: Mapping[str, Any]) -> str:
    """The run's metrics.csv."""
    return (folder(model) / METRICS).read_text()


def posterior(model: Mapping[str, Any], split: str, num_points: int | None = None) -> Any:
    """q(z|x_n) of the first `num_points` points of a part of the model's data set."""
    data = points(model, split, num_points)
    return trained(model).encode_data(data)


def points(model: Mapping[str, Any], split: str, num_points: int | None = None) -> Data:
    """The first `num_points` points of a part of the model's data set."""
    data = dataset(model["dataset"]).load(split)
    first = {name: value[:num_points] for name in ("stored", "labels", "tint") if (value := getattr(data, name)) is not None}
    return dataclasses.replace(data, **first)


def facts(report: Report) -> dict[str, Any]:
    """What a record keeps of a report: its identity, brackets, verdict and every estimate, nats all."""
    kept = {"N": report.num_points, "D": report.latent_dim, "log_n": report.log_n, "verdict": report.verdict}
    for name in ("average_kl", "mutual_information"):
        quantity = getattr(report, name)
        kept[name] = [quantity.value, quantity.std_error]
    kept["active_units"] = report.active_units
    kept["brackets"] = {
        target: {name: [side.value, side.std_error, side.method] for name, side in (("lower", b.lower), ("upper", b.upper))}
        for target, b in report.brackets.items()
    }
    kept["estimates"] = [
        [e.method, e.quantity, e.target, e.bound, e.value, e.std_error, round(e.seconds, 2)] for e in report.estimates
    ]
    kept["not_done"] = [[n.method, n.reason] for n in report.not_done]
    return kept


def probe(model: Mapping[str, Any], split: str, methods: list[Any], num_points: int | None = None) -> dict[str, Any]:
    """klprobe's answer for a part of the model's data set."""
    q = posterior(model, split, num_points)
    report = estimate(q, methods=methods, split=split, trained_on="train", seed=model["seed"], marginals=False)
    return facts(report)


def pictures(model: Mapping[str, Any], num: int = 36) -> dict[str, str]:
    """Grids of samples, of test points and of their reconstructions, as base64 of PNG files, small enough for a record."""
    loaded, noise = trained(model), torch.Generator().manual_seed(model["seed"])
    drawn = {"samples": loaded.sample(num, generator=noise)}
    if "encode" in loaded.capabilities:
        drawn["data"] = points(model, "test", num).floats()
        drawn["reconstructions"] = loaded.reconstruct(drawn["data"], generator=noise)
    return {name: base64.b64encode(png(tiled(images))).decode() for name, images in drawn.items()}


def picture(encoded: str) -> NDArray[np.uint8]:
    """The pixels of one of `pictures`, for matplotlib's imshow."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def look_up(
    kept: Mapping[str, Any], method: str, quantity: str = "kl", target: str = "population"
) -> tuple[float, float] | None:
    """Value and standard error of one estimate in what `facts` kept, or None."""
    for name, what, of, _, mean, error, _ in kept["estimates"]:
        if (name, what, of) == (method, quantity, target):
            return mean, error
    return None
