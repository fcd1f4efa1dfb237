"""BMS Figures 2, 4 and 5: random samples on CelebA and on CIFAR-10.

python -m analyses.bms.figures_2_4_5                   # from the records
python -m analyses.bms.figures_2_4_5 --preset quick    # training and pictures
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from analyses.bms.image_models import model, of_last_preset, save_small, tiles
from analyses.bms.image_settings import COMPARED, SHOWN_FACES, Row
from analyses.machinery import models
from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main, reason

HERE = Path(__file__).parent / "results"
TILES = {"cifar-10": 36, "celeba": 16}
FILES = {"celeba": ("figure_2_4.png", "Figures 2 and 4: CelebA"), "cifar-10": ("figure_5.png", "Figure 5: CIFAR-10")}
ABOUT = """Random samples, not chosen. Figure 4 shows BEGAN and Dist-GAN too, which klprobe does not have; who is in Figure
2 is our reading of section 4.3. Figure 5 has the standard CNN and T = 30 in the paper, and no SN-GAN."""
SHORT = """Preset quick has {steps} training steps of {batch} images and DCGAN networks: the pictures show that the whole
way runs, and say nothing about finished systems."""


def rows(preset: Preset) -> dict[str, Sequence[Row]]:
    """Whose samples are shown, by data set."""
    return {"cifar-10": COMPARED["cifar-10"]["paper" if preset == "paper" else "quick"], "celeba": SHOWN_FACES}


def cells(preset: Preset) -> list[Cell]:
    """A model a panel; without CelebA its panels fail, and the page says why."""
    return [
        {"preset": preset, "data": data, "row": row.name, "model": model(preset, row)}
        for data, shown in rows(preset).items()
        for row in shown
    ]


def work(cell: Cell) -> Result:
    """Train, and draw samples."""
    loaded, noise = models.trained(cell["model"]), torch.Generator().manual_seed(cell["model"]["seed"])
    return {"samples": tiles(loaded.sample(TILES[cell["data"]], generator=noise))}


def write(records: list[Record], folder: Path) -> list[Path]:
    """figures_2_4_5.md and a picture for each data set, of the last preset that has records."""
    parts, written = ["# BMS Figures 2, 4 and 5", ABOUT], []
    kept = of_last_preset(records)
    for data, (name, title) in FILES.items():
        mine = [record for record in kept if record["cell"]["data"] == data]
        done = [record for record in mine if record["result"]]
        parts.append(f"## {title}")
        if done:
            written.append(save_small(folder / name, (3.0 * len(done), 3.3), partial(panels, done=done)))
            parts.append(f"![Samples of {'; '.join(record['cell']['row'] for record in done)}]({name})")
        failed = {
            reason(record): [r["cell"]["row"] for r in mine if r["failed"] == record["failed"]]
            for record in mine
            if record["failed"]
        }
        parts += [f"No samples of {'; '.join(names)}: {why}." for why, names in failed.items()]
        if not mine:
            parts.append("Not run yet.")
        quick = [record["cell"]["model"] for record in done if record["cell"]["preset"] == "quick"]
        parts += [SHORT.format(steps=m["steps"], batch=m["settings"]["batch_size"]) for m in quick[:1]]
    path = folder / "figures_2_4_5.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path, *written]


def panels(figure: Figure, done: Sequence[Record]) -> None:
    """A grid of samples for each system."""
    for axes, record in zip(figure.subplots(1, len(done), squeeze=False)[0], done, strict=True):
        axes.imshow(models.picture(record["result"]["samples"]), interpolation="nearest")
        axes.set_title(record["cell"]["row"], fontsize=8)
        axes.set_axis_off()


def headline(rows: list[Record]) -> str:
    """Whose samples there are."""
    return "samples of " + "; ".join(f"{r['cell']['row']} on {r['cell']['data']}" for r in rows)


ITEM = Item(
    order=8,
    title="BMS Figures 2, 4, 5",
    paper="pictures",
    headline=headline,
    folder=HERE,
    records="figures_2_4_5.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
