"""DMVI Figure 1: average KL, its least possible marginal KL, and the marginal KL by Monte Carlo, density ratio and LSTM.

python -m analyses.dmvi.figure_1                   # from Table 1's records
python -m analyses.dmvi.figure_1 --preset quick    # runs Table 1's cells first
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analyses.dmvi import table_1
from analyses.machinery.cells import Item, Record, main
from analyses.machinery.drawing import COLOURS, save
from analyses.machinery.models import look_up

BARS = ("average KL", "least (average KL - log N)", "Monte Carlo", "density ratio (mean logit)", "density model (LSTM)")


def write(records: list[Record], folder: Path) -> list[Path]:
    """figure_1.svg: a panel for each data set, a group of bars for each number of latents, over the points trained on."""
    rows = [r for r in records if r["result"] and r["cell"]["model"]["system"] == "vae"]
    names = list(dict.fromkeys(r["cell"]["row"][1] for r in rows))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=False):
            mine = sorted((r for r in rows if r["cell"]["row"][1] == name), key=lambda r: r["cell"]["row"][2])
            for i, bar in enumerate(BARS):
                heights = [_heights(r)[i] for r in mine]
                axis.bar([j + (i - 2) * 0.16 for j in range(len(mine))], heights, 0.15, color=COLOURS[i], label=bar)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xticks(range(len(mine)), [f"{r['cell']['row'][2]} latents" for r in mine])
            axis.set_title(name.partition(":")[0])
            axis.set_ylabel("nats, over the points trained on")
        if names:
            axes[-1].legend(fontsize=8)

    return [save(folder / "figure_1.svg", (9, 4), draw)]


def _heights(record: Record) -> list[float]:
    kept = record["result"]["train"]
    average = kept["average_kl"][0]
    ours = look_up(kept, "monte-carlo", target="empirical"), look_up(kept, "classifier", "mean-logit", "empirical")
    lstm = look_up(kept, "lstm", target="empirical")
    return [average, average - kept["log_n"], *(found[0] if found else 0.0 for found in (*ours, lstm))]


ITEM = Item(
    order=2,
    title="DMVI Figure 1",
    paper="bars; all near the minimum",
    headline=table_1.headline,
    folder=table_1.HERE,
    records=table_1.ITEM.records,
    cells=table_1.cells,
    work=table_1.work,
    write=write,
    costs=table_1.costs,
)

if __name__ == "__main__":
    main(ITEM)
