"""UNIFY Tables 2 and 4 on MNIST: scores of GANs with weighted samples, accuracy of classifiers that learn from few labels.

python -m analyses.unify.table_2_4                             # table_2_4.md from the records, those of Table 3 included
python -m analyses.unify.table_2_4 --preset quick --jobs 1     # run what has no record first
"""

from __future__ import annotations

from pathlib import Path

from analyses.machinery.cells import Item, Record, main, markdown, missing
from analyses.machinery.findings import over_seeds
from analyses.unify.run_tables import NETWORKS, STEPS, costs, gan, gan_cells
from analyses.unify.settings import ACCURACIES, INCEPTION_SCORES, TABLE_4
from analyses.unify.table_3 import difference, of, spread
from klprobe.runtime.records import read_records

HERE = Path(__file__).parent / "results"
BESIDE = "table_3.jsonl"
"""The records with the classifiers."""
TEXT = """# UNIFY Tables 2 and 4, MNIST

Ours: mean and standard deviation over seeds, then the mean difference of a pair, run by run with the same seed, with its
standard error and t value, as in [Table 3](table_3.md). The paper's judge is a residual network, ours a small one, and its
training is longer, so that its differences can be set beside these, its scores cannot. "Share": effective number of samples
in a mini-batch, 1 / sum of squared weights, over its size, at the end of training; 100 % would be equal weights, that is the
plain GAN.
"""
SECTION = """## {preset}

{networks}, GANs {gan} steps, judge: {judge}. Cells without a record yet: {missing} of
{cells}.

{scores}

Accuracy on the test set of the classifiers q(y|x) of the runs of [Table 3](table_3.md):

{accuracies}
"""


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_2_4.md: a section for every preset that was run."""
    parts, others = [TEXT], read_records(folder / "records" / BESIDE) or read_records(HERE / "records" / BESIDE)
    for preset, steps in STEPS.items():
        done, beside = (
            [record for record in some if record["result"] and record["cell"]["preset"] == preset] for some in (records, others)
        )
        if not done:
            continue
        parts.append(
            SECTION.format(
                preset=preset,
                networks=NETWORKS[preset],
                gan=steps["gan"],
                missing=len(missing(gan_cells(preset), records)),
                cells=len(gan_cells(preset)),
                judge=done[0]["result"].get("judge"),
                scores=scores(done),
                accuracies=accuracies(beside),
            )
        )
    path = folder / "table_2_4.md"
    path.write_text("\n".join(parts))
    return [path]


def scores(done: list[Record]) -> str:
    """Inception scores, then accuracies of samples of a class, each with the score of test data."""
    rows = []
    for what, name, printed, pair in (
        ("Inception score", "inception-score", INCEPTION_SCORES, ("GAN", "IWGAN")),
        ("accuracy", "accuracy", ACCURACIES, ("CGAN", "IWCGAN")),
    ):
        found = [{r["cell"]["seed"]: r["result"] for r in done if r["cell"]["model"] == model} for model in pair]
        seeds = sorted(found[0].keys() & found[1].keys())
        test = [record["result"][name][0] for record in done if record["cell"]["model"] == "test data"]
        if not seeds or not test:
            continue
        digits = 2 if name == "inception-score" else 4
        values = [[runs[seed][name][0] for seed in seeds] for runs in found]
        share = [found[1][seed]["log"]["generator.effective_share"] for seed in seeds]
        paper = ", ".join(f"{printed[model][0]:g}" for model in (*pair, "test data"))
        rows.append(
            [
                f"{what}, {', '.join(pair)}",
                paper,
                *(spread(side, digits) for side in values),
                difference([b - a for a, b in zip(*values, strict=True)], digits),
                f"{test[0]:.{digits}f}",
                f"{100 * sum(share) / len(share):.0f} %",
                str(len(seeds)),
            ]
        )
    head = ["score", "paper, and its test data", "plain", "weighted", "difference", "test data", "share", "seeds"]
    return markdown(head, rows)


def accuracies(done: list[Record]) -> str:
    """SVAE and AA-SVAE."""
    rows = []
    for percent in TABLE_4["SVAE"]:
        found = [of(done, model, percent, lambda result: result["accuracy"]) for model in ("SVAE", "AA-SVAE")]
        seeds = sorted(found[0].keys() & found[1].keys())
        if not seeds:
            continue
        values = [[runs[seed] for seed in seeds] for runs in found]
        paper = ", ".join(f"{TABLE_4[model][percent][0]:.4f} ± {TABLE_4[model][percent][1]:.4f}" for model in TABLE_4)
        gained = difference([b - a for a, b in zip(*values, strict=True)], 4)
        rows.append([f"{percent} %", paper, *(spread(side, 4) for side in values), gained, str(len(seeds))])
    return markdown(["labels", "paper: SVAE, AA-SVAE", "SVAE", "AA-SVAE", "difference", "seeds"], rows)


def headline(rows: list[Record]) -> str:
    """Inception scores, or accuracies, by model."""
    said: dict[str, list[float]] = {}
    for record in rows:
        kept, model = record["result"], record["cell"]["model"]
        found = kept["accuracy" if "CGAN" in model else "inception-score"]
        said.setdefault(model, []).append(found[0])
    return "; ".join(f"{model} {over_seeds(found, '.3g')}" for model, found in said.items())


ITEM = Item(
    order=2,
    title="UNIFY Tables 2, 4",
    paper="8.34 to 8.45; .985 to .987",
    headline=headline,
    folder=HERE,
    records="table_2.jsonl",
    cells=gan_cells,
    work=gan,
    write=write,
    costs=costs,
)

if __name__ == "__main__":
    main(ITEM)
