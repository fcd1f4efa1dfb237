"""DMVI Figure 7 and section 4.2: Bernoulli against Quantized Normal pixels: what is rebuilt, and what the code costs.

python -m analyses.distribution_matching.figure_7                   # from the records
python -m analyses.distribution_matching.figure_7 --preset quick    # data, training, estimation, figure
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analyses.cells import Cell, Item, Preset, Record, Result, main
from analyses.distribution_matching.settings import VISIBLE_KL, model
from analyses.drawing import save
from analyses.models import picture, pictures, points, probe, trained
from analyses.rebuilt import reconstruction_errors
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent
DATA, LATENTS = "color-mnist", 50
SHOWN = 1000
"""Test points that the error of reconstructions is over."""


def cells(preset: Preset) -> list[Cell]:
    """A visible distribution a cell; Bernoulli's model is Table 1's."""
    more = {"bernoulli": {}, "quantized_normal": {"visible": "quantized_normal"}}
    return [{"preset": preset, "visible": v, "model": model(preset, "vae", DATA, LATENTS, **more[v])} for v in VISIBLE_KL]


def work(cell: Cell) -> Result:
    """Average KL over test points, error of their reconstructions, pictures."""
    draws = MonteCarlo(num_samples=20 if cell["preset"] == "tiny" else 2000)
    model = cell["model"]
    rms, error = reconstruction_errors(trained(model), points(model, "test", SHOWN), model["seed"])["rms"]
    return {"test": probe(model, "test", [draws]), "rms": [rms, error], "pictures": pictures(model)}


def write(records: list[Record], folder: Path) -> list[Path]:
    """figure_7.png: data, reconstructions and samples of either, with the numbers."""
    rows = [r for r in records if r["result"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 3, squeeze=False)
        for line, record in zip(axes, rows, strict=False):
            kept, visible = record["result"], record["cell"]["visible"]
            for axis, name in zip(line, ("data", "reconstructions", "samples"), strict=True):
                axis.imshow(picture(kept["pictures"][name]))
                axis.set_axis_off()
                axis.set_title(name)
            average, paper = kept["test"]["average_kl"][0], VISIBLE_KL[visible]
            said = f"{visible}\naverage KL {average:.1f} nats (paper {paper:g})\nrms a value {kept['rms'][0]:.4f}"
            line[0].set_title(said, fontsize=8)

    return [save(folder / "figure_7.png", (9, 6.4), draw)]


ITEM = Item("DMVI Figure 7", HERE, "figure_7.jsonl", cells, work, write)

if __name__ == "__main__":
    main(ITEM)
