"""BMS Table 3: holes of the prior on the 2-D ring, in a t-SNE of the latent space, and what they decode to.

python -m analyses.bms.table_3                   # from the records
python -m analyses.bms.table_3 --preset quick    # training, unless Table 1 has done it, and the search for holes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from analyses.bms.mode_settings import PRINTED
from analyses.bms.table_1 import POINTS
from analyses.bms.table_1 import cells as cells_of_table_1
from analyses.machinery import models
from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main, markdown
from analyses.machinery.drawing import COLOURS, save
from klprobe.datasets import dataset
from klprobe.distributions.posteriors import standard_normal
from klprobe.estimation.holes import find_holes
from klprobe.metrics.modes import Modes

HERE = Path(__file__).parent / "results"
ROWS = ("wae", "aae-gan", "bms-vae-gan", "vae")
"""The paper's, and one whose KL is not a discriminator's."""
DRAWS, SHOWN = 4000, 500
"""Draws of codes and of the prior in which holes are looked for; how many of each a picture shows."""
ABOUT = f"""The first seed's models of Table 1 on the ring; the paper does not say which of its data sets it shows, and has no
VAE. A draw of the prior lies in a hole where the aggregate posterior of {POINTS:,} test points is less dense than at 99 % of
its own codes, each scored without its own point (`klprobe holes`); the paper's threshold, "common across all methods", is not
given. Perfect codes would put 1 % of the prior's draws there.

![t-SNE of codes and prior, and what the prior's draws decode to](table_3.png)

Top: t-SNE of {SHOWN} codes (grey) and {SHOWN} draws of the prior, blue and, in holes, red. Bottom: what these draws of the
prior decode to."""


def cells(preset: Preset) -> list[Cell]:
    """Table 1's first models on the ring, of the systems that the paper shows."""
    listed = cells_of_table_1(preset)
    return [cell for row in ROWS for cell in listed if (cell["row"], cell["dataset"], cell["seed"]) == (row, "ring", 0)]


def work(cell: Cell) -> Result:
    """Find holes, embed codes and draws of the prior together, decode the latter."""
    tiny, seed = cell["preset"] == "tiny", cell["seed"]
    trained, data = models.trained(cell["model"]), dataset(cell["dataset"])
    draws, shown = (200, 30) if tiny else (DRAWS, SHOWN)
    posterior = trained.encode_data(models.points(cell["model"], "test", 60 if tiny else POINTS))
    prior = standard_normal(trained.latent_dim)
    holes = find_holes(posterior, prior, num_samples=draws, generator=torch.Generator().manual_seed(seed))
    x = trained.decode(holes.prior_draws.z)
    inside = holes.prior_draws.log_q < holes.threshold
    both = torch.cat([holes.codes.z[:shown], holes.prior_draws.z[:shown]]).numpy()
    embedded = TSNE(random_state=seed, init="pca", perplexity=min(30, shown // 2)).fit_transform(both)
    return {
        "share": [holes.share.value, holes.share.std_error],
        "good_in_holes": _good(x[inside], data),
        "good_elsewhere": _good(x[~inside], data),
        "codes": _rounded(embedded[:shown]),
        "prior": _rounded(embedded[shown:]),
        "decoded": _rounded(x[:shown].numpy()),
        "in_hole": [int(hole) for hole in inside[:shown]],
    }


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_3.md and table_3.png, of the last preset that has records."""
    done = [record for record in records if record["result"]]
    done = [record for record in done if record["cell"]["preset"] == done[-1]["cell"]["preset"]]
    if not done:
        return []
    head = ["system", "prior in holes, %", "high quality in holes, %", "high quality elsewhere, %"]
    lines = []
    for record in done:
        result = record["result"]
        share, error = (100 * value for value in result["share"])
        good = ["none" if result[key] is None else f"{100 * result[key]:.1f}" for key in ("good_in_holes", "good_elsewhere")]
        lines.append([_name(record), f"{share:.1f} ± {error:.1f}", *good])
    path = folder / "table_3.md"
    path.write_text(f"# BMS Table 3\n\n{ABOUT}\n\n{markdown(head, lines)}\n")

    def draw(figure: Figure) -> None:
        for panels, record in zip(figure.subplots(2, len(done), squeeze=False).T, done, strict=True):
            result = record["result"]
            red = [COLOURS[1] if hole else COLOURS[0] for hole in result["in_hole"]]
            panels[0].scatter(*zip(*result["codes"], strict=True), s=3, color="0.7", linewidths=0)
            panels[0].scatter(*zip(*result["prior"], strict=True), s=3, color=red, linewidths=0)
            panels[1].scatter(*zip(*result["decoded"], strict=True), s=3, color=red, linewidths=0)
            panels[0].set_title(_name(record), fontsize=9)
            for axes in panels:
                axes.set(xticks=[], yticks=[])
                axes.set_box_aspect(1)

    return [path, save(folder / "table_3.png", (2.6 * len(done), 5.4), draw)]


def _name(record: Record) -> str:
    row = record["cell"]["row"]
    return PRINTED[row].name if row in PRINTED else row


def _good(x: torch.Tensor, data: Any) -> float | None:
    return Modes().measure(x, data.centres, data.std)[1].value if len(x) else None


def _rounded(points: NDArray[np.float32]) -> list[list[float]]:
    return [[round(float(value), 2) for value in point] for point in points]


def headline(rows: list[Record]) -> str:
    """Share of prior mass in holes."""
    shares = [(r["cell"]["row"], r["result"]["share"][0]) for r in rows]
    return "prior mass in holes: " + "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares)


ITEM = Item(
    order=3,
    title="BMS Table 3",
    paper="t-SNE with holes; no number",
    headline=headline,
    folder=HERE,
    records="table_3.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
