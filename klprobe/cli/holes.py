"""`klprobe holes`: where the prior draws codes that no data point encodes to, and the reverse."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Annotated

import torch

from klprobe import cli
from klprobe.cli.estimate_flags import Bare, Source
from klprobe.cli.flags import parse
from klprobe.cli.machine import DeviceName, check_writable, choose_device
from klprobe.cli.output import answer, answer_json, give
from klprobe.cli.progress import bar
from klprobe.cli.source import read_source
from klprobe.estimation.holes import NUM_SAMPLES, Draws, Holes, find_holes
from klprobe.estimation.report import as_json
from klprobe.estimation.run import generator_of
from klprobe.files.images import has_picture
from klprobe.files.tensor_file import KIND, kind_of
from klprobe.rendering import holes as report
from klprobe.rendering.holes_figures import draw_holes, embed
from klprobe.runtime.provenance import commit, versions
from klprobe.training.trained import load_system
from klprobe.types import InputError

WIDTH = 100
DECODED = 64
"""Number of codes of each kind that are decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Draws, prior and device, and where to write the answer."""

    num_samples: int = NUM_SAMPLES
    """Number of draws of the prior, and of codes; with more, errors are smaller. klprobe estimate takes as many as the default
    here, and the same draws."""
    quantile: float = 0.01
    """Draws of the prior count as holes where the density is below this quantile of the density at the codes."""
    prior: str = "own"
    """Prior p(z). own is the prior of the checkpoint, or N(0, I) where it has none; klprobe estimate --help lists the
    others."""
    tsne: bool = False
    """Also draw a t-SNE figure, which takes some twenty seconds."""
    device: DeviceName = "auto"
    """Device for the encoder and the decoder; auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of all random numbers; on a CPU the same seed gives the same answer."""
    out: Path | None = None
    """Folder to write holes.html, holes.json, holes.npz (the ranked codes) and figures to; by default nothing is written."""
    json: bool = False
    """Print the results on stdout as a JSON document, klprobe.holes/1, and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Find where the prior draws codes that no data point encodes to, and the reverse.

    The answer gives the shares of mass, and a ranking of the worst places.

    klprobe holes --checkpoint runs/vae/checkpoint.safetensors --out holes
    """

    source: Annotated[Source, Bare]
    options: Annotated[Options, Bare] = dataclasses.field(default_factory=Options)


def run(arguments: list[str]) -> int:
    """Find holes; print them, and write them under --out."""
    flags = parse(Flags, arguments, prog="klprobe holes")
    source, options = flags.source, flags.options
    if options.out is not None:
        check_writable(options.out)
    elif options.tsne:
        raise InputError("--tsne draws a figure, and needs a folder for it: give --out.")
    device = choose_device(options.device)
    encoded, prior = read_source(source, options.prior, device)
    with bar("looking for holes") as progress:
        holes = find_holes(
            encoded.posterior,
            prior,
            num_samples=options.num_samples,
            level=options.quantile,
            generator=generator_of(options.seed, "holes"),
            progress=progress,
        )
    about = {
        "input": str(source.checkpoint),
        "split": encoded.split,
        "trained_on": encoded.trained_on,
        **encoded.provenance,
        "prior": str(prior),
        "seed": options.seed,
        "device": device,
        "command": ["klprobe", "holes", *arguments],
        "versions": versions(),
        "commit": commit(),
    }
    content = report.document(holes, about)

    def write(folder: Path) -> None:
        with bar("drawing"):
            plots = draw_holes(
                holes, _decoded(source.checkpoint, holes, device), embed(holes, options.seed) if options.tsne else None
            )
        report.save(holes, source.checkpoint.name, content, plots, folder)

    give(
        lambda: answer_json(as_json(content)) if options.json else answer(*screen(holes, source)),
        write,
        options.out,
        "holes",
    )
    return cli.ANSWERED


def screen(holes: Holes, source: Source) -> list[str]:
    """Make the lines of one screen."""
    lines = [report.TITLE, f"Given: {report.given(holes, source.checkpoint.name)}.", ""]
    lines += [f"{share:>15}  {what}" for what, share in report.shares(holes).items()]
    lines += ["", *textwrap.wrap(report.answer(holes), WIDTH), ""]
    lines += _table("Deepest holes, among likely draws of the prior", holes.deepest(report.SHOWN))
    lines += _table("Most crowded of the likely codes, one a data point", holes.crowded(report.SHOWN))
    lines += ["Latents that differ most from the prior (KL, nats)"]
    lines += [f"  {which:<19} {nats}" for which, nats in report.latents(holes)]
    return lines


def _table(title: str, draws: Draws) -> list[str]:
    """Make rows of log-densities, right-aligned under their names."""
    rows = report.top(draws, report.SHOWN)
    lines = [title, "".join(f"{name:>12}" for name in (*rows[0], "difference"))]
    for row in rows:
        numbers = [str(value) if name == "point" else f"{value:.1f}" for name, value in row.items()]
        lines.append("".join(f"{number:>12}" for number in (*numbers, f"{abs(row['log_p'] - row['log_q']):.1f}")))
    return [*lines, ""]


def _decoded(checkpoint: Path, holes: Holes, device: str) -> dict[str, torch.Tensor] | None:
    """Decode codes, ordinary draws of the prior, and the deepest holes, by a system that klprobe trained."""
    if not (checkpoint.is_file() and kind_of(checkpoint) == KIND):
        return None
    system = load_system(checkpoint, device)
    if not has_picture(system.shape):
        return None
    kinds = {
        "codes, z ~ q": holes.codes.take(torch.arange(min(DECODED, len(holes.codes.z)))),
        "draws of the prior, in no hole": holes.ordinary(DECODED),
        "deepest holes": holes.deepest(DECODED),
    }
    return {name: system.decode(draws.z, system.classes_in_turn(len(draws.z))) for name, draws in kinds.items() if len(draws.z)}
