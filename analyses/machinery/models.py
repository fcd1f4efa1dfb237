"""Trained models that several items look at: each is trained once, and kept by what made it, in the user's cache folder.

`KLPROBE_RUNS` names another folder, and `KLPROBE_DEVICE` where networks are trained and run.
"""

from __future__ import annotations

import base64
import dataclasses
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

from analyses.machinery.kept import cache_folder, lock
from analyses.machinery.session import current
from klprobe import registry
from klprobe.datasets import dataset
from klprobe.estimation.report import Report
from klprobe.estimation.run import estimate
from klprobe.files.tensor_file import opened
from klprobe.rendering.pictures import png, tiled
from klprobe.training.data import Data
from klprobe.training.loop import CHECKPOINT, METRICS, train
from klprobe.training.trained import TrainedSystem, load_system
from klprobe.types import INTERRUPTED

RUNS = cache_folder()
DEVICE = os.environ.get("KLPROBE_DEVICE", "cpu")
CHECKPOINT_EVERY = {"cpu": 250, "cuda": 5000}
"""Steps; a model's steps that are no multiple of these would have a row of metrics.csv that a longer run has not."""
CHECKPOINT_SECONDS = 300.0
"""What a killed run loses at most."""


def folder(model: Mapping[str, Any]) -> Path:
    """The finished training run of `system`, `dataset`, `settings`, `steps` and `seed`; trained now unless it is there.

    A longer run of the same kind goes on from a shorter one, and is then the same to the bit as if from the start. Two
    processes that want the same kind train it once: the second waits, or raises `Taken`, as the session wants it.

    Raises:
        Stopped: the session was told to end; the run has a checkpoint.
    """
    name, session = kind(model), current()
    done, unfinished = run_of(model), RUNS / f"{run_of(model).name}.unfinished"
    RUNS.mkdir(parents=True, exist_ok=True)
    with lock(RUNS / f"{name}.lock", wait=session.waits):
        if not done.exists():
            system = registry.load("trainers", model["system"])(**model["settings"])
            data = dataset(model["dataset"]).load("train")
            if not (unfinished / CHECKPOINT).exists():
                _begin(model, unfinished)
            with session.until_checkpoint():
                train(
                    system,
                    data,
                    steps=model["steps"],
                    out=unfinished,
                    seed=model["seed"],
                    device=DEVICE,
                    resume=(unfinished / CHECKPOINT).exists(),
                    progress=lambda step, steps, note="": session.tell(name, step, steps),
                    checkpoint_every=CHECKPOINT_EVERY[DEVICE.partition(":")[0]],
                    checkpoint_seconds=CHECKPOINT_SECONDS,
                    stop=lambda: session.asked,
                )
                if steps_in(unfinished) == model["steps"]:
                    unfinished.rename(done)
    return done


def kind(model: Mapping[str, Any]) -> str:
    """A name for all that makes a model but its steps: models of one kind are one run, looked at after more and more steps."""
    made = {name: value for name, value in model.items() if name != "steps"} | ({} if DEVICE == "cpu" else {"device": DEVICE})
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def run_of(model: Mapping[str, Any]) -> Path:
    """Where a model's finished run lies, or will."""
    return RUNS / f"{kind(model)}-{model['steps']}"


def steps_done(model: Mapping[str, Any]) -> int:
    """How far the model's training is, by the checkpoints that are there."""
    runs = [run for run in (run_of(model), RUNS / f"{run_of(model).name}.unfinished", *_shorter(model)) if run.exists()]
    return max((steps_in(run) for run in runs), default=0)


def steps_in(run: Path) -> int:
    """Steps of a run's checkpoint; 0 where it has none."""
    path = run / CHECKPOINT
    if not path.exists():
        return 0
    with opened(path) as file:
        return int(json.loads(file.header["klprobe.settings"])["steps"])


def _shorter(model: Mapping[str, Any]) -> list[Path]:
    """Finished runs of the same kind with fewer steps, the longest first."""
    every = CHECKPOINT_EVERY[DEVICE.partition(":")[0]]
    found = {int(path.name.rpartition("-")[2]): path for path in RUNS.glob(f"{kind(model)}-*[0-9]")}
    return [found[steps] for steps in sorted(found, reverse=True) if steps < model["steps"] and steps % every == 0]


def _begin(model: Mapping[str, Any], unfinished: Path) -> None:
    """Clear what cannot be resumed, and take over the longest finished run of the same kind, whole or not at all."""
    shutil.rmtree(unfinished, ignore_errors=True)
    for run in _shorter(model)[:1]:
        draft = unfinished.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(run, draft)
        draft.rename(unfinished)


def trained(model: Mapping[str, Any]) -> TrainedSystem:
    """The model with its weights, in eval mode."""
    return load_system(folder(model) / CHECKPOINT, DEVICE)


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
    """What a record keeps of a report: its identity, brackets, verdict and every estimate, nats all.

    Raises:
        KeyboardInterrupt: the estimation was interrupted; a record is of a whole run.
    """
    if any(missing.reason == INTERRUPTED for missing in report.not_done):
        raise KeyboardInterrupt
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
    methods = [_on_device(method) for method in methods]
    report = estimate(q, methods=methods, split=split, trained_on="train", seed=model["seed"], marginals=False)
    return facts(report)


def _on_device(method: Any) -> Any:
    """The same estimator where networks run, if it has the choice."""
    return dataclasses.replace(method, device=DEVICE) if DEVICE != "cpu" and method.device is not None else method


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
