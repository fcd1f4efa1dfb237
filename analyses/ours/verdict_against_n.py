"""How many points the question needs: brackets and verdict for N = 100 to 60,000 points of the same encoders.

python -m analyses.ours.verdict_against_n                   # from the records
python -m analyses.ours.verdict_against_n --preset quick    # needs KLPROBE_POSTERIORS, a folder of .npz files
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analyses.machinery.cells import NO_PAPER, Cell, Item, Preset, Record, Result, main
from analyses.machinery.drawing import COLOURS, save
from analyses.machinery.models import facts
from analyses.ours.posteriors import FILES, open_posterior, some
from klprobe.estimation.run import estimate
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent / "results"
COUNTS = {"tiny": (50, 200), "quick": (100, 300, 1000, 3000, 10_000, 30_000, 60_000)}
MARKS = {"resolved": "o", "floor-limited": "s", "methods-disagree": "x", "impossible": "*"}


def cells(preset: Preset) -> list[Cell]:
    """A file and a number of points a cell; the paper's preset is the quick one."""
    files, counts = (("tiny",), COUNTS["tiny"]) if preset == "tiny" else (FILES, COUNTS["quick"])
    return [{"preset": preset, "file": name, "points": count} for count in counts for name in files]


def work(cell: Cell) -> Result:
    """Monte Carlo and a Gaussian mixture on points drawn at random."""
    mixture = Gmm(components=2, steps=2) if cell["preset"] == "tiny" else Gmm(components=50, steps=1000)
    q = some(open_posterior(cell["file"]), cell["points"], seed=0)
    return facts(estimate(q, methods=[MonteCarlo(), mixture], split="train", trained_on="train", marginals=False))


def write(records: list[Record], folder: Path) -> list[Path]:
    """verdict_against_n.svg: a panel for each encoder."""
    rows = [r for r in records if r["result"]]
    names = list(dict.fromkeys(r["cell"]["file"] for r in rows))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=False):
            mine = sorted((r for r in rows if r["cell"]["file"] == name), key=lambda r: r["cell"]["points"])
            points = [r["cell"]["points"] for r in mine]
            kept = [r["result"] for r in mine]
            low, high = ([k["brackets"]["population"][side][0] for k in kept] for side in ("lower", "upper"))
            axis.fill_between(points, low, high, color=COLOURS[5], alpha=0.4, label="population: bracket")
            empirical = [k["brackets"]["empirical"]["lower"][0] for k in kept]
            axis.plot(points, empirical, color=COLOURS[0], label="empirical KL[q_N || p]")
            least = [max(0.0, k["average_kl"][0] - k["log_n"]) for k in kept]
            axis.plot(points, least, color=COLOURS[1], linestyle="--", label="average KL - log N, or 0")
            for verdict, mark in MARKS.items():
                at = [(n, e) for n, e, k in zip(points, empirical, kept, strict=True) if k["verdict"] == verdict]
                if at:
                    axis.plot(*zip(*at, strict=True), mark, color=COLOURS[0], label=f"verdict: {verdict}")
            axis.set_xscale("log")
            axis.set_title(name)
            axis.set_xlabel("points N")
            axis.legend(fontsize=7)
        axes[0].set_ylabel("nats")

    return [save(folder / "verdict_against_n.svg", (12, 4), draw)]


def headline(rows: list[Record]) -> str:
    """From how many points on each encoder is resolved."""
    least: dict[str, float] = {}
    for record in rows:
        name, count = record["cell"]["file"], record["cell"]["points"]
        least.setdefault(name, float("inf"))
        if record["result"]["verdict"] == "resolved":
            least[name] = min(least[name], count)
    said = [f"{name}: {'not' if n == float('inf') else f'from {n:,.0f} points'}" for name, n in least.items()]
    return "resolved " + "; ".join(said)


ITEM = Item(
    order=3,
    title="Ours: verdict against N",
    paper=NO_PAPER,
    headline=headline,
    folder=HERE,
    records="verdict_against_n.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
