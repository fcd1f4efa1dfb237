"""DMVI Figure 11: a VAE's bound rises while it learns; VEEGAN's, minus eq. 14, need not.

python -m analyses.distribution_matching.figure_11                   # from the records
python -m analyses.distribution_matching.figure_11 --preset quick    # data, training, figure
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure

from analyses.cells import Cell, Item, Preset, Record, Result, main
from analyses.distribution_matching.settings import model
from analyses.drawing import COLOURS, save
from analyses.models import curve

HERE = Path(__file__).parent
DATA, LATENTS = "color-mnist", 50
BOUND = {"vae": "vae.loss", "veegan": "generator.bound"}
"""Columns of metrics.csv: a VAE's loss is minus its evidence lower bound."""


def cells(preset: Preset) -> list[Cell]:
    """A system a cell; the VAE is Table 1's."""
    return [{"preset": preset, "system": system, "model": model(preset, system, DATA, LATENTS)} for system in BOUND]


def work(cell: Cell) -> Result:
    """The bound as it was logged, each value a mean over the steps since the last."""
    column, sign = BOUND[cell["system"]], -1 if cell["system"] == "vae" else 1
    rows = list(csv.DictReader(io.StringIO(curve(cell["model"]))))
    return {"step": [int(row["step"]) for row in rows], "bound": [sign * float(row[column]) for row in rows]}


def write(records: list[Record], folder: Path) -> list[Path]:
    """figure_11.svg: a panel for each system."""
    rows = [r for r in records if r["result"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2)
        for axis, record in zip(axes, rows, strict=False):
            axis.plot(record["result"]["step"], record["result"]["bound"], color=COLOURS[0], marker=".")
            axis.set_title({"vae": "VAE: evidence lower bound", "veegan": "VEEGAN: minus eq. 14"}[record["cell"]["system"]])
            axis.set_xlabel("step")
            axis.set_ylabel("nats per data point")

    return [save(folder / "figure_11.svg", (8, 3.4), draw)]


ITEM = Item("DMVI Figure 11", HERE, "figure_11.jsonl", cells, work, write)

if __name__ == "__main__":
    main(ITEM)
