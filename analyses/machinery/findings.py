"""What the records of each item say, in the few words that stand in analyses/README.md.

± is one standard deviation over the seeds where there are several, and one standard error where there is one.
"""

from __future__ import annotations

import statistics

from analyses.agan.box_plots import scores_of
from analyses.dmvi.run_synthetic import of_figure
from analyses.dmvi.settings import SYNTHETIC_FIGURES
from analyses.machinery.cells import Record
from analyses.machinery.models import look_up
from analyses.ours.dimension_scaling import RECORDS as SCALING_RECORDS
from analyses.ours.dimension_scaling import cells as scaling_cells
from analyses.ours.dimension_scaling_summary import grid
from analyses.ours.ratio_estimators import RECORDS as RATIO_RECORDS
from analyses.ours.ratio_estimators_page import goals as goal_table
from klprobe.rendering.synthetic import table
from klprobe.runtime.records import read_records


def table_1(rows: list[Record]) -> str:
    """Average and Monte Carlo KL a latent, and the population's bracket."""
    said = []
    for record in rows:
        train, test = record["result"]["train"], record["result"]["test"]
        system, data, _ = record["cell"]["row"]
        latents = record["cell"]["model"]["settings"]["latent_dim"]
        exact, average = look_up(train, "monte-carlo", target="empirical"), train["average_kl"][0]
        low, high = (test["brackets"]["population"][side][0] for side in ("lower", "upper"))
        name = f"{data.partition(':')[0]} {latents}" + (f" ({system})" if system != "vae" else "")
        per = f"{average / train['D']:.3f}, {exact[0] / train['D']:.3f}"
        said.append(f"{name}: {per}; population {low:.1f} to {high:.1f} in all")
    return "; ".join(said)


def table_2(rows: list[Record]) -> str:
    """Mean logits by classifier, for either table, with a link to the second's page."""
    said = []
    for number, data in sorted({(r["cell"]["table"], r["cell"]["model"]["dataset"].partition(":")[0]) for r in rows}):
        mine = [r for r in rows if r["cell"]["table"] == number]
        found = [(r["cell"]["row"], look_up(r["result"], "classifier", "mean-logit", "empirical")) for r in mine]
        said.append(f"{number}, {data}: " + "; ".join(f"{name} {kl[0]:.2f} ± {kl[1]:.2f}" for name, kl in found if kl))
    return ". ".join(said) + ". [Table 3](dmvi/results/table_3.md)"


def table_4(rows: list[Record]) -> str:
    """Average and Monte Carlo KL by lambda."""
    rows = sorted(rows, key=lambda r: r["cell"]["lambda"])
    kept = [(r["cell"]["lambda"], r["result"]["train"]) for r in rows]
    exact = [(weight, k["average_kl"][0], look_up(k, "monte-carlo", target="empirical")) for weight, k in kept]
    return "; ".join(f"{weight}: {average:.1f}, {kl[0]:.1f}" for weight, average, kl in exact if kl)


def figure_6(rows: list[Record]) -> str:
    """The best of each family."""
    best: dict[str, tuple[float, float]] = {}
    for record in rows:
        method = record["cell"]["method"]
        kl = look_up(record["result"], method, target="empirical")
        if kl:
            best[method] = max(best.get(method, kl), kl)
    if exact := look_up(rows[0]["result"], "monte-carlo", target="empirical"):
        best["Monte Carlo"] = exact
    return "; ".join(f"{name} {kl:.2f} ± {error:.2f}" for name, (kl, error) in best.items())


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
    return "; ".join(f"{latents}: {kl[0]:.3f} ± {kl[1]:.3f}" for latents, kl in found if kl)


def modes(rows: list[Record]) -> str:
    """Modes and share of high quality of the best-of-many system, T = 10, and of exact samples."""
    said = []
    for name in ("ring", "grid"):
        for row, called in (("bms-vae-gan", "BMS-VAE-GAN"), ("true samples", "true samples")):
            mine = [r["result"] for r in rows if (r["cell"]["row"], r["cell"]["dataset"]) == (row, name)]
            if mine:
                share = _over_seeds([100 * kept["high_quality"] for kept in mine], ".1f")
                found = _over_seeds([kept["modes"] for kept in mine], ".1f")
                said.append(f"{name}, {called}: {found} modes, {share} %")
    return "; ".join(said)


def holes(rows: list[Record]) -> str:
    """Share of prior mass in holes."""
    shares = [(r["cell"]["row"], r["result"]["share"][0]) for r in rows]
    return "prior mass in holes: " + "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares)


def images(rows: list[Record]) -> str:
    """FID of every row."""
    return "FID under our own small net: " + "; ".join(
        "{} {:.0f} ± {:.0f}".format(r["cell"]["row"], *r["result"]["fid"][:2]) for r in rows
    )


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
                gain = _over_seeds([elbo[activated, seed] - elbo[plain, seed] for seed in seeds], "+.2f")
                said.append(f"{activated} over {plain}, {percent} %: {gain}")
    return "; ".join(said)


def scores(rows: list[Record]) -> str:
    """Inception scores, or accuracies, by model."""
    said: dict[str, list[float]] = {}
    for record in rows:
        kept, model = record["result"], record["cell"]["model"]
        found = kept["accuracy" if "CGAN" in model else "inception-score"]
        said.setdefault(model, []).append(found[0])
    return "; ".join(f"{model} {_over_seeds(found, '.3g')}" for model, found in said.items())


def side_by_side(rows: list[Record]) -> str:
    """The lower bound of each system, the median over its seeds and their range."""
    lows: dict[str, list[float]] = {}
    for record in rows:
        if record["result"].get("kl"):
            low = record["result"]["kl"]["brackets"]["population"]["lower"]
            lows.setdefault(record["cell"]["model"]["system"], []).append(low[0])
    said = "; ".join(
        f"{name} {statistics.median(found):.2f}" + (f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else "")
        for name, found in lows.items()
    )
    return f"KL[q(z)] from p(z) at least, nats: {said}"


def synthetic() -> str:
    """Figure 2's true KL before and after learning, by d."""
    said = []
    for dim, _, truth, alone, end, _, _ in table(of_figure(2), "minimize")[1:]:
        said.append(f"d = {dim}: true KL {truth}, {alone} by a classifier, {end} after learning from it")
    links = ", ".join(f"[{n}](dmvi/results/figure_{n}.svg)" for n in SYNTHETIC_FIGURES)
    return f"{'; '.join(said)}. Figures {links}. [Page](dmvi/results/synthetic.md)"


def scaling() -> str:
    """How many cells there are, and whether a bound of any lies above the truth."""
    records = read_records(SCALING_RECORDS)
    cells = grid(records)
    broken = sum(cell.bound_broken for cell in cells.values())
    bounds = sum(cell.lower is not None for cell in cells.values())
    said = f"{len(records)} of {len(scaling_cells())} cells; {broken} of {bounds} lower bounds, means over the seeds, lie"
    return f"{said} above the truth by more than chance. [Page](ours/results/dimension_scaling.md)"


def goals() -> str:
    """Each case's best method."""
    plain = [record for record in read_records(RATIO_RECORDS) if not record["settings"]]
    rows = [line.strip("| ").split(" | ") for line in goal_table(plain).splitlines()[2:]]
    said = "; ".join(f"{case} {method} {median} ({seeds} seeds)" for case, _, method, seeds, median, *_ in rows)
    return f"{said}. [Page](ours/results/ratio_estimators.md)"


def _over_seeds(values: list[float], form: str) -> str:
    """Mean ± standard deviation of several, or the one there is."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}" if len(values) > 1 else mean
