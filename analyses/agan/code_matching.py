"""AGAN Figures 10 to 12: alpha-GAN's codes matched by a code discriminator, or by the empirical KL of a mini-batch.

python -m analyses.agan.code_matching                   # from the records
python -m analyses.agan.code_matching --preset quick    # two models
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from analyses.agan.jobs import HERE, PAPER, VECTORS
from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main
from analyses.machinery.drawing import COLOURS, save
from analyses.machinery.models import picture, pictures, posterior, probe
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.maf import Maf

CODES = 64_000
"""AGAN Figures 11, 12: codes behind the histogram and the covariance."""
LATENTS = {"tiny": 4, "quick": 20, "paper": 100}
EDGES = np.linspace(-1.0, 1.0, 41)


def cells(preset: Preset) -> list[Cell]:
    """A way of matching codes a cell, the rest the same."""
    vectors = VECTORS | {"encoder_weight": 1.0, "generator_weight": 1.0} if preset != "paper" else {}
    data = {"tiny": "digits", "quick": "mnist:flat", "paper": "color-mnist"}[preset]
    steps = {"tiny": 4, "quick": 3000, "paper": PAPER["color-mnist"][0]}[preset]
    return [
        {
            "preset": preset,
            "kl": kl,
            "model": {
                "system": "aae-gan",
                "dataset": data,
                "settings": {"latent_dim": LATENTS[preset], "preset": "agan", "kl": kl, **vectors},
                "steps": steps,
                "seed": 0,
            },
        }
        for kl in ("discriminator", "empirical")
    ]


def work(cell: Cell) -> Result:
    """Means and covariance of codes of the training points, a lower bound of the KL over test points, and pictures."""
    tiny = cell["preset"] == "tiny"
    q = posterior(cell["model"], "train")
    chosen = torch.randint(q.num_points, (CODES,), generator=torch.Generator().manual_seed(0))
    codes = q.sample_at(chosen, torch.Generator().manual_seed(1)).double()
    covariance = torch.cov(codes.T)
    bounds: list[Any] = [Gmm(components=2, steps=2)] if tiny else [Gmm(steps=1000), Maf(steps=1000)]
    kept = probe(cell["model"], "test", bounds)
    return {
        "mean": codes.mean(0).tolist(),
        "covariance": [[round(value, 4) for value in row] for row in covariance.tolist()],
        "test": kept,
        "pictures": pictures(cell["model"]),
    }


def write(records: list[Record], folder: Path) -> list[Path]:
    """code_matching.png: a row for each: samples, histogram of the latents' means, covariance matrix."""
    rows = [r for r in records if r["result"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 3, squeeze=False)
        for line, record in zip(axes, rows, strict=False):
            kept = record["result"]
            line[0].imshow(picture(kept["pictures"]["samples"]))
            line[0].set_axis_off()
            least = kept["test"]["brackets"]["population"]["lower"]
            said = f"{record['cell']['kl']}: KL[q || p] at least {least[0]:.1f} nats ({least[2]})"
            line[0].set_title(said, fontsize=9)
            line[1].hist(np.clip(kept["mean"], -1, 1), EDGES, color=COLOURS[0])
            line[1].set_xlabel("mean of a latent (prior: 0)")
            line[1].set_ylabel("latents")
            shown = line[2].imshow(kept["covariance"], cmap="RdBu_r", vmin=-1.5, vmax=1.5)
            line[2].set_title("covariance of codes (prior: identity)", fontsize=9)
            figure.colorbar(shown, ax=line[2])

    return [save(folder / "code_matching.png", (10, 6), draw)]


def headline(rows: list[Record]) -> str:
    """Spread of the latents' means, and the KL's lower bound."""
    said = []
    for record in rows:
        kept, spread = record["result"], statistics.pstdev(record["result"]["mean"])
        low = kept["test"]["brackets"]["population"]["lower"]
        said.append(f"{record['cell']['kl']}: means spread by {spread:.2f}, KL at least {low[0]:.1f}")
    return "; ".join(said)


ITEM = Item(
    order=4,
    title="AGAN Figures 10 to 12",
    paper="histograms and covariances",
    headline=headline,
    folder=HERE,
    records="code_matching.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
