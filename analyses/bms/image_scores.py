"""FID and IvOM of trained systems, and the tables that show them beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from analyses.bms.image_models import held_out
from analyses.bms.image_settings import IMAGES, STEPS, Row
from analyses.machinery import models
from analyses.machinery.cells import Cell, Preset, Record, Result, markdown, reason
from klprobe.datasets import dataset
from klprobe.evaluation.feature_net import FeatureNet
from klprobe.evaluation.judge import own_net
from klprobe.metrics.fid import FID
from klprobe.metrics.ivom import Ivom

SIZES = {"tiny": (100, 80, 3, 2), "quick": (4000, 2000, 40, 100)}
SEARCH = (1000, 300)
"""Real and generated images of the FID, images and steps of the IvOM; the paper gives none for the latter."""
NET = {"tiny": ("digits", 3), "quick": ("cifar-10:partial:validation=5000", 300), "paper": ("cifar-10", 20_000)}
"""The images that the feature net of the FID learns to classify, and its steps; CelebA's have no classes."""
SHORT = """Quick rows show that the whole way runs, and no more: they have {steps} training steps of {batch} images, where the
paper has {iterations:,} iterations, and say nothing about finished systems."""


def work(cell: Cell) -> Result:
    """Train; then samples against held-out images, and the search for codes of held-out images."""
    preset, model = cell["preset"], cell["model"]
    real, generated, points, steps = SIZES.get(preset) or (*IMAGES[model["dataset"]], *SEARCH)
    loaded, noise = models.trained(model), torch.Generator().manual_seed(model["seed"])
    net = judge(preset)
    data = models.points(model, held_out(preset), real).floats()
    samples = torch.cat([loaded.sample(len(n), generator=noise) for n in torch.arange(generated).split(500)])
    features = [net.features(images)[0] for images in (samples, data)]
    fid, extrapolated = FID().measure(*features, noise)
    (ivom,) = Ivom(points=points, steps=steps, restarts=1 if preset == "quick" else 3).measure(loaded, data, noise)
    scores = {"fid": fid, "fid_infinity": extrapolated, "ivom": ivom}
    counts = {"real": len(data), "generated": len(samples), "ivom_points": points, "ivom_steps": steps}
    return {name: [score.value, score.std_error] for name, score in scores.items()} | counts | {"net": fid.net}


def judge(preset: Preset) -> FeatureNet:
    """The net whose features the FID compares: a classifier, trained once."""
    name, steps = NET[preset]
    return own_net(dataset(name).load("train"), models.RUNS, steps)[0]


def part(preset: Preset, rows: Sequence[Row], quoted: Sequence[tuple[str, float]], records: list[Record]) -> list[str]:
    """Of one preset: title, table, what the preset is worth, and both orders."""
    last = {record["cell"]["row"]: record for record in records}
    head = ["system", "paper: FID", "FID", "FID, infinitely many", "paper: IvOM", "IvOM", "CPU minutes", "made"]
    lines = [line(row, last.get(row.name)) for row in rows]
    lines += [[f"{name} (quoted)", f"{fid:g}", *("" for _ in head[2:])] for name, fid in quoted]
    parts = [f"## Preset {preset}", markdown(head, lines)]
    done = {name: record["result"] for name, record in last.items() if record["result"]}
    if preset == "quick" and done:
        model = records[0]["cell"]["model"]
        batch = model["settings"]["batch_size"]
        parts.append(SHORT.format(steps=model["steps"], batch=batch, iterations=STEPS[rows[0].data]))
    ranked = [row for row in rows if row.name in done and row.fid is not None]
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


def headline(rows: list[Record]) -> str:
    """FID of every row."""
    return "FID under our own small net: " + "; ".join(
        "{} {:.0f} ± {:.0f}".format(r["cell"]["row"], *r["result"]["fid"][:2]) for r in rows
    )


def line(row: Row, record: Record | None) -> list[str]:
    """The paper's values and ours, or why there are none."""
    result = record["result"] if record else None
    ours = [with_error(result[name]) for name in ("fid", "fid_infinity", "ivom")] if result else ["", "", ""]
    made, minutes = "not run yet", ""
    if record:
        made = reason(record) if record["failed"] else f"seed {record['cell']['model']['seed']}, {record['date']}"
        minutes = f"{record['cpu_seconds'] / 60:.1f}"
    return [row.name, _number(row.fid), ours[0], ours[1], _number(row.ivom), ours[2], minutes, made]


def with_error(pair: list[float | None]) -> str:
    """Value ± standard error."""
    value, error = pair
    return "none" if value is None else f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.1g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
