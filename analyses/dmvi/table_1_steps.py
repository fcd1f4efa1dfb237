"""DMVI Table 1 by training steps: ColorMNIST VAEs with 50 and 100 latents, looked at while they learn.

python -m analyses.dmvi.table_1_steps                       # from the records
python -m analyses.run --preset paper --hours 2.5 --jobs 2  # this item first, in stretches of time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.dmvi.settings import TABLE_1, model
from analyses.machinery.cells import Cell, Costs, Item, Preset, Record, Result, main, markdown, reason
from analyses.machinery.models import look_up, probe
from klprobe.estimators.classifier import Classifier
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.maf import Maf
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent / "results"
DATA = "color-mnist"
ROWS = {latents: (average, kl) for system, data, latents, average, kl in TABLE_1 if (system, data) == ("vae", DATA)}
"""The paper's average KL and Monte Carlo KL, nats a latent, by latents."""
STEPS = {"tiny": (250, 400), "quick": (1500,), "paper": (1500, 5000, 15_000, 50_000, 100_000)}
"""When the one run of each model is looked at; 100,000 are the paper's."""
SAID = """The paper trains for 100,000 steps. Here one training run of each model is looked at while it goes on. Total nats:
average KL and Monte Carlo over the points trained on, as in the paper; the bracket of the population's KL over test points."""


def cells(preset: Preset) -> list[Cell]:
    """A model at a number of steps; fewer steps first, for a longer run goes on from a shorter one."""
    return [
        {"preset": preset, "latents": latents, "model": model(preset, "vae", DATA, latents) | {"steps": steps}}
        for steps in STEPS[preset]
        for latents in ROWS
        if preset != "tiny" or latents == min(ROWS)
    ]


def methods(cell: Cell) -> Mapping[str, Sequence[Any]]:
    """What looks at either part of the data."""
    if cell["preset"] == "tiny":
        return {"train": [MonteCarlo(num_samples=20)], "test": [MonteCarlo(num_samples=20), Gmm(components=2, steps=2)]}
    bounds = [Gmm(steps=1000), Maf(flows=2, width=512, steps=1000), Classifier(steps=1500)]
    return {"train": [MonteCarlo(num_samples=2000)], "test": [MonteCarlo(), *bounds]}


def work(cell: Cell) -> Result:
    """Train up to these steps, then probe the points trained on and the test points."""
    return {split: probe(cell["model"], split, list(chosen)) for split, chosen in methods(cell).items()}


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_1_steps.md: a row for each number of latents and steps, the paper's values in the last line of each."""
    head = ["latents", "steps", "average KL", "Monte Carlo, training points", "population, test points", "verdict", "made"]
    lines = []
    for latents, (average, kl) in ROWS.items():
        mine = {r["cell"]["model"]["steps"]: r for r in records if r["cell"]["latents"] == latents}
        for steps, record in sorted(mine.items()):
            made = f"{record['cell']['preset']}: seed {record['cell']['model']['seed']}, {record['date']}"
            if not record["result"]:
                lines.append([str(latents), f"{steps:,}", *["none"] * 4, reason(record)])
                continue
            train, test = record["result"]["train"], record["result"]["test"]
            ours = [_said(train["average_kl"]), _said(look_up(train, "monte-carlo", target="empirical"))]
            lines.append([str(latents), f"{steps:,}", *ours, _bracket(test), test["verdict"], made])
        printed = [f"{latents * average:.1f}", f"{latents * kl:.1f}"]
        lines.append([str(latents), "100,000, the paper's", *printed, "none", "none", "DMVI Table 1"])
    path = folder / "table_1_steps.md"
    path.write_text("\n\n".join(["# DMVI Table 1 by training steps", SAID, markdown(head, lines), *_reading(records)]) + "\n")
    return [path]


def _reading(records: list[Record]) -> list[str]:
    """Whether the average KL comes down to the paper's."""
    said = []
    for latents, (average, _) in ROWS.items():
        done = {r["cell"]["model"]["steps"]: r["result"] for r in records if r["cell"]["latents"] == latents and r["result"]}
        if len(done) < 2:
            continue
        first, last = (done[at]["train"]["average_kl"][0] for at in (min(done), max(done)))
        said.append(
            f"With {latents} latents the average KL is {first:.1f} nats after {min(done):,} steps and {last:.1f} after "
            f"{max(done):,}; the paper's is {latents * average:.1f}."
        )
    return [" ".join(said)] if said else []


def headline(rows: list[Record]) -> str:
    """Average KL and the population's bracket, by latents and steps."""
    said = []
    for record in rows:
        low, high = (record["result"]["test"]["brackets"]["population"][side][0] for side in ("lower", "upper"))
        model, average = record["cell"]["model"], record["result"]["train"]["average_kl"][0]
        at = f"{record['cell']['latents']} latents, {model['steps']:,} steps"
        said.append(f"{at}: average KL {average:.1f}, population {low:.1f} to {high:.1f}")
    return "; ".join(said)


def _said(found: Sequence[float] | None) -> str:
    return f"{found[0]:.2f} ± {found[1]:.2f}" if found else "none"


def _bracket(test: Result) -> str:
    low, high = (test["brackets"]["population"][side] for side in ("lower", "upper"))
    return f"{low[0]:.2f} ± {low[1]:.2f} ({low[2]}) to {high[0]:.2f} ± {high[1]:.2f}"


ITEM = Item(
    order=3,
    title="DMVI Table 1 by steps",
    paper="total nats after 100,000 steps: 50 latents 23.4, 12.2; 100 latents 23.8, 12.9",
    headline=headline,
    folder=HERE,
    records="table_1_steps.jsonl",
    cells=cells,
    work=work,
    write=write,
    costs=lambda cell: Costs([cell["model"]], methods(cell), cell["latents"]),
)

if __name__ == "__main__":
    main(ITEM)
