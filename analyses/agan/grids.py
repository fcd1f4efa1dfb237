"""DMVI Figures 12 to 17, AGAN Figures 3, 4, 6 to 9 and 14: samples and reconstructions of each system, best by each metric.

python -m analyses.agan.grids                   # from the records
python -m analyses.agan.grids --preset quick    # three jobs a system
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from analyses.agan.box_plots import headline, references, scores_of
from analyses.agan.jobs import HERE, RECORDS, cells, work
from analyses.machinery.cells import Item, Record, main
from analyses.machinery.drawing import save
from analyses.machinery.models import picture


def write(records: list[Record], folder: Path) -> list[Path]:
    """grids.png: a row for each system. best.png: for each metric, the samples that are best by it."""
    rows = [r for r in records if r["result"]]
    if not rows:
        return []
    target = references(rows[0])["diversity"]["data"]
    names = list(scores_of(rows[0]))
    systems = list(dict.fromkeys(r["cell"]["system"] for r in rows))

    def goodness(name: str) -> Callable[[Record], float]:
        return lambda r: -abs(scores_of(r)[name] - target) if name == "diversity" else scores_of(r)[name]

    def draw_all(figure: Figure) -> None:
        axes = figure.subplots(3, len(systems), squeeze=False)
        for column, system in enumerate(systems):
            best = max((r for r in rows if r["cell"]["system"] == system), key=goodness("minus critic"))
            for line, name in enumerate(("samples", "reconstructions", "data")):
                _show(axes[line][column], best, name, system if line == 0 else name)

    def draw_best(figure: Figure) -> None:
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            best = max(rows, key=goodness(name))
            _show(axis, best, "samples", f"{name}:\n{best['cell']['system']}")

    wide = 1.8 * len(systems)
    return [save(folder / "grids.png", (wide, 6), draw_all), save(folder / "best.png", (2.4 * len(names), 3), draw_best)]


def _show(axis: object, record: Record, name: str, title: str) -> None:
    axis.set_axis_off()
    if name in record["result"]["pictures"]:
        axis.imshow(picture(record["result"]["pictures"][name]))
        axis.set_title(title, fontsize=8)


ITEM = Item(
    order=3,
    title="DMVI Figures 12 to 17; AGAN Figures 3, 4, 6 to 9, 14",
    paper="pictures",
    headline=headline,
    folder=HERE,
    records=RECORDS,
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
