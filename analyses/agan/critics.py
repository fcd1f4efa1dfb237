"""AGAN Figures 13 and 15, DMVI Figure 17's curve: independent Wasserstein critics, and diversity against them.

python -m analyses.agan.critics                   # from the records
python -m analyses.agan.critics --preset quick    # three jobs a system
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analyses.agan.box_plots import headline, references, scores_of
from analyses.agan.jobs import HERE, RECORDS, cells, work
from analyses.machinery.cells import Item, Record, main
from analyses.machinery.drawing import COLOURS, save


def write(records: list[Record], folder: Path) -> list[Path]:
    """critics.svg: left the curves of each system's best job, right diversity against the distance, a mark for a job."""
    rows = [r for r in records if r["result"]]
    if not rows:
        return []
    systems = list(dict.fromkeys(r["cell"]["system"] for r in rows))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for i, system in enumerate(systems):
            mine = [r for r in rows if r["cell"]["system"] == system]
            best = min(mine, key=lambda r: r["result"]["scores"]["critic"]["value"])
            curve = best["result"]["scores"]["critic"]["curve"]
            colour = COLOURS[i % len(COLOURS)]
            style = "-" if i < len(COLOURS) else "--"
            left.plot([p[0] for p in curve], [-p[2] for p in curve], style, color=colour, label=system)
            found = [scores_of(r) for r in mine]
            mark = "o" if i < len(COLOURS) else "s"
            right.plot([f["minus critic"] for f in found], [f["diversity"] for f in found], mark, color=colour, label=system)
        right.axhline(references(rows[0])["diversity"]["data"], color="black", linewidth=0.8, label="test data")
        left.set_xlabel("steps of the critic")
        left.set_ylabel("minus distance of held-out data")
        left.set_title("AGAN Fig. 13: each system's best job")
        right.set_xlabel("minus critic's distance")
        right.set_ylabel("diversity, 1 - MS-SSIM")
        right.set_title("AGAN Fig. 15: every job")
        right.legend(fontsize=7)

    return [save(folder / "critics.svg", (10, 4), draw)]


ITEM = Item(
    order=2,
    title="AGAN Figures 13, 15; DMVI Figure 17's curve",
    paper="curves and a scatter plot",
    headline=headline,
    folder=HERE,
    records=RECORDS,
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
