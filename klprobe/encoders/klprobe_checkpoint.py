"""klprobe's own checkpoints: the encoder comes back, and encodes the data set it remembers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from klprobe.checkpoint import KIND, Checkpoint, load_checkpoint
from klprobe.distributions import ConditionalDistribution, DiagonalGaussian, SampleOnly, diagonal_normal
from klprobe.encoders._inputs import Inputs, inputs_of, open_inputs
from klprobe.encoders._shared import Encoded, Request, refuse_flags, sha256
from klprobe.files.tensor_file import kind_of
from klprobe.printable import LONGEST, short
from klprobe.remembered import dataset_of_file, notes_of
from klprobe.types import CapabilityError, InputError, Progress, no_progress

__all__ = ["KlprobeCheckpoint"]

POINTS_AT_ONCE = 1000
"""Data points encoded at a time, at most: bounds memory, not results (batch statistics are frozen)."""
SPLITS = ("train", "validation", "test", "all")
NOISE_SEED = 0
"""Of an implicit encoder's noise: it is drawn once, when the file is read, and the same for every run."""


@dataclass(frozen=True)
class KlprobeCheckpoint:
    """A system trained by `klprobe train`: .safetensors with weights and settings; its encoder encodes the data set."""

    def matches(self, path: Path) -> bool:
        """Whether the file is a safetensors whose header says `klprobe.kind = "checkpoint"`."""
        return path.suffix.lower() == ".safetensors" and kind_of(path) == KIND

    def load(self, path: Path, request: Request) -> Encoded:
        """Encode the data set that was asked for, else the one trained on, in eval mode and float32.

        Raises:
            CapabilityError: the system has no encoder.
            InputError: damaged file, or a data set that is missing, of another shape, or not of klprobe's own and named by the
                file alone.
        """
        trained = load_checkpoint(path, request.device)
        settings = trained.settings
        if not hasattr(trained.algorithm, "encode"):
            raise CapabilityError(
                f"{path.name} is a {settings['system']}, which has no encoder, so there is no q(z|x) to estimate: "
                f"load a system with one, such as vae. To see its data: klprobe sample --checkpoint {path}"
            )
        refuse_flags(request, ("encoder", "outputs"), f"{path.name} says itself what its encoder is and returns")
        data, notes = _inputs(settings, path.name, request)
        if data.shape != tuple(settings["input_shape"]):
            raise InputError(
                f"{path.name} was trained on {_bare(settings['dataset'])}, points of shape {tuple(settings['input_shape'])}, "
                f"but {data.name} has points of shape {data.shape}: choose another --data."
            )
        same = data.name == settings["dataset"]
        return Encoded(
            encode(trained, data, request.device, request.progress),
            getattr(trained.algorithm, "prior_distribution", None),
            split=data.split,
            trained_on=settings["split"] if same and settings["split"] in SPLITS else "unknown",
            provenance={
                "format": "klprobe-checkpoint",
                "file": path.name,
                "sha256": {path.name: sha256(path)},
                **data.facts(),
                "checkpoint": settings,
            },
            notes=(*notes, *data.notes),
        )


def _inputs(settings: Mapping[str, Any], label: str, request: Request) -> tuple[Inputs, tuple[str, ...]]:
    """The data that the user names, as she means it, else those that the file remembers, if klprobe has them; and notes."""
    if request.data:
        return open_inputs(request, label), ()
    chosen = dataset_of_file(settings["dataset"], label, settings["input_shape"])
    return inputs_of(chosen, request), notes_of(chosen, label)


def _bare(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= LONGEST else short(name)


def encode(trained: Checkpoint, data: Any, device: str = "cpu", progress: Progress = no_progress) -> ConditionalDistribution:
    """q(z|x_n) of every point of a `klprobe.datasets` Data, float32, on the CPU; one sample a point without a density.

    A posterior that runs its network for every density keeps the data, on the device, and the network. A conditional system
    gets the labels of the data: q(z|x_n, y_n).

    Raises:
        CapabilityError: a conditional system, and data without labels.
    """
    noise, parts, done = torch.Generator(device).manual_seed(NOISE_SEED), [], 0
    conditional = getattr(trained.algorithm, "conditional", False)
    if conditional and data.labels is None:
        raise CapabilityError(f"the {trained.settings['system']} encodes data of known class, and {data.name} has no labels")

    def of(which: slice, noise: torch.Generator | None) -> Any:
        known = (data.labels[which].to(device),) if conditional else ()
        return trained.algorithm.encode(trained.networks, data.floats(which).to(device), noise, *known)

    with torch.no_grad():
        some = of(slice(0, 2), torch.Generator(device))
        if isinstance(some, ConditionalDistribution) and not isinstance(some, SampleOnly):
            return of(slice(0, len(data)), None)
        # blocks of nearly equal size: the last one never holds a single point, which is no posterior
        for indices in torch.arange(len(data)).tensor_split(math.ceil(len(data) / POINTS_AT_ONCE)):
            parts.append(of(slice(done, done + len(indices)), noise))
            done += len(indices)
            progress(done, len(data))
    if isinstance(parts[0], SampleOnly):
        samples = torch.cat([q.samples for q in parts]).cpu()
        return SampleOnly(samples, deterministic=parts[0].deterministic)
    normals = [diagonal_normal(q) for q in parts]
    means, stds = zip(*(normal for normal in normals if normal is not None), strict=True)
    return DiagonalGaussian(torch.cat(means).cpu(), std=torch.cat(stds).cpu())
