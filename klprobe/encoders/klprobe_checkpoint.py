"""klprobe's own checkpoints: the encoder comes back, and encodes the data set it remembers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from klprobe import registry
from klprobe.checkpoint import KIND, Checkpoint, load_checkpoint, metadata
from klprobe.distributions import DiagonalGaussian, diagonal_normal
from klprobe.encoders._shared import Encoded, Request, sha256
from klprobe.types import CapabilityError, InputError, Progress, no_progress

__all__ = ["KlprobeCheckpoint"]

POINTS_AT_ONCE = 1000
"""Data points encoded at a time: bounds memory, not results (batch statistics are frozen)."""


@dataclass(frozen=True)
class KlprobeCheckpoint:
    """A system trained by `klprobe train`: .safetensors with weights and settings; its encoder encodes the data set."""

    def matches(self, path: Path) -> bool:
        """Whether the file is a safetensors whose header says `klprobe.kind = "checkpoint"`."""
        return path.suffix.lower() == ".safetensors" and metadata(path).get("klprobe.kind") == KIND

    def load(self, path: Path, request: Request) -> Encoded:
        """Encode the data set that was asked for, else the one trained on, in eval mode and float32.

        Raises:
            CapabilityError: the system has no encoder.
            InputError: damaged file, or a data set that is missing or of another shape.
        """
        trained = load_checkpoint(path, request.device)
        settings = trained.settings
        if not hasattr(trained.algorithm, "encode"):
            raise CapabilityError(
                f"{path.name} is a {settings['system']}, which has no encoder, so there is no q(z|x) to estimate: "
                "give the checkpoint of a system with one, such as vae."
            )
        name = (request.data or settings["dataset"]).replace("_", "-")
        data = registry.load("datasets", name)().load(request.split, request.data_root)
        if data.shape != tuple(settings["input_shape"]):
            raise InputError(
                f"{path.name} was trained on {settings['dataset']}, points of shape {tuple(settings['input_shape'])}, but "
                f"{name} has points of shape {data.shape}: choose another --data."
            )
        return Encoded(
            encode(trained, data, request.device, request.progress),
            split=request.split,
            trained_on=settings["split"] if name == settings["dataset"] else "unknown",
            provenance={
                "format": "klprobe-checkpoint",
                "file": path.name,
                "sha256": {path.name: sha256(path)},
                "data": name,
                "checkpoint": settings,
            },
        )


def encode(trained: Checkpoint, data: Any, device: str = "cpu", progress: Progress = no_progress) -> DiagonalGaussian:
    """q(z|x_n) of every point of a `klprobe.datasets` Data, float32, on the CPU."""
    means, stds = [], []
    with torch.no_grad():
        for start in range(0, len(data), POINTS_AT_ONCE):
            x = data.floats(slice(start, start + POINTS_AT_ONCE)).to(device)
            normal = diagonal_normal(trained.algorithm.encode(trained.networks, x))
            if normal is None:
                raise CapabilityError(f"{trained.settings['system']}: only diagonal-Gaussian encoders can be estimated so far.")
            means.append(normal[0].cpu())
            stds.append(normal[1].cpu())
            progress(min(start + POINTS_AT_ONCE, len(data)), len(data))
    return DiagonalGaussian(torch.cat(means), std=torch.cat(stds))
