"""`klprobe reconstruct`: a picture of data and of their reconstructions by a trained auto-encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from klprobe.cli.flags import parse
from klprobe.cli.machine import DeviceName, choose_device
from klprobe.cli.output import answer
from klprobe.cli.source import choose_dataset, read_dataset
from klprobe.rendering.pictures import save_rows
from klprobe.training.trained import load_system
from klprobe.types import CapabilityError, InputError


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Encode and decode the first points of a data set, and write one PNG: rows of data with their reconstructions below.

    klprobe reconstruct --checkpoint runs/vae/checkpoint.safetensors --split test
    """

    checkpoint: Path
    """Checkpoint file that klprobe train wrote, of a system with an encoder."""
    out: Path | None = None
    """PNG file to write; by default reconstructions.png beside the checkpoint."""
    num: int = 32
    """Number of data points to reconstruct."""
    data: str | None = None
    """Data set to take the points from; by default the one that the system was trained on."""
    split: Literal["train", "test", "all"] = "test"
    """Part of the data set to take the points from."""
    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""
    seed: int = 0
    """Seed of the codes, which are drawn from q(z|x)."""
    device: DeviceName = "auto"
    """Device for the networks; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    """Write the picture and print its path."""
    flags = parse(Flags, arguments, prog="klprobe reconstruct")
    if flags.num < 2:
        raise InputError(f"--num needs at least 2 data points; got {flags.num}.")
    device = choose_device(flags.device)
    system = load_system(flags.checkpoint, device)
    if "encode" not in system.capabilities:
        raise CapabilityError(
            f"{flags.checkpoint.name} is a {system.name}, which has no encoder, so it reconstructs nothing: "
            f"klprobe sample --checkpoint {flags.checkpoint} shows what it makes."
        )
    name, chosen = choose_dataset(flags.data, system.settings, flags.checkpoint.name)
    data = read_dataset(chosen, name, flags.split, flags.data_root)
    if data.shape != system.shape:
        raise InputError(
            f"{flags.checkpoint.name} was trained on points of shape {system.shape}, but {name} has "
            f"points of shape {data.shape}: choose another --data."
        )
    x = data.floats(slice(0, flags.num))
    labels = data.labels[: flags.num] if "labels" in system.capabilities and data.labels is not None else None
    rng = torch.Generator(device).manual_seed(flags.seed)
    out = flags.out or flags.checkpoint.with_name("reconstructions.png")
    save_rows(out, {"data": x, "reconstructions": system.reconstruct(x, labels, rng)})
    answer(out)
    return 0
