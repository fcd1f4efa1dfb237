"""analyses/README.md: every item of the papers, its command, its cost, the paper's value and ours, from the records alone.

python -m analyses.overview
"""

from __future__ import annotations

import importlib
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from analyses.cells import Item, Record, markdown, reason, results
from analyses.models import look_up
from analyses.sweep.box_plots import scores_of
from klprobe.experiments.records import read_records

HERE = Path(__file__).parent
HEAD = ("item", "command: `python -m analyses.` and", "2 cores", "paper", "ours", "record")
TEXT = """# Tables and figures of the papers

Made by `python -m analyses.overview` from the records. A command without flags draws its page from the records; with
`--preset quick` it first runs the cells that have none, on two CPU cores; `--preset paper` has the paper's sizes, which want a
GPU (none was at hand: nothing here was run on one). `--jobs`, `--backend loky|dask|ray` and `--address` choose where cells
run; what is recorded is not run again, and `--retry` takes up what failed. Data: `KLPROBE_DATA`; trained models are kept in
`runs/`, or `KLPROBE_RUNS`. Time is the CPU time of the quick preset's cells that are recorded, over two, on a busy machine.
DMVI: Rosca et al. (2018), AGAN: Rosca et al. (2017), BMS: "Best-of-many-samples" distribution matching (2020), UNIFY: Hu et
al. (2018).
"""
LATER = "not recorded yet"


class Row(NamedTuple):
    """A line of the table: what it is, the module that makes it, what the paper says, and what the records say."""

    item: str
    module: str
    paper: str
    ours: Callable[[list[Record]], str]


def table_1(rows: list[Record]) -> str:
    """Average and Monte Carlo KL a latent, and the population's bracket."""
    said = []
    for record in rows:
        train, test = record["result"]["train"], record["result"]["test"]
        system, data, latents = record["cell"]["row"]
        exact, average = look_up(train, "monte-carlo", target="empirical"), train["average_kl"][0]
        low, high = (test["brackets"]["population"][side][0] for side in ("lower", "upper"))
        name = f"{data.partition(':')[0]} {latents}" + (f" ({system})" if system != "vae" else "")
        per = f"{average / train['D']:.3f}, {exact[0] / train['D']:.3f}"
        said.append(f"{name}: {per}; population {low:.1f} to {high:.1f} in all")
    return "; ".join(said)


def table_2(rows: list[Record]) -> str:
    """Mean logits by classifier."""
    found = [(r["cell"]["row"], look_up(r["result"], "classifier", "mean-logit", "empirical")) for r in rows]
    return "; ".join(f"{name} {kl[0]:.3g}" for name, kl in found if kl)


def table_4(rows: list[Record]) -> str:
    """Average and Monte Carlo KL by lambda."""
    rows = sorted(rows, key=lambda r: r["cell"]["lambda"])
    kept = [(r["cell"]["lambda"], r["result"]["train"]) for r in rows]
    exact = [(weight, k["average_kl"][0], look_up(k, "monte-carlo", target="empirical")) for weight, k in kept]
    return "; ".join(f"{weight}: {average:.1f}, {kl[0]:.1f}" for weight, average, kl in exact if kl)


def figure_6(rows: list[Record]) -> str:
    """The best of each family."""
    best: dict[str, float] = {}
    for record in rows:
        method = record["cell"]["method"]
        kl = look_up(record["result"], method, target="empirical")
        if kl:
            best[method] = max(best.get(method, kl[0]), kl[0])
    exact = look_up(rows[0]["result"], "monte-carlo", target="empirical")
    return "; ".join(f"{name} {kl:.1f}" for name, kl in best.items()) + (f"; Monte Carlo {exact[0]:.1f}" if exact else "")


def figure_7(rows: list[Record]) -> str:
    """Average KL and error of reconstructions."""
    kept = [(r["cell"]["visible"], r["result"]["test"]["average_kl"][0], r["result"]["rms"][0]) for r in rows]
    return "; ".join(f"{name}: KL {kl:.1f}, rms {error:.4f}" for name, kl, error in kept)


def figure_11(rows: list[Record]) -> str:
    """First and last value of the bounds."""
    return "; ".join(f"{r['cell']['system']}: {r['result']['bound'][0]:.0f} to {r['result']['bound'][-1]:.0f}" for r in rows)


def sweep(rows: list[Record]) -> str:
    """How many jobs, and the best by the critic."""
    best = max(rows, key=lambda r: scores_of(r)["minus critic"])
    systems = {r["cell"]["system"] for r in rows}
    return f"{len(rows)} jobs of {len(systems)} systems; best by the critic: {best['cell']['system']}"


def code_matching(rows: list[Record]) -> str:
    """Spread of the latents' means, and the KL's lower bound."""
    said = []
    for record in rows:
        kept, spread = record["result"], statistics.pstdev(record["result"]["mean"])
        low = kept["test"]["brackets"]["population"]["lower"]
        said.append(f"{record['cell']['kl']}: means spread by {spread:.2f}, KL at least {low[0]:.1f}")
    return "; ".join(said)


def third_party(rows: list[Record]) -> str:
    """Both brackets of every encoder."""
    said = []
    for record in rows:
        both = [record["result"]["brackets"][target] for target in ("empirical", "population")]
        low, high = (both[1][side][0] for side in ("lower", "upper"))
        said.append(f"{record['cell']['file']}: {both[0]['lower'][0]:.2f}, population {low:.2f} to {high:.2f}")
    return "; ".join(said)


def verdicts(rows: list[Record]) -> str:
    """From how many points on each encoder is resolved."""
    least: dict[str, float] = {}
    for record in rows:
        name, count = record["cell"]["file"], record["cell"]["points"]
        least.setdefault(name, float("inf"))
        if record["result"]["verdict"] == "resolved":
            least[name] = min(least[name], count)
    said = [f"{name}: {'not' if n == float('inf') else f'from {n:,.0f} points'}" for name, n in least.items()]
    return "resolved " + "; ".join(said)


def elbo_surgery(rows: list[Record]) -> str:
    """Marginal KL by latents."""
    found = [(r["cell"]["latents"], look_up(r["result"]["train"], "monte-carlo", target="empirical")) for r in rows]
    return "; ".join(f"{latents}: {kl[0]:.2f}" for latents, kl in found if kl)


def modes(rows: list[Record]) -> str:
    """Modes and share of high quality of the best-of-many system, T = 10, and of exact samples."""
    said = []
    for name in ("ring", "grid"):
        for row, called in (("bms-vae-gan", "BMS-VAE-GAN"), ("true samples", "true samples")):
            mine = [r["result"] for r in rows if (r["cell"]["row"], r["cell"]["dataset"]) == (row, name)]
            if mine:
                share = 100 * statistics.mean(kept["high_quality"] for kept in mine)
                said.append(f"{name}, {called}: {statistics.mean(kept['modes'] for kept in mine):.1f} modes, {share:.0f} %")
    return "; ".join(said)


def holes(rows: list[Record]) -> str:
    """Share of prior mass in holes."""
    shares = [(r["cell"]["row"], r["result"]["share"][0]) for r in rows]
    return "prior mass in holes: " + "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares)


def images(rows: list[Record]) -> str:
    """FID of every row."""
    return "FID under our own small net: " + "; ".join(f"{r['cell']['row']} {r['result']['fid'][0]:.0f}" for r in rows)


def closest(rows: list[Record]) -> str:
    """Error of the nearest image each system makes, and how often it is the nearest of all."""
    said = []
    for record in rows:
        kept = record["result"]
        said += [f"{name}: {kept['ivom'][name][0]:.4f}, nearest to {kept['nearest'][name]}" for name in kept["ivom"]]
    return "; ".join(said)


def diversity(rows: list[Record]) -> str:
    """LPIPS of every system, and of real images."""
    said = {f"{r['cell']['data']}, {r['cell']['row']}": r["result"]["lpips"][0] for r in rows}
    said |= {f"{r['cell']['data']}, real images": r["result"]["real"][0] for r in rows}
    return f"under {rows[0]['result']['net']}: " + "; ".join(f"{name} {value:.3f}" for name, value in said.items())


def samples(rows: list[Record]) -> str:
    """Whose samples there are."""
    return "samples of " + "; ".join(f"{r['cell']['row']} on {r['cell']['data']}" for r in rows)


def bounds(rows: list[Record]) -> str:
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
                gain = statistics.mean(elbo[activated, seed] - elbo[plain, seed] for seed in seeds)
                said.append(f"{activated} over {plain}, {percent} %: {gain:+.2f}")
    return "; ".join(said)


def scores(rows: list[Record]) -> str:
    """Inception scores, or accuracies, by model."""
    said: dict[str, list[float]] = {}
    for record in rows:
        kept, model = record["result"], record["cell"]["model"]
        found = kept["accuracy" if "CGAN" in model else "inception-score"]
        said.setdefault(model, []).append(found[0])
    return "; ".join(f"{model} {statistics.mean(found):.3g}" for model, found in said.items())


def side_by_side(rows: list[Record]) -> str:
    """The lower bound of each system, the median over its seeds."""
    lows: dict[str, list[float]] = {}
    for record in rows:
        if record["result"].get("kl"):
            low = record["result"]["kl"]["brackets"]["population"]["lower"]
            lows.setdefault(record["cell"]["model"]["system"], []).append(low[0])
    said = "; ".join(f"{name} {statistics.median(found):.1f}" for name, found in lows.items())
    return f"KL[q(z)] from p(z) at least, nats: {said}"


ROWS = (
    Row("DMVI Table 1", "distribution_matching.table_1", "ColorMNIST 50: 0.468, 0.244 nats a latent", table_1),
    Row("DMVI Figure 1", "distribution_matching.figure_1", "bars; all near the minimum", table_1),
    Row("DMVI Tables 2, 3", "distribution_matching.table_2", "2.3 to 3.3 of 12.3 nats; 25812.8 with noise", table_2),
    Row(
        "DMVI Table 4", "distribution_matching.table_4", "0: 23.4, 12.2; 1: 22.5, 11.6; 2: 22.3, 11.4; 10: 22.2, 11.3", table_4
    ),
    Row("DMVI Figure 6", "distribution_matching.figure_6", "all below Monte Carlo, LSTM best", figure_6),
    Row("DMVI Figure 7", "distribution_matching.figure_7", "KL 44.7, and 256.7 with better reconstructions", figure_7),
    Row("DMVI Figure 11", "distribution_matching.figure_11", "the VAE's bound rises, VEEGAN's does not", figure_11),
    Row("DMVI Figures 4, 5; AGAN Figures 2, 5", "sweep.box_plots", "box plots; the two nets disagree on 15 %", sweep),
    Row("AGAN Figures 13, 15; DMVI Figure 17's curve", "sweep.critics", "curves and a scatter plot", sweep),
    Row("DMVI Figures 12 to 17; AGAN Figures 3, 4, 6 to 9, 14", "sweep.grids", "pictures", sweep),
    Row("AGAN Figures 10 to 12", "sweep.code_matching", "histograms and covariances", code_matching),
    Row("BMS Table 1", "best_of_many.table_1", "ring 8 modes, 99.6 %; grid 25 modes, 99.7 %", modes),
    Row("BMS Table 2", "best_of_many.table_2", "scatter plots", modes),
    Row("BMS Table 3", "best_of_many.table_3", "t-SNE with holes; no number", holes),
    Row("BMS Tables 4, 6", "best_of_many.table_4_6", "FID 23.4 to 89.3, IvOM .0037 to .0084", images),
    Row("BMS Table 5, Figure 3", "best_of_many.table_5_figure_3", "pictures; in Table 4 IvOM .0055, .0048, .0037", closest),
    Row("BMS Tables 7, 8", "best_of_many.table_7_8", "CelebA: FID 13.6 to 41.2, IvOM .0034 to .0221", images),
    Row("BMS Table 9", "best_of_many.table_9", "LPIPS .140 to .162, lowest called most diverse", diversity),
    Row("BMS Figures 2, 4, 5", "best_of_many.figures_2_4_5", "pictures", samples),
    Row("UNIFY Table 3", "unifying.table_3", "VAE: +0.74, +1.44, +0.11 nats at 1, 10, 100 %", bounds),
    Row("UNIFY Tables 2, 4", "unifying.table_2_4", "8.34 to 8.45; .985 to .987", scores),
    Row("Ours: every system on MNIST", "systems.table", "DMVI: AAE, AAE++, AAE-GAN match better", side_by_side),
    Row("Ours: encoders of other people", "ours.third_party", "no paper has it", third_party),
    Row("Ours: verdict against N", "ours.verdict_against_n", "no paper has it", verdicts),
    Row("Hoffman and Johnson (2016)", "ours.elbo_surgery", "2: 0.21; 10: 8.35; 20: 9.53", elbo_surgery),
)


PAGES = (
    (
        "DMVI Figures 2, 8, 9, 10",
        "distribution_matching.run_synthetic, then figure_2, ...",
        "true KL falls at d = 1, 10; estimates off at every d",
        "[2](distribution_matching/figure_2.svg), [8](distribution_matching/figure_8.svg), "
        "[9](distribution_matching/figure_9.svg), [10](distribution_matching/figure_10.svg)",
        "distribution_matching/records/synthetic.jsonl",
    ),
    (
        "UNIFY Lemmas 1 and 2, Figure 2",
        "unifying.lemmas, unifying.figure_2",
        "two identities; a picture",
        "[page](unifying/lemmas.md), [figure](unifying/figure_2.svg)",
        "none: quadrature, in seconds",
    ),
    (
        "Ours: every estimator by dimension and KL",
        "dimension_scaling.run, then figure",
        "no paper has it",
        "[page](dimension_scaling/dimension_scaling.md), not all cells recorded yet",
        "dimension_scaling/records/dimension_scaling.jsonl",
    ),
    (
        "Ratio estimators on known KLs",
        "benchmarks.ratio_estimators, then ratio_estimators_page",
        "no paper has it",
        "[page](benchmarks/ratio_estimators.md)",
        "benchmarks/records/ratio_estimators.jsonl",
    ),
    (
        "Monte Carlo against its peers",
        "benchmarks.monte_carlo",
        "no paper has it",
        "[page](benchmarks/monte_carlo.md)",
        "benchmarks/records/monte_carlo.jsonl",
    ),
    (
        "A training step, against pythae and a loop by hand",
        "benchmarks.training",
        "no paper has it",
        "[page](benchmarks/training.md)",
        "benchmarks/records/training.jsonl",
    ),
    (
        "Loading data",
        "benchmarks.loading --data-root DIR",
        "no paper has it",
        "batches a second, also flipped and shifted: in the record",
        "benchmarks/records/loading.jsonl",
    ),
    (
        "A VAE on MNIST for 20 epochs",
        "systems.vae_mnist",
        "Quantized Normal: better reconstructions, larger KL",
        "[page](systems/vae_mnist.md)",
        "systems/records/vae_mnist.jsonl",
    ),
)
"""What is no `Item`: its own script keeps the records and writes the page."""


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
    for item, command, paper, ours, records in PAGES:
        where = f"`{records}`" if (HERE / records).exists() else records
        lines.append([item, f"`{command}`", spent(HERE / records), paper, ours, where])
    return TEXT + "\n" + markdown(HEAD, lines) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page())
