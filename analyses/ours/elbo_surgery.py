"""An outside check: the marginal KL of MNIST VAEs with 2, 10 and 20 latents, beside Hoffman and Johnson (2016).

python -m analyses.ours.elbo_surgery                   # from the records
python -m analyses.ours.elbo_surgery --preset quick    # data, training, estimation, table
"""

from __future__ import annotations

from pathlib import Path

from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main, markdown, reason
from analyses.machinery.models import look_up, probe
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent / "results"
PRINTED = ((2, 0.21), (10, 8.35), (20, 9.53))
"""ELBO surgery: yet another way to carve up the variational evidence lower bound, its table of MNIST VAEs, in nats."""
STEPS = {"tiny": 4, "quick": 10_000, "paper": 200_000}
MLP = {"width": 400, "layers": 2, "batch_norm": False}
"""The MLP pair on MNIST as vectors, Bernoulli pixels; sizes and steps are ours, for theirs are not given in full."""
SAID = """Total nats, over the 60,000 images trained on. Average KL = mutual information + marginal KL. Their networks and
training are not given in full, so only size and order can be compared. *Population* is a bracket over the test images."""


def cells(preset: Preset) -> list[Cell]:
    """A model a cell."""
    data = "digits" if preset == "tiny" else "mnist:flat"
    return [
        {
            "preset": preset,
            "latents": latents,
            "model": {
                "system": "vae",
                "dataset": data,
                "settings": {"latent_dim": latents, **MLP},
                "steps": STEPS[preset],
                "seed": 0,
            },
        }
        for latents, _ in (PRINTED[:1] if preset == "tiny" else PRINTED)
    ]


def work(cell: Cell) -> Result:
    """Train, then probe the points trained on and the test points."""
    tiny = cell["preset"] == "tiny"
    exact, mixture = MonteCarlo(num_samples=20 if tiny else 10_000), Gmm(components=2, steps=2) if tiny else Gmm()
    return {"train": probe(cell["model"], "train", [exact]), "test": probe(cell["model"], "test", [exact, mixture])}


def write(records: list[Record], folder: Path) -> list[Path]:
    """elbo_surgery.md."""
    head = ["latents", "theirs: marginal KL", "ours: marginal KL", "mutual information", "average KL", "population", "made"]
    lines = []
    for record in sorted(records, key=lambda r: r["cell"]["latents"]):
        cell, theirs = record["cell"], dict(PRINTED)[record["cell"]["latents"]]
        if record["result"] is None:
            lines.append([str(cell["latents"]), f"{theirs:g}", *["none"] * 4, reason(record)])
            continue
        train, test = record["result"]["train"], record["result"]["test"]
        exact = look_up(train, "monte-carlo", target="empirical")
        ours = [f"{mean:.2f} ± {error:.2f}" for mean, error in (exact, train["mutual_information"], train["average_kl"])]
        low, high = (test["brackets"]["population"][side] for side in ("lower", "upper"))
        made = f"{cell['preset']}: {cell['model']['steps']:,} steps, {record['date']}"
        population = f"{low[0]:.2f} to {high[0]:.2f} ({test['verdict']})"
        lines.append([str(cell["latents"]), f"{theirs:g}", *ours, population, made])
    path = folder / "elbo_surgery.md"
    path.write_text(f"# ELBO surgery\n\n{SAID}\n\n{markdown(head, lines)}\n")
    return [path]


def headline(rows: list[Record]) -> str:
    """Marginal KL by latents."""
    found = [(r["cell"]["latents"], look_up(r["result"]["train"], "monte-carlo", target="empirical")) for r in rows]
    return "; ".join(f"{latents}: {kl[0]:.3f} ± {kl[1]:.3f}" for latents, kl in found if kl)


ITEM = Item(
    order=4,
    title="Hoffman and Johnson (2016)",
    paper="2: 0.21; 10: 8.35; 20: 9.53",
    headline=headline,
    folder=HERE,
    records="elbo_surgery.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
