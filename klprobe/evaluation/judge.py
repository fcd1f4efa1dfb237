"""Train the net that judges samples, a classifier of the data at hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path

from klprobe.evaluation.feature_net import FeatureNet, raw_values, read_net
from klprobe.trainers.classifier import Classifier
from klprobe.training.data import Data
from klprobe.training.loop import CHECKPOINT, train
from klprobe.types import InputError, Progress, no_progress

LEAST_BATCH = 2


def own_net(
    training: Data, cache: Path | None, steps: int, device: str = "cpu", progress: Progress = no_progress
) -> tuple[FeatureNet, str]:
    """Make a classifier of the training data, and a sentence about it; the values themselves where there are no classes.

    Args:
        training: Data, with labels or without.
        cache: Folder where it is kept for later runs; None keeps nothing.
        steps: Number of steps of its training.
        device: Device that it is trained on, and runs on.
    """
    if training.labels is None or len(training.labels.unique()) < 2:
        return (
            raw_values(),
            f"{training.name} has no labels of two classes to train a net on: features are the values themselves",
        )
    classes, batch_size = int(training.labels.max()) + 1, max(LEAST_BATCH, min(Classifier.batch_size, len(training)))
    algorithm = Classifier(classes=classes, batch_size=batch_size)
    with tempfile.TemporaryDirectory() as forgotten:
        folder = (cache or Path(forgotten)) / f"net-{_digest(training, algorithm, steps)}"
        path = folder / CHECKPOINT
        if not path.is_file():
            _train(algorithm, training, steps, folder, device, progress)
        net = read_net(path, device)
    return dataclasses.replace(net, own=True, value_range=None), f"features are those of a {net.name}, trained by klprobe"


def _train(algorithm: Classifier, training: Data, steps: int, folder: Path, device: str, progress: Progress) -> None:
    """Train in another folder, then move the whole net into place, so that two processes do not disturb each other."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            made = train(algorithm, training, steps=steps, out=draft, device=device, progress=progress)
            os.replace(made, folder / CHECKPOINT)
    except OSError as error:
        raise InputError(f"The net that judges cannot be kept in {folder} ({error}): give --cache another folder.") from error


def _digest(training: Data, algorithm: Classifier, steps: int) -> str:
    """Digest of everything that the net's weights depend on."""
    settings = [training.name, training.split, len(training), training.shape, dataclasses.asdict(algorithm), steps]
    state = hashlib.sha256(json.dumps(settings, default=str).encode())
    state.update(training.stored[:: max(1, len(training) // 1000)].numpy().tobytes())
    return state.hexdigest()[:16]
