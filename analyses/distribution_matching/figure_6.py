"""DMVI Figure 6: density models of q(z) by size, GMM, MAF and LSTM, against Monte Carlo.

python -m analyses.distribution_matching.figure_6                   # from the records
python -m analyses.distribution_matching.figure_6 --preset quick    # data, training, estimation, figure
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analyses.cells import Cell, Item, Preset, Record, Result, main
from analyses.distribution_matching.settings import GMM_COMPONENTS, LSTM_LAYERS, LSTM_WIDTHS, MAF_FLOWS, MAF_WIDTHS, model
from analyses.drawing import COLOURS, save
from analyses.models import look_up, probe
from klprobe import registry
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent
DATA, LATENTS = "color-mnist", 50
QUICK: dict[str, dict[str, Any]] = {"gmm": {"steps": 1000}, "maf": {"steps": 1000}, "lstm": {"steps": 400}}
"""Our estimators' own learning rates, whitening and stopping; in the paper's preset, the paper's."""


def sizes(preset: Preset) -> list[tuple[str, dict[str, int]]]:
    """What is fitted: the paper's sizes; fewer and smaller flows and recurrent layers on a CPU; one of each when tiny."""
    widths = {"paper": (MAF_WIDTHS, LSTM_WIDTHS), "quick": ((128, 512), (50, 200)), "tiny": ((8,), (8,))}[preset]
    layers = {"paper": LSTM_LAYERS, "quick": LSTM_LAYERS[:3], "tiny": LSTM_LAYERS[:1]}[preset]
    listed: list[tuple[str, dict[str, int]]] = [("gmm", {"components": c}) for c in GMM_COMPONENTS]
    listed += [("maf", {"flows": flows, "width": width}) for width in widths[0] for flows in MAF_FLOWS]
    listed += [("lstm", {"layers": count, "width": width}) for width in widths[1] for count in layers]
    return listed if preset != "tiny" else [listed[0], listed[3], listed[-1]]


def cells(preset: Preset) -> list[Cell]:
    """A density model a cell."""
    trained = model(preset, "vae", DATA, LATENTS)
    return [{"preset": preset, "method": method, "size": size, "model": trained} for method, size in sizes(preset)]


def work(cell: Cell) -> Result:
    """Fit on half of the training points' codes, and report on the rest of them."""
    method, preset = cell["method"], cell["preset"]
    more: dict[str, Any] = {"tiny": {"steps": 3}, "quick": QUICK[method], "paper": {"preset": "paper"}}[preset]
    exact = MonteCarlo(num_samples={"tiny": 20, "quick": 500, "paper": 2000}[preset])
    return probe(cell["model"], "train", [exact, registry.load("estimators", method)(**cell["size"], **more)])


def write(records: list[Record], folder: Path) -> list[Path]:
    """figure_6.svg: a panel for each family, a bar for each size, Monte Carlo as a line."""
    rows = [r for r in records if r["result"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 3, sharey=True)
        for axis, (method, title) in zip(axes, (("gmm", "GMM"), ("maf", "MAF"), ("lstm", "LSTM")), strict=True):
            mine = [r for r in rows if r["cell"]["method"] == method]
            found = [look_up(r["result"], method, target="empirical") for r in mine]
            for j, kl in enumerate(found):
                if kl:
                    axis.bar(j, kl[0], 0.7, yerr=kl[1], color=COLOURS[0])
                else:
                    axis.text(j, 0.1, "failed", rotation=90, ha="center")
            for kl in {look_up(r["result"], "monte-carlo", target="empirical") for r in mine[:1]} - {None}:
                axis.axhline(kl[0], color=COLOURS[1], label="Monte Carlo")
            names = [" x ".join(map(str, r["cell"]["size"].values())) for r in mine]
            axis.set_xticks(range(len(mine)), names, rotation=60, fontsize=8)
            axis.set_xlabel({"gmm": "components", "maf": "flows x units", "lstm": "layers x units"}[method])
            axis.set_title(title)
        axes[0].set_ylabel("KL[q_N || p], nats")
        if rows:
            axes[-1].legend(fontsize=8)

    return [save(folder / "figure_6.svg", (10, 4.2), draw)]


ITEM = Item("DMVI Figure 6", HERE, "figure_6.jsonl", cells, work, write)

if __name__ == "__main__":
    main(ITEM)
