"""analyses/README.md: every item of the papers, its command, its cost, the paper's value and ours, from the records alone.

python -m analyses.overview
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from analyses.machinery import findings
from analyses.machinery.cells import Item, Record, markdown, reason, results
from klprobe.runtime.records import read_records

HERE = Path(__file__).parent
HEAD = ("item", "command: `python -m analyses.` and", "2 cores", "paper", "ours", "record")
TEXT = """# Tables and figures of the papers

Made by `python -m analyses.overview` from the records. A command without flags draws its page from the records; with
`--preset quick` it first runs the cells that have none, on two CPU cores; `--preset paper` has the paper's sizes, which want a
GPU (none was at hand: nothing here was run on one). `--jobs`, `--backend loky|dask|ray` and `--address` choose where cells
run; what is recorded is not run again, and `--retry` takes up what failed. Data: `KLPROBE_DATA`; trained models are kept in
`runs/`, or `KLPROBE_RUNS`. Time is the CPU time of the quick preset's cells that are recorded, over two, on a busy machine.
± is one standard deviation over the seeds where there are several, and one standard error where there is one. Each page says
what was made how, with errors, and where ours and the paper's differ why.
DMVI: Rosca et al. (2018), AGAN: Rosca et al. (2017), BMS: "Best-of-many-samples" distribution matching (2020), UNIFY: Hu et
al. (2018).
"""
LATER = "not recorded yet"
NO_PAPER = "no paper has it"


class Row(NamedTuple):
    """A line of the table: what it is, the module that makes it, what the paper says, and what the records say."""

    item: str
    module: str
    paper: str
    ours: Callable[[list[Record]], str]


ROWS = (
    Row("DMVI Table 1", "dmvi.table_1", "ColorMNIST 50: 0.468, 0.244 nats a latent", findings.table_1),
    Row("DMVI Figure 1", "dmvi.figure_1", "bars; all near the minimum", findings.table_1),
    Row("DMVI Tables 2, 3", "dmvi.table_2", "2.3 to 3.3 of 12.3 nats; 25812.8 with noise", findings.table_2),
    Row(
        "DMVI Table 4",
        "dmvi.table_4",
        "0: 23.4, 12.2; 1: 22.5, 11.6; 2: 22.3, 11.4; 10: 22.2, 11.3",
        findings.table_4,
    ),
    Row("DMVI Figure 6", "dmvi.figure_6", "all below Monte Carlo, LSTM best", findings.figure_6),
    Row("DMVI Figure 7", "dmvi.figure_7", "KL 44.7, and 256.7 with better reconstructions", findings.figure_7),
    Row("DMVI Figure 11", "dmvi.figure_11", "the VAE's bound rises, VEEGAN's does not", findings.figure_11),
    Row("DMVI Figures 4, 5; AGAN Figures 2, 5", "agan.box_plots", "box plots; the two nets disagree on 15 %", findings.sweep),
    Row("AGAN Figures 13, 15; DMVI Figure 17's curve", "agan.critics", "curves and a scatter plot", findings.sweep),
    Row("DMVI Figures 12 to 17; AGAN Figures 3, 4, 6 to 9, 14", "agan.grids", "pictures", findings.sweep),
    Row("AGAN Figures 10 to 12", "agan.code_matching", "histograms and covariances", findings.code_matching),
    Row("BMS Table 1", "bms.table_1", "ring 8 modes, 99.6 %; grid 25 modes, 99.7 %", findings.modes),
    Row("BMS Table 2", "bms.table_2", "scatter plots", findings.modes),
    Row("BMS Table 3", "bms.table_3", "t-SNE with holes; no number", findings.holes),
    Row("BMS Tables 4, 6", "bms.table_4_6", "FID 23.4 to 89.3, IvOM .0037 to .0084", findings.images),
    Row(
        "BMS Table 5, Figure 3",
        "bms.table_5_figure_3",
        "pictures; in Table 4 IvOM .0055, .0048, .0037",
        findings.closest,
    ),
    Row("BMS Tables 7, 8", "bms.table_7_8", "CelebA: FID 13.6 to 41.2, IvOM .0034 to .0221", findings.images),
    Row("BMS Table 9", "bms.table_9", "LPIPS .140 to .162, lowest called most diverse", findings.diversity),
    Row("BMS Figures 2, 4, 5", "bms.figures_2_4_5", "pictures", findings.samples),
    Row("UNIFY Table 3", "unify.table_3", "VAE: +0.74, +1.44, +0.11 nats at 1, 10, 100 %", findings.bounds),
    Row("UNIFY Tables 2, 4", "unify.table_2_4", "8.34 to 8.45; .985 to .987", findings.scores),
    Row("Ours: every system on MNIST", "ours.systems", "DMVI: AAE, AAE++, AAE-GAN match better", findings.side_by_side),
    Row("Ours: encoders of other people", "ours.third_party", NO_PAPER, findings.third_party),
    Row("Ours: verdict against N", "ours.verdict_against_n", NO_PAPER, findings.verdicts),
    Row("Hoffman and Johnson (2016)", "ours.elbo_surgery", "2: 0.21; 10: 8.35; 20: 9.53", findings.elbo_surgery),
)


class Page(NamedTuple):
    """A line of what is no `Item`: its own script keeps the records and writes the page.

    Attributes:
        commands: Modules; then or, between them.
        ours: What was found, or what says it from the records, with links.
        records: File, or why there is none.
    """

    item: str
    commands: str
    paper: str
    ours: str | Callable[[], str]
    records: str


PAGES = (
    Page(
        "DMVI Figures 2, 8, 9, 10",
        "dmvi.run_synthetic, then figure_2, ..., synthetic_page",
        "true KL falls at d = 1, 10; estimates off at every d",
        findings.synthetic,
        "dmvi/results/records/synthetic.jsonl",
    ),
    Page(
        "UNIFY Lemmas 1 and 2, Figure 2",
        "unify.lemmas, unify.figure_2",
        "two identities; a picture",
        "[page](unify/results/lemmas.md), [figure](unify/results/figure_2.svg)",
        "none: quadrature, in seconds",
    ),
    Page(
        "Ours: every estimator by dimension and KL",
        "ours.dimension_scaling, then dimension_scaling_page",
        NO_PAPER,
        findings.scaling,
        "ours/results/records/dimension_scaling.jsonl",
    ),
    Page(
        "Ratio estimators on known KLs",
        "ours.ratio_estimators, then ratio_estimators_page",
        NO_PAPER,
        findings.goals,
        "ours/results/records/ratio_estimators.jsonl",
    ),
    Page(
        "Monte Carlo against its peers",
        "ours.monte_carlo",
        NO_PAPER,
        "[page](ours/results/monte_carlo.md)",
        "ours/results/records/monte_carlo.jsonl",
    ),
    Page(
        "A training step, against pythae and a loop by hand",
        "ours.training",
        NO_PAPER,
        "[page](ours/results/training.md)",
        "ours/results/records/training.jsonl",
    ),
    Page(
        "Loading data",
        "ours.loading --data-root DIR",
        NO_PAPER,
        "batches a second, also flipped and shifted: in the record",
        "ours/results/records/loading.jsonl",
    ),
    Page(
        "A VAE on MNIST for 20 epochs",
        "ours.vae_mnist",
        "Quantized Normal: better reconstructions, larger KL",
        "[page](ours/results/vae_mnist.md)",
        "ours/results/records/vae_mnist.jsonl",
    ),
)


def line(row: Row) -> list[str]:
    """One line: of the last record of each of the quick preset's cells, where there are some; not of earlier settings'."""
    item: Item = importlib.import_module(f"analyses.{row.module}").ITEM
    path = item.folder / "records" / item.records
    cells = item.cells("quick")
    quick = [record for _, record in results(cells, read_records(path))]
    done, failed = [r for r in quick if r["result"]], [r for r in quick if not r["result"]]
    said = row.ours(done) if done else "none" if failed else LATER
    missing = len(cells) - len(quick)
    notes = [f"{missing} of {len(cells)} cells {LATER}"] * bool(missing and done)
    notes += [f"failed: {reason(record)}" for record in failed[:1]]
    notes += sorted({record["date"] for record in done})[-1:]
    minutes = sum(record["cpu_seconds"] for record in quick) / 120
    where = path.relative_to(HERE)
    ours = ". ".join([said, *notes, *pages(item.folder, row.module.split(".")[-1])])
    return [row.item, f"`{row.module}`", f"{minutes:.0f} min", row.paper, ours, f"`{where}`"]


def pages(folder: Path, name: str) -> list[str]:
    """A link to what an item wrote: its page, or else its pictures; none where nothing was recorded."""
    pattern = re.compile(rf"{name}\.(md|svg|png)")
    found = sorted((path for path in folder.iterdir() if pattern.fullmatch(path.name)), key=lambda path: path.suffix)
    return [f"[Page]({found[0].relative_to(HERE)})"] if found else []


def spent(path: Path) -> str:
    """CPU time of a records file over two cores, where its records say it."""
    seconds = [record.get("cpu_seconds") for record in read_records(path)] if path.exists() else []
    seconds = [sum(some.values()) if isinstance(some, dict) else some or 0.0 for some in seconds]
    return f"{sum(seconds) / 120:.0f} min" if sum(seconds) else "see page"


def page() -> str:
    """The whole page."""
    lines = [line(row) for row in ROWS]
    for item, commands, paper, ours, records in PAGES:
        where = f"`{records}`" if (HERE / records).exists() else records
        lines.append([item, f"`{commands}`", spent(HERE / records), paper, ours if isinstance(ours, str) else ours(), where])
    return TEXT + "\n" + markdown(HEAD, lines) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page())
