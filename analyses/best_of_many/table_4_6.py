"""BMS Tables 4 and 6: FID and IvOM on CIFAR-10.

python -m analyses.best_of_many.table_4_6                   # from the records
python -m analyses.best_of_many.table_4_6 --preset quick    # training, measuring, table
"""

from __future__ import annotations

from pathlib import Path

import torch

from analyses import models
from analyses.best_of_many.image_settings import DCGAN, GENERATED, LATENTS, QUOTED, REAL, STEPS, TABLES, Row
from analyses.cells import Cell, Item, Preset, Record, Result, main, markdown
from klprobe.judge import own_net
from klprobe.loading import dataset
from klprobe.metrics.fid import FID
from klprobe.metrics.ivom import Ivom
from klprobe.pictures import sample
from klprobe.trained import Trained

HERE = Path(__file__).parent
SIZES = {"tiny": (100, 80, 3, 2), "quick": (4000, 2000, 40, 100), "paper": (REAL, GENERATED, 1000, 300)}
"""Real and generated images of the FID, images and steps of the IvOM. The paper gives no sizes of its IvOM."""
QUICK = (
    *TABLES[:5],
    Row("SN-GAN, DCGAN networks", "sngan", DCGAN),
)
"""The standard CNN takes six times as long a step, and has no quick rows."""
ABOUT = """FID with 64 features of a small classifier that klprobe trained on the same images, where the paper has those of
Inception: **only the order of rows can be compared with the paper, no value**. IvOM is the mean squared error a value of the
nearest image that a code gives, in [0, 1]; the paper's scale is not known. ± is one standard error over images; the spread over
training seeds is not in it."""
SHORT = """Quick rows show that the whole way runs, and no more: they have {steps} training steps of {batch} images, where the
paper has {iterations:,} iterations, and say nothing about finished systems."""


def cells(preset: Preset) -> list[Cell]:
    """A model a row."""
    rows = TABLES if preset == "paper" else QUICK
    return [
        {
            "preset": preset,
            "row": row.name,
            "model": {
                "system": row.system,
                "dataset": {"tiny": "digits", "quick": "cifar-10:partial:validation=5000", "paper": "cifar-10"}[preset],
                "settings": {**row.settings, **SETTINGS[preset]},
                "steps": {"tiny": 3, "quick": 200, "paper": STEPS}[preset],
                "seed": 0,
            },
        }
        for row in rows
    ]


SETTINGS = {"tiny": {"latent_dim": 4}, "quick": {"latent_dim": LATENTS, "batch_size": 32}, "paper": {"latent_dim": LATENTS}}
NET_STEPS = {"tiny": 3, "quick": 300, "paper": 20_000}


def work(cell: Cell) -> Result:
    """Train; then samples against held-out images, and the search for codes of held-out images."""
    preset, model = cell["preset"], cell["model"]
    real, generated, points, steps = SIZES[preset]
    held_out = "validation" if preset == "quick" else "test"
    loaded, noise = models.trained(model), torch.Generator().manual_seed(model["seed"])
    net, _ = own_net(dataset(model["dataset"]).load("train"), models.RUNS, NET_STEPS[preset])
    data = models.points(model, held_out, real).floats()
    samples = torch.cat([sample(loaded.algorithm, loaded.networks, len(n), noise) for n in torch.arange(generated).split(500)])
    features = [net.features(images)[0] for images in (samples, data)]
    fid, extrapolated = FID().measure(*features, noise)
    (ivom,) = Ivom(points=points, steps=steps, restarts=1 if preset == "quick" else 3).measure(Trained(loaded), data, noise)
    scores = {"fid": fid, "fid_infinity": extrapolated, "ivom": ivom}
    counts = {"real": len(data), "generated": len(samples), "ivom_points": points, "ivom_steps": steps}
    return {name: [score.value, score.std_error] for name, score in scores.items()} | counts | {"net": fid.net}


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_4_6.md, one part a preset."""
    parts = ["# BMS Tables 4 and 6", ABOUT]
    for preset in dict.fromkeys(record["cell"]["preset"] for record in records):
        parts += part(preset, [record for record in records if record["cell"]["preset"] == preset])
    path = folder / "table_4_6.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path]


def part(preset: Preset, records: list[Record]) -> list[str]:
    """Title, table, what the preset is worth, and both orders."""
    last = {record["cell"]["row"]: record for record in records}
    head = ["system", "paper: FID", "FID", "FID, infinitely many", "paper: IvOM", "IvOM", "CPU minutes", "made"]
    known = [ROWS[cell["row"]] for cell in cells(preset)]
    lines = [line(row, last.get(row.name)) for row in known]
    if preset == "paper":
        lines += [[f"{name} (quoted)", f"{fid:g}", *("" for _ in head[2:])] for name, fid in QUOTED]
    parts = [f"## Preset {preset}", markdown(head, lines)]
    if preset == "quick":
        model = records[0]["cell"]["model"]
        parts.append(SHORT.format(steps=model["steps"], batch=model["settings"]["batch_size"], iterations=STEPS))
    done = {name: record["result"] for name, record in last.items() if record["result"]}
    ranked = [row for row in known if row.name in done and row.fid is not None]
    if ranked:
        by_paper, by_ours = (
            sorted(ranked, key=lambda row: row.fid or 0),
            sorted(ranked, key=lambda row: done[row.name]["fid"][0]),
        )
        for who, order in (("the paper", by_paper), ("ours", by_ours)):
            parts.append(f"Best to worst by FID, {who}: {' < '.join(row.name for row in order)}.")
    if done:
        result = next(iter(done.values()))
        parts.append(
            f"FID: {result['generated']:,} samples against {result['real']:,} held-out images, features of {result['net']}. "
            f"IvOM: {result['ivom_points']:,} images, {result['ivom_steps']} steps of Adam."
        )
    return parts


ROWS = {row.name: row for row in (*TABLES, *QUICK)}


def line(row: Row, record: Record | None) -> list[str]:
    """The paper's values and ours, or why there are none."""
    result = record["result"] if record else None
    ours = [_with_error(result[name]) for name in ("fid", "fid_infinity", "ivom")] if result else ["", "", ""]
    made, minutes = "not run yet", ""
    if record:
        made = record["failed"] or f"seed {record['cell']['model']['seed']}, {record['date']}"
        minutes = f"{record['cpu_seconds'] / 60:.1f}"
    return [row.name, _number(row.fid), ours[0], ours[1], _number(row.ivom), ours[2], minutes, made]


def _with_error(pair: list[float | None]) -> str:
    value, error = pair
    return "none" if value is None else f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.1g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


ITEM = Item("BMS Tables 4 and 6", HERE, "table_4_6.jsonl", cells, work, write)

if __name__ == "__main__":
    main(ITEM)
