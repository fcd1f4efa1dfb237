"""DMVI Figure 11: a VAE's bound rises while it learns; VEEGAN's, minus eq. 14, need not.

python -m analyses.dmvi.figure_11                   # from the records
python -m analyses.dmvi.figure_11 --preset quick    # data, training, figure
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure

from analyses.dmvi.settings import model
from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main, markdown
from analyses.machinery.drawing import COLOURS, save
from analyses.machinery.models import curve

HERE = Path(__file__).parent / "results"
DATA, LATENTS = "color-mnist", 50
BOUND = {"vae": "vae.loss", "veegan": "generator.bound"}
"""Columns of metrics.csv: a VAE's loss is minus its evidence lower bound."""
VEEGAN_QUICK_STEPS = 750
"""Half the VAE's, in the quick preset: a step of its networks takes eight times as long."""

SAID = """Nats per data point, each a mean over the steps since the last. The VAE's is the evidence lower bound, which training
raises. VEEGAN's is minus its eq. 14, which its generator raises and its discriminator corrects: nothing says that it must
rise, and in the paper it does not. A few steps show only how it begins."""


def cells(preset: Preset) -> list[Cell]:
    """A system a cell; the VAE is Table 1's."""
    models = {system: model(preset, system, DATA, LATENTS) for system in BOUND}
    if preset == "quick":
        models["veegan"]["steps"] = VEEGAN_QUICK_STEPS
    return [{"preset": preset, "system": system, "model": trained} for system, trained in models.items()]


def work(cell: Cell) -> Result:
    """The bound as it was logged, each value a mean over the steps since the last."""
    column, sign = BOUND[cell["system"]], -1 if cell["system"] == "vae" else 1
    rows = list(csv.DictReader(io.StringIO(curve(cell["model"]))))
    return {"step": [int(row["step"]) for row in rows], "bound": [sign * float(row[column]) for row in rows]}


def write(records: list[Record], folder: Path) -> list[Path]:
    """figure_11.svg: a panel for each system, of its last record; figure_11.md: how far the bound moved in either half."""
    rows = list({r["cell"]["system"]: r for r in records if r["result"]}.values())

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2)
        for axis, record in zip(axes, rows, strict=False):
            axis.plot(record["result"]["step"], record["result"]["bound"], color=COLOURS[0], marker=".")
            axis.set_title({"vae": "VAE: evidence lower bound", "veegan": "VEEGAN: minus eq. 14"}[record["cell"]["system"]])
            axis.set_xlabel("step")
            axis.set_ylabel("nats per data point")

    page = folder / "figure_11.md"
    page.write_text("\n\n".join(["# DMVI Figure 11", SAID, _table(rows), "![bounds](figure_11.svg)"]) + "\n")
    return [save(folder / "figure_11.svg", (8, 3.4), draw), page]


def _table(rows: list[Record]) -> str:
    lines = []
    for record in rows:
        bound, cell = record["result"]["bound"], record["cell"]
        half = len(bound) // 2
        made = f"{cell['preset']}: {cell['model']['steps']:,} steps, seed {cell['model']['seed']}, {record['date']}"
        lines.append([cell["system"], *(f"{value:.1f}" for value in (bound[0], bound[half], bound[-1])), made])
    return markdown(["bound of", "first logged", "half way", "last", "made"], lines)


def headline(rows: list[Record]) -> str:
    """First and last value of the bounds."""
    return "; ".join(f"{r['cell']['system']}: {r['result']['bound'][0]:.0f} to {r['result']['bound'][-1]:.0f}" for r in rows)


ITEM = Item(
    order=8,
    title="DMVI Figure 11",
    paper="the VAE's bound rises, VEEGAN's does not",
    headline=headline,
    folder=HERE,
    records="figure_11.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
