"""UNIFY Table 3: the test bound of VAEs that learn from their own samples too, beside that of plain ones, with few data.

python -m analyses.unify.table_3                               # table_3.md from the records
python -m analyses.unify.table_3 --preset quick --jobs 1       # run what has no record first
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from analyses.machinery.cells import Item, Record, main, markdown, missing
from analyses.machinery.findings import over_seeds
from analyses.unify.run_tables import HELD_OUT, NETWORKS, PILOT, STEPS, TEMPERATURE, bound, bound_cells, costs
from analyses.unify.settings import PERCENTAGES, RUNS, TABLE_3, TEMPERATURES

HERE = Path(__file__).parent / "results"
PAIRS = (("VAE", "AA-VAE"), ("CVAE", "AA-CVAE"), ("SVAE", "AA-SVAE"))
TEXT = """# UNIFY Table 3

Variational lower bound on the MNIST test set, nats, grey levels as probabilities; higher is better. VAE: log p(x); CVAE:
log p(x|y); SVAE: log p(x), learned from all training points and the labels of 1 % or 10 % of them. Ours: mean and standard
deviation over seeds, then the mean difference of a pair, run by run with the same data and seed, with its standard error and t
value, which chance alone takes beyond 12.7 (2 seeds) or 4.3 (3 seeds) one time in twenty. The paper's are means over {runs}
runs; its training is longer and its networks are convolutions, so that its differences can be set beside these, its values
cannot. A step of an activated model also sees as many of its own samples as data, and takes twice the time.
"""
SECTION = """## {preset}

{networks}, {bound} steps ({few} with few labels), learning rate falling to 0, at the step that is best on the one training
point in {held_out} that is held out. Cells without a record yet: {missing} of {cells}.

{table}

Temperature by 10 % of the data, a seed of its own and the held-out bound at the best step; {chosen:g} is used above.

{pilots}
"""


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_3.md: a section for every preset that was run."""
    parts = [TEXT.format(runs=RUNS)]
    for preset, steps in STEPS.items():
        done = [record for record in records if record["result"] and record["cell"]["preset"] == preset]
        if not done:
            continue
        parts.append(
            SECTION.format(
                preset=preset,
                networks=NETWORKS[preset],
                bound=steps["bound"],
                few=steps["few labels"],
                held_out=HELD_OUT,
                missing=len(missing(bound_cells(preset), records)),
                cells=len(bound_cells(preset)),
                table=bounds([record for record in done if record["cell"]["seed"] != PILOT]),
                chosen=TEMPERATURE,
                pilots=pilots([record for record in done if record["cell"]["seed"] == PILOT]),
            )
        )
    path = folder / "table_3.md"
    path.write_text("\n".join(parts))
    return [path]


def bounds(done: list[Record]) -> str:
    """A row a pair and share."""
    rows = []
    for plain, activated in PAIRS:
        for percent in PERCENTAGES:
            values = [of(done, model, percent, lambda result: result["test"]["elbo"][0]) for model in (plain, activated)]
            seeds = sorted(values[0].keys() & values[1].keys())
            if percent not in TABLE_3[plain] or not seeds:
                continue
            before, after = TABLE_3[plain][percent], TABLE_3[activated][percent]
            pair = [[found[seed] for seed in seeds] for found in values]
            differences = [b - a for a, b in zip(*pair, strict=True)]
            rows.append(
                [
                    f"{plain}, {activated}",
                    f"{percent} %",
                    f"{before}, {after}",
                    f"{after - before:+.2f}",
                    *(spread(side) for side in pair),
                    difference(differences),
                    str(len(seeds)),
                ]
            )
    head = ["pair", "data or labels", "paper", "paper: difference", "plain", "activated", "difference", "seeds"]
    return markdown(head, rows)


def pilots(done: list[Record]) -> str:
    """The best held-out bound of every temperature."""
    rows = []
    for temperature in TEMPERATURES:
        some = [record for record in done if record["cell"]["settings"]["temperature"] == temperature]
        for record in some[-1:]:
            log = record["result"]["log"]
            weights = [f"{log[f'vae.weight_of_{name}']:.3f}" for name in ("data", "fakes")]
            rows.append([f"{temperature:g}", f"{max(v for _, v in record['result']['validation']):.2f}", *weights])
    return markdown(["temperature", "held-out bound", "D(x) of data, last steps", "D(x) of samples"], rows)


def of(done: list[Record], model: str, percent: int, value: Callable[[dict], float]) -> dict[int, float]:  # type: ignore[type-arg]
    """A number of every seed's run."""
    mine = [record for record in done if (record["cell"]["model"], record["cell"]["percent"]) == (model, percent)]
    return {record["cell"]["seed"]: value(record["result"]) for record in mine}


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and, of several values, standard deviation."""
    said = f"{mean(values):.{digits}f}"
    return said if len(values) < 2 else f"{said} ± {deviation(values):.{digits}f}"


def difference(values: list[float], digits: int = 2) -> str:
    """Mean and, of several values, its standard error and t."""
    said = f"{mean(values):+.{digits}f}"
    if len(values) < 2:
        return said
    error = deviation(values) / math.sqrt(len(values))
    return f"{said} ± {error:.{digits}f}" + (f" (t = {mean(values) / error:+.1f})" if error else "")


def mean(values: list[float]) -> float:
    """The arithmetic one."""
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    """Standard deviation of two values or more."""
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))


def headline(rows: list[Record]) -> str:
    """Mean difference of activated and plain, by share of the data."""
    said = []
    for plain, activated in (("VAE", "AA-VAE"), ("CVAE", "AA-CVAE"), ("SVAE", "AA-SVAE")):
        for percent in (1, 10, 100):
            elbo = {
                (r["cell"]["model"], r["cell"]["seed"]): r["result"]["test"]["elbo"][0]
                for r in rows
                if r["cell"]["percent"] == percent
            }
            seeds = [seed for model, seed in elbo if model == plain and (activated, seed) in elbo]
            if seeds:
                gain = over_seeds([elbo[activated, seed] - elbo[plain, seed] for seed in seeds], "+.2f")
                said.append(f"{activated} over {plain}, {percent} %: {gain}")
    return "; ".join(said)


ITEM = Item(
    order=1,
    title="UNIFY Table 3",
    paper="VAE: +0.74, +1.44, +0.11 nats at 1, 10, 100 %",
    headline=headline,
    folder=HERE,
    records="table_3.jsonl",
    cells=bound_cells,
    work=bound,
    write=write,
    costs=costs,
)

if __name__ == "__main__":
    main(ITEM)
