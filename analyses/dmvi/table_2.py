"""DMVI Tables 2 and 3: what the density ratio says, by the settings of its classifier.

python -m analyses.dmvi.table_2                   # from the records
python -m analyses.dmvi.table_2 --preset quick    # data, training, estimation, table
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from analyses.dmvi.settings import NOISE, TABLE_2, TABLE_2_MONTE_CARLO, TABLE_3, TABLE_3_MONTE_CARLO, model
from analyses.machinery.cells import Cell, Costs, Item, Preset, Record, Result, main, markdown, reason
from analyses.machinery.models import look_up, probe
from klprobe.estimators.classifier import Classifier
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent / "results"
PAPER_LIKE = {name: value for name, value in Classifier.PAPER.items() if name not in ("width", "steps", "check_every")}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 8, "steps": 4, "num_samples": 1000, "num_prior_samples": 1000},
    "quick": {"width": 512, "steps": 4000, "check_every": 400, "num_samples": 50_000, "num_prior_samples": 200_000},
    "paper": {"width": 5000, "steps": 500_000, "check_every": 5000},
}
"""Tenth of the units and a hundredth of the steps, in quick."""
OWN = "klprobe's default"
OWN_TINY = {"steps": 4, "num_samples": 1000, "num_prior_samples": 1000}
MODELS = {2: ("color-mnist", 50), 3: ("celeba", 100)}
SAID = f"""Total nats, over the points trained on. The paper's Monte Carlo says {{exact:g}}. Each classifier as the paper
has it: leaky ReLU, Adam with both betas 0.9, codes as they are, the last weights kept; {OWN} whitens, has a quadratic part and
a validation draw. The mean logit is what the paper reports, and is no bound."""
STAND_IN = ("cifar-10:partial", 100)
"""For Table 3 where CelebA is not at hand: of the paper's VAEs the one nearest in latents."""
STOOD_IN = """The paper's VAE is one of CelebA, whose owners hand it out themselves; in the quick preset a VAE of CIFAR-10 with
as many latents stands in: the rows compare settings of the classifier with each other, not values with the paper's."""


def cells(preset: Preset) -> list[Cell]:
    """A classifier a row, and klprobe's default one; Table 3 on CelebA in the paper's preset, on a stand-in otherwise."""
    listed: list[Cell] = []
    for table, rows in ((2, TABLE_2), (3, TABLE_3)):
        data, latents = MODELS[table] if preset == "paper" or table == 2 else STAND_IN
        trained = model(preset, "vae", data, latents)
        sized = SIZES[preset]
        for name, settings, _ in rows if preset != "tiny" else rows[2:3]:
            listed.append({"preset": preset, "table": table, "row": name, "model": trained, "classifier": settings | sized})
        own = OWN_TINY if preset == "tiny" else {}
        listed.append({"preset": preset, "table": table, "row": OWN, "model": trained, "classifier": own})
    return listed


def work(cell: Cell) -> Result:
    """One classifier on the points trained on, beside Monte Carlo."""
    return probe(cell["model"], "train", methods(cell))


def methods(cell: Cell) -> list[Any]:
    """Monte Carlo and the classifier."""
    settings = cell["classifier"] if cell["row"] == OWN else PAPER_LIKE | cell["classifier"]
    draws = {"tiny": 20, "quick": 500, "paper": 2000}[cell["preset"]]
    return [MonteCarlo(num_samples=draws), Classifier(**settings)]


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_2.md and table_3.md, where there are records."""
    written = []
    for table, rows, exact in ((2, TABLE_2, TABLE_2_MONTE_CARLO), (3, TABLE_3, TABLE_3_MONTE_CARLO)):
        paper = {name: kl for name, _, kl in rows}
        mine = [r for r in records if r["cell"]["table"] == table]
        if mine:
            path = folder / f"table_{table}.md"
            path.write_text(_page(table, mine, paper, exact))
            written.append(path)
    return written


def _page(table: int, records: list[Record], paper: dict[str, float], exact: float) -> str:
    head = ["classifier", "paper", "ours: mean logit", "NWJ, a lower bound", "Monte Carlo", "average KL - log N", "made"]
    lines = []
    for record in records:
        printed = f"{paper[name]:g}" if (name := record["cell"]["row"]) in paper else ""
        made = f"{_model(record)}, {record['date']}"
        if not record["result"]:
            lines.append([name, printed, "none", "none", "none", "none", reason(record)])
            continue
        kept = record["result"]
        mean, nwj = (look_up(kept, "classifier", what, "empirical") for what in ("mean-logit", "nwj"))
        monte_carlo = look_up(kept, "monte-carlo", target="empirical")
        numbers = [_said(value) for value in (mean, nwj, monte_carlo)]
        lines.append([name, printed, *numbers, f"{kept['average_kl'][0] - kept['log_n']:.2f}", made])
    parts = [f"# DMVI Table {table}", SAID.format(exact=exact)]
    if any(record["cell"]["model"]["dataset"] == STAND_IN[0] for record in records):
        parts.append(STOOD_IN)
    parts += [markdown(head, lines), *_reading(records, paper, exact)]
    return "\n\n".join(parts) + "\n"


def _reading(records: list[Record], paper: dict[str, float], exact: float) -> list[str]:
    """Why a classifier says less than Monte Carlo, with the numbers; what noise did."""
    done = {r["cell"]["row"]: r["result"] for r in records if r["result"]}
    said = {name: found[0] for name in done if (found := look_up(done[name], "classifier", "mean-logit", "empirical"))}
    if len(said) < 2:
        return []
    sure = {name: found[0] for name in done if (found := look_up(done[name], "classifier", "nwj", "empirical"))}
    best, first = max(sure, key=lambda name: sure[name]), next(iter(done.values()))
    monte_carlo = look_up(first, "monte-carlo", target="empirical")
    calm = [value for name, value in paper.items() if "noise" not in name]
    noisy = [f"{said[name]:.2f}" for name in said if "noise" in name]
    parts = [
        f"Classifiers say {min(said.values()):.3g} to {max(said.values()):.3g} nats where Monte Carlo says "
        f"{monte_carlo[0] if monte_carlo else math.nan:.1f}; in the paper, without noise, {min(calm):g} to {max(calm):g} where "
        f"it says {exact:g}. Monte Carlo's KL is that of the mixture over these {first['N']:,} points and sits at its ceiling, "
        "average KL less log N; a classifier that does not learn the points by heart sees the population's, of which the "
        f"largest bound here is {sure[best]:.2f} nats ({best})."
    ]
    if noisy:
        parts.append(
            f"Noise on hidden units of standard deviation {NOISE['activation_noise']:g} (ours: the paper gives none), in "
            f"training alone, does not make the mean logit explode as the paper's does: {', '.join(noisy)} nats."
        )
    return parts


def _model(record: Record) -> str:
    trained, classifier = record["cell"]["model"], record["cell"]["classifier"]
    of = f"{trained['dataset'].partition(':')[0]}, {trained['settings']['latent_dim']} latents, {trained['steps']:,} steps"
    if record["cell"]["row"] == OWN:
        return of
    return f"{of}; classifier of {classifier['width']} units, {classifier['steps']:,} steps"


def _said(found: tuple[float, float] | None) -> str:
    return "none" if found is None else f"{found[0]:.4g} ± {found[1]:.2g}"


def headline(rows: list[Record]) -> str:
    """Mean logits by classifier, for either table, with a link to the second's page."""
    said = []
    for number, data in sorted({(r["cell"]["table"], r["cell"]["model"]["dataset"].partition(":")[0]) for r in rows}):
        mine = [r for r in rows if r["cell"]["table"] == number]
        found = [(r["cell"]["row"], look_up(r["result"], "classifier", "mean-logit", "empirical")) for r in mine]
        said.append(f"{number}, {data}: " + "; ".join(f"{name} {kl[0]:.2f} ± {kl[1]:.2f}" for name, kl in found if kl))
    return ". ".join(said) + ". [Table 3](dmvi/results/table_3.md)"


ITEM = Item(
    order=4,
    title="DMVI Tables 2, 3",
    paper="2.3 to 3.3 of 12.3 nats; 25812.8 with noise",
    headline=headline,
    folder=HERE,
    records="table_2.jsonl",
    cells=cells,
    work=work,
    write=write,
    costs=lambda cell: Costs([cell["model"]], {"train": methods(cell)}, cell["model"]["settings"]["latent_dim"]),
)

if __name__ == "__main__":
    main(ITEM)
