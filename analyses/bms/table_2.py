"""BMS Table 2: samples of every system on the 2-D ring and grid, from the records of Table 1.

python -m analyses.bms.table_2                   # from the records
python -m analyses.bms.table_2 --preset quick    # Table 1's cells first
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.bms.mode_settings import DATASETS, PRINTED
from analyses.bms.table_1 import ITEM as TABLE_1
from analyses.machinery.cells import Cell, Item, Preset, Record, main, results
from analyses.machinery.drawing import COLOURS, save

COLUMNS = 8
REACH = {"ring": 1.5, "grid": 5.5}
"""Half the side of a panel; what lies beyond is cut off."""


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_2.png, of the last preset that has records."""
    if not records:
        return []
    whole = [record for _, record in results(TABLE_1.cells(records[-1]["cell"]["preset"]), records)]
    kept = [record for record in whole if record["result"] and "samples" in record["result"]]
    by_data = {name: [record for record in kept if record["cell"]["dataset"] == name] for name in DATASETS}
    lines = {name: -(-len(found) // COLUMNS) for name, found in by_data.items()}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(sum(lines.values()), COLUMNS, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        first = 0
        for name, found in by_data.items():
            for axes, record in zip(panels[first : first + lines[name]].flat, found, strict=False):
                panel(axes, record)
            first += lines[name]

    return [save(folder / "table_2.png", (1.45 * COLUMNS, 1.75 * sum(lines.values())), draw)]


def panel(axes: Axes, record: Record) -> None:
    """One system's samples, with its name, modes and % of high quality."""
    cell, result = record["cell"], record["result"]
    reach, row = REACH[cell["dataset"]], cell["row"]
    axes.scatter(*zip(*result["samples"], strict=True), s=1.5, color=COLOURS[0], linewidths=0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    axes.set_axis_on()
    axes.spines[:].set_visible(True)
    axes.set_box_aspect(1)
    name = PRINTED[row].name.removesuffix(", T = 10") if row in PRINTED else row
    axes.set_title(f"{name}\n{result['modes']}, {100 * result['high_quality']:.0f} %", fontsize=8)


def cells(preset: Preset) -> list[Cell]:
    """Table 1's; two of them when tiny."""
    return list(TABLE_1.cells(preset))[: 2 if preset == "tiny" else None]


ITEM = Item(
    order=2,
    title="BMS Table 2",
    paper="scatter plots",
    headline=TABLE_1.headline,
    folder=TABLE_1.folder,
    records=TABLE_1.records,
    cells=cells,
    work=TABLE_1.work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
