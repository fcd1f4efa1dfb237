"""BMS Table 9: how unlike each other samples are, by LPIPS, on CelebA and CIFAR-10.

python -m analyses.bms.table_9                   # from the records
python -m analyses.bms.table_9 --preset quick    # training, measuring, table
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from analyses.bms.image_models import as_images, held_out, model
from analyses.bms.image_scores import with_error
from analyses.bms.image_settings import BMS_10, COMPARED, DIVERSITY, DIVERSITY_SAMPLES, Row
from analyses.machinery import models
from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main, markdown, reason
from klprobe.datasets import data_root
from klprobe.metrics.lpips import LPIPS

HERE = Path(__file__).parent / "results"
SAMPLES = {"tiny": 20, "quick": 1000, "paper": DIVERSITY_SAMPLES}
ALEXNET = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
"""Its convolutions: place, channels in and out, kernel."""
STAND_IN = "random-weights"
ABOUT = """Mean LPIPS over disjoint random pairs of samples. **LPIPS is a distance: 0 for equal images, higher is more
diverse**, and what real images have is the value to reach, for noise has more. The paper calls its lowest value the most
diverse; by the definition its numbers say that BMS-VAE-GAN's samples are the most alike of the three. ± is one standard
error over pairs; the spread over training seeds is not in it.

The paper's net is AlexNet with weights learned on photographs. They cannot come with klprobe: put their state dicts in
`KLPROBE_DATA/lpips`. Where the column "net" says {stand_in}, AlexNet has random weights instead, and **no value can be
compared with the paper's**, only systems and real images with each other."""
SHORT = """Quick rows on CIFAR-10 have {steps} training steps of {batch} images, and DCGAN networks: they show that the
whole way runs, and say nothing about finished systems."""


def rows(preset: Preset) -> dict[str, tuple[Row, ...]]:
    """The three systems on each data set; T = 10, where Tables 4 and 5 have 30."""
    which = "paper" if preset == "paper" else "quick"
    return {
        data: tuple(BMS_10 if row.settings.get("draws") == 30 else row for row in COMPARED[data][which]) for data in COMPARED
    }


def cells(preset: Preset) -> list[Cell]:
    """A model a row and data set; without CelebA its rows fail, and the table says why."""
    return [
        {"preset": preset, "data": data, "row": row.name, "model": model(preset, row)}
        for data, compared in rows(preset).items()
        for row in compared
    ]


def work(cell: Cell) -> Result:
    """Train; then samples, and as many held-out images in their place."""
    preset, wanted = cell["preset"], cell["model"]
    loaded, noise = models.trained(wanted), torch.Generator().manual_seed(wanted["seed"])
    blocks = torch.arange(SAMPLES[preset]).split(500)
    made = torch.cat([loaded.sample(len(block), generator=noise) for block in blocks])
    real = models.points(wanted, held_out(preset), SAMPLES[preset]).floats()
    metric, net = LPIPS(pairs=SAMPLES[preset] // 2), weights(models.RUNS)
    made = made.clamp(0, 1)  # of images it is already; the tiny preset's are vectors, which have no bounds
    (own,), (theirs,) = (metric.measure(as_images(x), net, noise) for x in (made, real))
    found = {"lpips": [own.value, own.std_error], "real": [theirs.value, theirs.std_error]}
    return {**found, "net": own.net, "pairs": own.details["pairs"]}


def weights(cache: Path) -> Path:
    """The folder `lpips` beside the data sets, or one with AlexNet of random weights, always the same."""
    given, stand_in = data_root(None) / "lpips", cache / STAND_IN
    if given.is_dir():
        return given
    file = stand_in / "alexnet.safetensors"
    if file.exists():
        return stand_in
    noise, state = torch.Generator().manual_seed(0), {}
    for place, channels, maps, kernel in ALEXNET:
        scale = math.sqrt(2 / (channels * kernel**2))  # He et al. (2015): keeps the size of what passes
        state[f"features.{place}.weight"] = scale * torch.randn(maps, channels, kernel, kernel, generator=noise)
        state[f"features.{place}.bias"] = torch.zeros(maps)
    stand_in.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")  # two processes may write it at once
    save_file(state, draft)
    draft.replace(file)
    return stand_in


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_9.md, one part a preset."""
    parts = ["# BMS Table 9", ABOUT.format(stand_in=STAND_IN)]
    for preset in dict.fromkeys(record["cell"]["preset"] for record in records):
        found = {(r["cell"]["data"], r["cell"]["row"]): r for r in records if r["cell"]["preset"] == preset}
        head = ["data, system", "paper", "ours", "real images", "net", "made"]
        lines = [line(data, row, found.get((data, row.name))) for data, some in rows(preset).items() for row in some]
        parts += [f"## Preset {preset}", markdown(head, lines)]
        if preset == "quick":  # CIFAR-10's come first
            trained = next(iter(found.values()))["cell"]["model"]
            parts.append(SHORT.format(steps=trained["steps"], batch=trained["settings"]["batch_size"]))
    path = folder / "table_9.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path]


def line(data: str, row: Row, record: Record | None) -> list[str]:
    """The paper's value, ours and that of real images, or why there is none."""
    paper = next(value for name, value in DIVERSITY[data].items() if row.name.startswith(name))
    name = f"{data}, {row.name}"
    if record is None or not record["result"]:
        return [name, f"{paper:g}", "none", "none", "", reason(record) if record else "not run yet"]
    result, seed = record["result"], record["cell"]["model"]["seed"]
    made = f"{result['pairs']:,} pairs, seed {seed}, {record['date']}"
    return [name, f"{paper:g}", with_error(result["lpips"]), with_error(result["real"]), result["net"], made]


def headline(rows: list[Record]) -> str:
    """LPIPS of every system, and of real images."""
    said = {f"{r['cell']['data']}, {r['cell']['row']}": r["result"]["lpips"][0] for r in rows}
    said |= {f"{r['cell']['data']}, real images": r["result"]["real"][0] for r in rows}
    return f"under {rows[0]['result']['net']}: " + "; ".join(f"{name} {value:.3f}" for name, value in said.items())


ITEM = Item(
    order=7,
    title="BMS Table 9",
    paper="LPIPS .140 to .162, lowest called most diverse",
    headline=headline,
    folder=HERE,
    records="table_9.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
