"""DMVI Figure 2 at d = 100 and 1000: which choice that the paper leaves open makes learning diverge? One changed at a time.

python -m analyses.dmvi.synthetic_causes                    # from the records
python -m analyses.run --preset paper --hours 2.5 --jobs 2  # in stretches of time
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from analyses.dmvi.settings import SYNTHETIC_FIGURES
from analyses.dmvi.synthetic_runs import costs, run, trainings
from analyses.machinery.cells import Cell, Item, Preset, Record, main, markdown, reason
from klprobe.synthetic.settings import Settings

HERE = Path(__file__).parent / "results"
STEPS = {"tiny": {2: 20}, "quick": {100: 4000}, "paper": {100: 20_000, 1000: 3000}}
"""By d."""
CHOICES: dict[str, dict[str, Any]] = {
    "as in our figures": {},
    "512 units a layer": {"classifier_width": 512},
    "1,500 units a layer": {"classifier_width": 1500},
    "5,700 units a layer": {"classifier_width": 5700},
    "entries of W and b with deviation 1/sqrt(k)": {"scale": 0.0},
    "entries of W and b with deviation 3": {"scale": 3.0},
    "Adam's betas 0.9, 0.999": {"betas": (0.9, 0.999)},
    "Adam's betas 0.5, 0.999": {"betas": (0.5, 0.999)},
    "learning rate 1e-2 of the Gaussian": {"generator_lr": 1e-2},
    "non-saturating generator loss": {"generator_loss": "non-saturating"},
}
"""What differs from the setting of Figure 2; a scale of 0 stands for 1/sqrt(k). No run clips gradients."""
FEWER = {"5,700 units a layer": 20}
"""The paper's 100 million weights take seconds a step: so many times fewer steps."""
TINY = {"classifier_width": 8, "logged": 5, "log_draws": 50, "report_draws": 200}
DIVERGES = 10.0
"""A true KL that ends above so many times its start counts as diverged, beside losses that are not finite."""
SAID = """In the paper learning diverges at d = 100 and 1000, and no run of ours does. The paper does not state the width of the
classifier, the laws of W and b, Adam's beta2 and whether gradients are clipped. Here one of these is changed at a time in
Figure 2's learning, seed 0. Diverged: a loss that is not finite, or a true KL that ends above ten times its start."""


def cells(preset: Preset) -> list[Cell]:
    """A choice a cell, at d = 100 before 1000."""
    listed = []
    for dim, steps in STEPS[preset].items():
        for choice, changed in CHOICES.items() if preset != "tiny" else [*CHOICES.items()][4:6]:
            made = {
                **SYNTHETIC_FIGURES[2],
                **(TINY if preset == "tiny" else {}),
                **changed,
                "steps": steps // FEWER.get(choice, 1),
            }
            if made.get("scale") == 0.0:
                made["scale"] = 1 / math.sqrt(10 * dim)
            settings = Settings(**made).of("minimize")
            cell = {"preset": preset, "experiment": "minimize", "dim": dim, "seed": 0, "choice": choice, "settings": settings}
            listed.append(cell)
    return listed


def write(records: list[Record], folder: Path) -> list[Path]:
    """synthetic_causes.md: how far the true KL moved under each choice."""
    head = ["choice", "d", "steps", "true KL at the start", "least", "at the end", "estimated online", "diverged"]
    lines, named = [], []
    for record in sorted(records, key=lambda r: (r["cell"]["dim"], list(CHOICES).index(r["cell"]["choice"]))):
        cell = record["cell"]
        if not record["result"]:
            lines.append([cell["choice"], str(cell["dim"]), *["none"] * 5, reason(record)])
            continue
        curve, why = record["result"]["curve"], diverged(record)
        values = [f"{value:.4g}" for value in (curve["true_kl"][0], min(curve["true_kl"]), curve["true_kl"][-1])]
        online = f"{curve['estimate'][-1]:.3g}"
        lines.append([cell["choice"], str(cell["dim"]), f"{curve['step'][-1]:,}", *values, online, why or "no"])
        named += [f"{cell['choice']} at d = {cell['dim']}"] * bool(why)
    said = f"Learning diverges with {'; '.join(named)}." if named else "None of these makes learning diverge."
    path = folder / "synthetic_causes.md"
    path.write_text("\n\n".join(["# DMVI Figure 2: what makes learning diverge", SAID, markdown(head, lines), said]) + "\n")
    return [path]


def diverged(record: Record) -> str:
    """How a run diverged; empty where it did not."""
    result = record["result"]
    if result["diverged"]:
        return str(result["diverged"]["reason"])
    values = result["curve"]["true_kl"]
    return f"true KL {values[-1] / values[0]:.3g} times its start" if values[-1] > DIVERGES * values[0] else ""


def headline(rows: list[Record]) -> str:
    """Which choices diverge, of how many."""
    named = [f"{r['cell']['choice']} at d = {r['cell']['dim']}" for r in rows if diverged(r)]
    return f"{len(named)} of {len(rows)} runs diverge" + (f": {'; '.join(named)}" if named else "")


ITEM = Item(
    order=11,
    title="DMVI Figure 2, choices left open",
    paper="learning diverges at d = 100, 1000",
    headline=headline,
    folder=HERE,
    records="synthetic_causes.jsonl",
    cells=cells,
    work=run,
    write=write,
    trainings=trainings,
    costs=costs,
)

if __name__ == "__main__":
    main(ITEM)
