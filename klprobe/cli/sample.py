"""`klprobe sample`: a picture of samples of a trained system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from klprobe.cli.flags import parse
from klprobe.cli.machine import DeviceName, choose_device
from klprobe.cli.output import answer
from klprobe.rendering.pictures import sampled_rows, save_rows
from klprobe.training.trained import load_system
from klprobe.types import CapabilityError, InputError


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Draw codes from the prior, decode them, and write one PNG: a grid of images, or a scatter plot of points of the plane.

    klprobe sample --checkpoint runs/vae/checkpoint.safetensors
    """

    checkpoint: Path
    """Checkpoint file that klprobe train wrote."""
    out: Path | None = None
    """PNG file to write; by default samples.png beside the checkpoint."""
    num: int = 64
    """Number of samples to draw. A system with classes draws one row of samples for each class."""
    seed: int = 0
    """Seed of the codes, which are drawn from the prior."""
    device: DeviceName = "auto"
    """Device for the generator; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    """Write the picture and print its path."""
    flags = parse(Flags, arguments, prog="klprobe sample")
    if flags.num < 1:
        raise InputError(f"--num needs at least 1 data point; got {flags.num}.")
    device = choose_device(flags.device)
    system = load_system(flags.checkpoint, device)
    if "decode" not in system.capabilities:
        raise CapabilityError(f"{flags.checkpoint.name} is a {system.name}, which has no generator to sample.")
    rng = torch.Generator(device).manual_seed(flags.seed)
    out = flags.out or flags.checkpoint.with_name("samples.png")
    save_rows(out, sampled_rows(system, flags.num, rng))
    answer(out)
    return 0
