"""Both brackets for encoders that other people trained, beside what "average KL - log N" would say.

python -m analyses.ours.third_party                   # from the records
python -m analyses.ours.third_party --preset quick    # needs KLPROBE_POSTERIORS, a folder of .npz files
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.machinery.cells import NO_PAPER, Cell, Item, Preset, Record, Result, main, markdown, reason
from analyses.machinery.models import facts
from analyses.ours.posteriors import FILES, open_posterior
from klprobe.estimation.run import estimate
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.maf import Maf
from klprobe.estimators.monte_carlo import MonteCarlo

HERE = Path(__file__).parent / "results"
SAID = """Total nats, over the 60,000 images that each encoder was trained on, so the population's lower bound may be a little
too high: the encoders' test images are not here. *Least* is average KL - log N, what Monte Carlo cannot go below."""


def cells(preset: Preset) -> list[Cell]:
    """A file a cell."""
    return [{"preset": preset, "file": name} for name in (FILES if preset != "tiny" else ("tiny",))]


def work(cell: Cell) -> Result:
    """Monte Carlo, a mixture and a flow; all that `klprobe estimate` says by default in the paper's preset."""
    methods: dict[str, list[Any]] = {
        "tiny": [MonteCarlo(num_samples=50), Gmm(components=2, steps=2)],
        "quick": [MonteCarlo(num_samples=10_000), Gmm(steps=1000), Maf(steps=1500)],
        "paper": ["auto"],
    }
    return facts(
        estimate(
            open_posterior(cell["file"]), methods=methods[cell["preset"]], split="train", trained_on="train", marginals=False
        )
    )


def write(records: list[Record], folder: Path) -> list[Path]:
    """third_party.md."""
    head = ["encoder", "D", "average KL", "least", "KL[q_N], this sample", "KL[q], population", "mutual information", "verdict"]
    lines = []
    for record in records:
        kept = record["result"]
        if kept is None:
            lines.append([record["cell"]["file"], *["none"] * 6, reason(record)])
            continue
        average, sides = kept["average_kl"][0], kept["brackets"]
        empirical, population = (sides[target] for target in ("empirical", "population"))
        low, high = population["lower"], population["upper"]
        lines.append(
            [
                record["cell"]["file"],
                str(kept["D"]),
                f"{average:.3f}",
                f"{average - kept['log_n']:.3f}",
                f"{empirical['lower'][0]:.3f} ± {empirical['lower'][1]:.3f}",
                f"{low[0]:.3f} ± {low[1]:.3f} ({low[2]}) to {high[0]:.3f} ± {high[1]:.3f}",
                f"{kept['mutual_information'][0]:.3f} of at most {kept['log_n']:.2f}",
                kept["verdict"],
            ]
        )
    path = folder / "third_party.md"
    path.write_text(f"# Encoders that other people trained\n\n{SAID}\n\n{markdown(head, lines)}\n")
    return [path]


def headline(rows: list[Record]) -> str:
    """Both brackets of every encoder."""
    said = []
    for record in rows:
        both = [record["result"]["brackets"][target] for target in ("empirical", "population")]
        low, high = (both[1][side][0] for side in ("lower", "upper"))
        said.append(f"{record['cell']['file']}: {both[0]['lower'][0]:.2f}, population {low:.2f} to {high:.2f}")
    return "; ".join(said)


ITEM = Item(
    order=2,
    title="Ours: encoders of other people",
    paper=NO_PAPER,
    headline=headline,
    folder=HERE,
    records="third_party.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
