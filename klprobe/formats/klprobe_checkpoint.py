"""klprobe's own checkpoints: the encoder is rebuilt, and encodes the data set that the file names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klprobe.files.remembered import dataset_of_file, notes_of
from klprobe.files.tensor_file import KIND, kind_of
from klprobe.formats import Encoded, Request, refuse_flags, sha256
from klprobe.formats._inputs import Inputs, inputs_of, open_inputs
from klprobe.printable import LONGEST, short
from klprobe.training.trained import load_system
from klprobe.types import CapabilityError, InputError

__all__ = ["KlprobeCheckpoint"]
SPLITS = ("train", "validation", "test", "all")
HARMLESS = ("flip", "shift", "flat", "strict", "gray", "rgb", "resize", "size", "scale")
"""Settings of data sets that change how points look, and not which of them are in a split."""


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
            InputError: the file is damaged, or the data set is missing, has another shape, or is not klprobe's own and named by
                the file alone.
        """
        system = load_system(path, request.device)
        settings = system.settings
        if "encode" not in system.capabilities:
            raise CapabilityError(
                f"{path.name} is a {system.name}, which has no encoder, so there is no q(z|x) to estimate: "
                f"load a system with one, such as vae. To see its data: klprobe sample --checkpoint {path}"
            )
        refuse_flags(request, ("encoder", "outputs", "inputs"), f"{path.name} says itself what its encoder is and returns")
        data, notes = _inputs(settings, path.name, request)
        if data.shape != system.shape:
            raise InputError(
                f"{path.name} was trained on {_bare(settings['dataset'])}, points of shape {system.shape}, "
                f"but {data.name} has points of shape {data.shape}: choose another --data."
            )
        posterior = system.encode_data(data, progress=request.progress)
        return Encoded(
            posterior,
            system.checkpoint.algorithm.prior_distribution,
            split=data.split,
            trained_on=_trained_on(settings, data.name),
            provenance={
                "format": "klprobe-checkpoint",
                "file": path.name,
                "sha256": {path.name: sha256(path)},
                **data.facts(),
                "checkpoint": settings,
            },
            notes=(*notes, *data.notes),
            checks=data.checks,
        )


def _inputs(settings: Mapping[str, Any], label: str, request: Request) -> tuple[Inputs, tuple[str, ...]]:
    """Open the data that the user names, or else those that the file names if they are klprobe's; with notes."""
    if request.data:
        return open_inputs(request, label), ()
    chosen = dataset_of_file(settings["dataset"], label, settings["input_shape"])
    return inputs_of(chosen, request), notes_of(chosen, label)


def _trained_on(settings: Mapping[str, Any], data: str) -> str:
    """The split that the system was trained on, where the data are of the same set; else `unknown`."""
    of_system, split = settings["dataset"], settings["split"]
    if not isinstance(of_system, str) or split not in SPLITS or _points_of(of_system) != _points_of(data):
        return "unknown"
    return str(split)


def _points_of(name: str) -> tuple[str, frozenset[str]]:
    """What of a data set's name says which points are in its splits."""
    first, *given = name.split(":")
    apart = frozenset(part for part in given if part.partition("=")[0].replace("-", "_") not in HARMLESS)
    return first.replace("_", "-"), apart


def _bare(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= LONGEST else short(name)
