"""DMVI Figures 4 and 5, AGAN Figures 2 and 5: box plots of every metric over the sweep, and how two Inception nets disagree.

python -m analyses.agan.box_plots                   # from the records
python -m analyses.agan.box_plots --preset quick    # three jobs a system
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analyses.agan.jobs import HERE, RECORDS, cells, work
from analyses.machinery.cells import Item, Record, main, markdown
from analyses.machinery.drawing import COLOURS, save

BEST = 10
"""Jobs marked as dots, as in the papers; of three jobs a box is all dots, so the best one alone."""
SAID = """A job is one setting of one system; each box is over the jobs of its system. The best diversity is the one nearest to
test data's; the critic's distance is plotted with a minus, as in the papers. Scores under different nets are not comparable."""

SHORT = """Learning rates and weights are the papers', chosen for convolutions and a hundred thousand steps: with two hidden
layers and this few steps, systems whose scores lie far from all others' have not begun to draw (see the pictures)."""


def scores_of(record: Record) -> dict[str, float]:
    """What the box plots show of one job; higher is better for all but the diversity."""
    kept = record["result"]["scores"]
    shown = {"diversity": kept["diversity, model"]["value"], "minus critic": -kept["critic"]["value"]}
    for name in kept:
        if name.endswith("net, model"):
            value = kept[name]["value"]
            shown[f"minus {name[:-7]}" if name.startswith("FID") else name[:-7]] = -value if name.startswith("FID") else value
    return shown


def references(record: Record) -> dict[str, dict[str, float]]:
    """The same of test data, and of test data with noise."""
    kept = record["result"]["scores"]
    found = {"diversity": {"data": kept["diversity, data"]["value"], "noisy": kept["diversity, noisy data"]["value"]}}
    for name in kept:
        if name.startswith("Inception") and name.endswith("net, data"):
            found[name[:-6]] = {"data": kept[name]["value"]}
    return found


def write(records: list[Record], folder: Path) -> list[Path]:
    """box_plots.svg and box_plots.md."""
    rows = [r for r in records if r["result"]]
    if not rows:
        return []
    names, systems = list(scores_of(rows[0])), list(dict.fromkeys(r["cell"]["system"] for r in rows))
    reference = references(rows[0])

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            values = [[scores_of(r)[name] for r in rows if r["cell"]["system"] == s] for s in systems]
            axis.boxplot(values, orientation="horizontal", showfliers=False, medianprops={"color": COLOURS[1]})
            for i, mine in enumerate(values):
                best = _best(mine, reference.get(name, {}).get("data") if name == "diversity" else None)
                axis.plot(best, [i + 1] * len(best), "o", color="black", markersize=4)
            for kind, at in reference.get(name, {}).items():
                axis.axvline(at, color=COLOURS[0], linestyle="-" if kind == "data" else ":")
            axis.set_yticks(range(1, len(systems) + 1), systems if axis is axes[0] else [""] * len(systems))
            axis.set_title(name, fontsize=8)
            axis.tick_params(axis="x", labelsize=7)

    short = [SHORT] if rows[0]["cell"]["preset"] != "paper" else []
    parts = ["# Box plots over the sweep", SAID, *short, _table(rows, names), _disagreement(rows, names)]
    page = folder / "box_plots.md"
    page.write_text("\n\n".join(parts) + "\n")
    return [save(folder / "box_plots.svg", (2.6 * len(names), 3.4), draw), page]


def _best(values: list[float], nearest_to: float | None) -> list[float]:
    """The best jobs: the highest, or those nearest to a value."""
    count = BEST if len(values) > BEST else 1
    return sorted(values, key=lambda v: -v if nearest_to is None else abs(v - nearest_to))[:count]


def _table(rows: list[Record], names: list[str]) -> str:
    lines = []
    for record in rows:
        settings = record["cell"]["model"]["settings"]
        varied = ", ".join(f"{k} {v:g}" for k, v in settings.items() if k.endswith(("lr", "weight")))
        numbers = [f"{value:.3g}" for value in scores_of(record).values()]
        lines.append([f"{record['cell']['system']} ({varied})", *numbers, f"{record['cpu_seconds']:.0f} s, {record['date']}"])
    kept = rows[0]["cell"]["model"]
    said = f"Of {kept['dataset']}, {kept['settings']['latent_dim']} latents, {kept['steps']:,} steps, one seed."
    return said + "\n\n" + markdown(["job", *names, "made"], lines)


def _disagreement(rows: list[Record], names: list[str]) -> str:
    """AGAN section 5: the share of jobs in the upper half by one Inception net and in the lower half by the other."""
    nets = [name for name in names if name.startswith("Inception")]
    if len(nets) < 2:
        return "One net judged: whether two disagree cannot be said."
    ranks = [[sorted(rows, key=lambda r: -scores_of(r)[net]).index(r) < len(rows) / 2 for r in rows] for net in nets[:2]]
    apart = sum(a != b for a, b in zip(*ranks, strict=True)) / len(rows)
    return (
        f"{100 * apart:.0f} % of the jobs are in the upper half by one of {nets[0]} and {nets[1]}, in the lower by the other."
    )


def headline(rows: list[Record]) -> str:
    """How many jobs, and the best by the critic."""
    best = max(rows, key=lambda r: scores_of(r)["minus critic"])
    systems = {r["cell"]["system"] for r in rows}
    return f"{len(rows)} jobs of {len(systems)} systems; best by the critic: {best['cell']['system']}"


ITEM = Item(
    order=1,
    title="DMVI Figures 4, 5; AGAN Figures 2, 5",
    paper="box plots; the two nets disagree on 15 %",
    headline=headline,
    folder=HERE,
    records=RECORDS,
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
