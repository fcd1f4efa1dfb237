"""analyses/README.md: every item of the papers, its command, its cost, the paper's value and ours, from the records alone.

python -m analyses.overview
"""

from __future__ import annotations

import re
from pathlib import Path

from analyses.machinery.cells import Item, Preset, Record, markdown, reason, results
from analyses.machinery.declared import Page, declared
from analyses.machinery.findings import in_words
from analyses.machinery.operations import RATE, measured, seconds
from klprobe.runtime.records import read_records

HERE = Path(__file__).parent
HEAD = ("item", "command: `python -m analyses.` and", "2 cores", "paper's size: 2 cores, one GPU", "paper", "ours", "record")
TEXT = """# Tables and figures of the papers

Made by `python -m analyses.overview` from the records. A command without flags draws its page from the records; with
`--preset quick` it first runs the cells that have none, on two CPU cores; `--preset paper` has the paper's sizes. `--jobs`,
`--backend loky|dask|ray` and `--address` choose where cells run; what is recorded is not run again, and `--retry` takes up what
failed. Data: `KLPROBE_DATA`; trained models are kept in the user's cache folder, or in `KLPROBE_RUNS`.

`python -m analyses.run --preset paper --hours 2.5 --jobs 2` works on long jobs in stretches of time: it takes the cells of
`plan.toml` in their order, goes on from their last checkpoints, and stops at checkpoints before the hours are over; the result
is that of a run without a break, to the bit. `--list` shows how far the plan is, and `--device cuda` runs it on a GPU.

"2 cores" is the CPU time of the quick preset's cells that are recorded, over two, on a busy machine. Times at the paper's size
with ≈ are estimated from operations (`machinery/operations.py`): {core:,.0f} billion a second a core, which is measured, and
{gpu:,.0f} billion a GPU, which is a guess, for none was at hand and nothing here was run on one; what judges samples is not in
them. Those without ≈ are measured.
± is one standard deviation over the seeds where there are several, and one standard error where there is one. Each page says
what was made how, with errors, and where ours and the paper's differ why.
DMVI: Rosca et al. (2018), AGAN: Rosca et al. (2017), BMS: "Best-of-many-samples" distribution matching (2020), UNIFY: Hu et
al. (2018).
"""
LATER = "not recorded yet"


def line(module: str, item: Item) -> list[str]:
    """One line: of the last record of each of a preset's cells, where there are some; not of earlier settings'."""
    path = item.folder / "records" / item.records
    records = read_records(path)
    quick = [record for _, record in results(item.cells("quick"), records)]
    said = [f"At the paper's size: {large}"] if (large := _said(item, records, "paper")) else []
    said += ["Preset quick: " * bool(said) + (_said(item, records, "quick") or LATER)]
    minutes = sum(record["cpu_seconds"] for record in quick) / 120
    where = path.relative_to(HERE)
    ours = ". ".join([*said, *pages(item.folder, module.split(".")[-1])])
    return [item.title, f"`{module}`", f"{minutes:.0f} min", large_times(item, records), item.paper, ours, f"`{where}`"]


def _said(item: Item, records: list[Record], preset: Preset) -> str:
    """What the records of one preset say, what is missing or failed, and of when they are; empty where there are none."""
    cells = item.cells(preset)
    found = [record for _, record in results(cells, records)]
    done, failed = [r for r in found if r["result"]], [r for r in found if not r["result"]]
    if not found:
        return ""
    missing = len(cells) - len(found)
    notes = [f"{missing} of {len(cells)} cells {LATER}"] * bool(missing and done)
    notes += [f"failed: {reason(record)}" for record in failed[:1]]
    notes += sorted({record["date"] for record in done})[-1:]
    return ". ".join([item.headline(done) if done else "none", *notes])


def large_times(item: Item, records: list[Record]) -> str:
    """Of all cells at the paper's size, on two cores and on one GPU: measured, or estimated."""
    said = []
    for device, at_once in (("cpu", 2), ("cuda", 1)):
        known = measured(item, records, device)
        guess = seconds(item, device)
        about = f"≈ {in_words(guess / at_once)}" if guess else "not estimated"
        said.append(in_words(known / at_once) if known is not None else about)
    return ", ".join(said)


def line_of_page(module: str, page: Page) -> list[str]:
    """The same of what runs itself: its time is that of all its records."""
    folder = module.split(".")[0]
    path = HERE / folder / "results" / "records" / page.records
    where = f"`{path.relative_to(HERE)}`" if path.exists() else page.records
    said = page.headline if isinstance(page.headline, str) else page.headline()
    return [page.title, f"`{page.commands}`", spent(path), "no such preset", page.paper, said, where]


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
    lines = [line(name, one) if isinstance(one, Item) else line_of_page(name, one) for name, one in declared().items()]
    text = TEXT.format(core=RATE["cpu"] / 1e9, gpu=RATE["cuda"] / 1e9)
    return text + "\n" + markdown(HEAD, lines) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page())
