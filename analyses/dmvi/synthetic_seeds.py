"""DMVI Figures 2, 8, 9 and 10 over the paper's seeds, to where the curves stop changing.

python -m analyses.dmvi.synthetic_seeds                     # from the records
python -m analyses.run --preset paper --hours 2.5 --jobs 2  # in stretches of time
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.dmvi.settings import SYNTHETIC_DIMS, SYNTHETIC_FIGURES, SYNTHETIC_FINDINGS, SYNTHETIC_SEEDS
from analyses.dmvi.synthetic_runs import costs, run, trainings
from analyses.machinery.cells import Cell, Item, Preset, Record, main, markdown
from klprobe.rendering.synthetic import draw
from klprobe.synthetic.settings import Experiment, Settings

HERE = Path(__file__).parent / "results"
STEPS = {
    "tiny": {1: 40},
    "quick": {1: 4000, 10: 4000},
    "paper": {1: 20_000, 10: 20_000, 100: 100_000, 1000: 10_000},
}
"""By d. A step at d = 1000, where W has ten million numbers, takes a fifth of a second of a core; the paper's are 1,000,000."""
SEEDS = {"tiny": {}, "quick": {1: 3, 10: 3}, "paper": {1: SYNTHETIC_SEEDS, 10: SYNTHETIC_SEEDS, 100: SYNTHETIC_SEEDS, 1000: 3}}
FIGURES = {"tiny": (2,), "quick": tuple(SYNTHETIC_FIGURES), "paper": tuple(SYNTHETIC_FIGURES)}
TINY = {"classifier_width": 8, "logged": 5, "log_draws": 50, "report_draws": 200}
EXPERIMENTS: tuple[Experiment, ...] = ("minimize", "estimate")
SAID = """Two Gaussians, x = W^T z + b with k = 10 d; a classifier is trained between them, and the second one learns from it
by the reverse-KL loss. True KL in nats, mean and standard deviation over the seeds; "estimated online" is the mean logit of the
classifier that the second Gaussian learns from."""


def cells(preset: Preset) -> list[Cell]:
    """Learning before estimation, the figures in their order, small d first; a run that two figures share is one cell."""
    listed: list[Cell] = []
    for experiment in EXPERIMENTS:
        for figure in FIGURES[preset]:
            for dim, steps in STEPS[preset].items():
                settings = settings_of(figure, preset, steps).of(experiment)
                for seed in range(SEEDS[preset].get(dim, 1)):
                    cell = {"preset": preset, "experiment": experiment, "dim": dim, "seed": seed, "settings": settings}
                    if cell not in listed:
                        listed.append(cell)
    return listed


def settings_of(figure: int, preset: Preset, steps: int) -> Settings:
    """Of one figure's runs; the classifier has klprobe's 128 units a layer."""
    return Settings(**{**SYNTHETIC_FIGURES[figure], "steps": steps, **(TINY if preset == "tiny" else {})})


def write(records: list[Record], folder: Path) -> list[Path]:
    """synthetic_seeds.md and a figure for each of the paper's."""
    parts, written = ["# DMVI Figures 2, 8, 9 and 10, over seeds", SAID], []
    for preset in dict.fromkeys(record["cell"]["preset"] for record in records):
        for figure in FIGURES[preset]:
            mine = of_figure(records, figure, preset)
            rows = [_row(dim, [r for r in mine if r["dim"] == dim]) for dim in SYNTHETIC_DIMS]
            if not any(rows):
                continue
            head = ["d", "seeds", "steps", "at the start", "half way", "at the end", "diverged", "estimated online, at the end"]
            parts += [f"## Figure {figure}, preset {preset}", f"The paper: {SYNTHETIC_FINDINGS[figure]}."]
            name = f"synthetic_seeds_{figure}_{preset}.svg"
            (folder / name).write_bytes(draw(mine, "minimize", f"DMVI figure {figure}, preset {preset}").svg)
            written.append(folder / name)
            parts += [markdown(head, [row for row in rows if row]), f"![figure {figure}]({name})"]
    path = folder / "synthetic_seeds.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path, *written]


def of_figure(records: Sequence[Record], figure: int, preset: Preset) -> list[dict[str, Any]]:
    """What the runs of one figure found, as klprobe keeps it."""
    found = []
    for record in records:
        cell = record["cell"]
        steps = STEPS[preset].get(cell["dim"], 0)
        if not record["result"] or cell["preset"] != preset or not steps:
            continue
        if cell["settings"] == settings_of(figure, preset, steps).of(cell["experiment"]):
            found.append(record["result"])
    return found


def _row(dim: int, runs: Sequence[dict[str, Any]]) -> list[str]:
    """A dimension's learning over its seeds; empty where there is none."""
    curves = [run["curve"] for run in runs if run["experiment"] == "minimize"]
    if not curves:
        return []
    diverged = sum(bool(run["diverged"]) for run in runs if run["experiment"] == "minimize")
    steps = max(curve["step"][-1] for curve in curves)
    online = _spread([curve["estimate"][-1] for curve in curves])
    places = [(0, len(curve["true_kl"]) // 2, -1) for curve in curves]
    said = [_spread([curve["true_kl"][at[i]] for curve, at in zip(curves, places, strict=True)]) for i in range(3)]
    return [str(dim), str(len(curves)), f"{steps:,}", *said, f"{diverged} of {len(curves)}", online]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def headline(rows: list[Record]) -> str:
    """True KL at the start and at the end of Figure 2's learning, by d."""
    said, preset = [], rows[0]["cell"]["preset"]
    for dim in STEPS[preset]:
        row = _row(dim, [run for run in of_figure(rows, 2, preset) if run["dim"] == dim])
        if row:
            said.append(f"d = {dim}: true KL {row[3]} to {row[5]} in {row[2]} steps, {row[6]} diverged")
    return "Figure 2: " + "; ".join(said) if said else "no run of Figure 2 yet"


ITEM = Item(
    order=10,
    title="DMVI Figures 2, 8, 9, 10, over seeds",
    paper="the true KL falls at d = 1, 10, learning diverges at d = 100, 1000",
    headline=headline,
    folder=HERE,
    records="synthetic_seeds.jsonl",
    cells=cells,
    work=run,
    write=write,
    trainings=trainings,
    costs=costs,
)

if __name__ == "__main__":
    main(ITEM)
