"""analyses/README.md: every item of the papers, its command, its cost, the paper's value and ours, from the records alone.

python -m analyses.overview
"""

from __future__ import annotations

import re
from pathlib import Path

from analyses.machinery.cells import Item, markdown, reason, results
from analyses.machinery.declared import Page, declared
from klprobe.runtime.records import read_records

HERE = Path(__file__).parent
HEAD = ("item", "command: `python -m analyses.` and", "2 cores", "paper", "ours", "record")
TEXT = """# Tables and figures of the papers

Made by `python -m analyses.overview` from the records. A command without flags draws its page from the records; with
`--preset quick` it first runs the cells that have none, on two CPU cores; `--preset paper` has the paper's sizes, which want a
GPU (none was at hand: nothing here was run on one). `--jobs`, `--backend loky|dask|ray` and `--address` choose where cells
run; what is recorded is not run again, and `--retry` takes up what failed. Data: `KLPROBE_DATA`; trained models are kept in
the cache folder, or `KLPROBE_RUNS`. Time is the CPU time of the quick preset's recorded cells, over two, on a busy machine.
± is one standard deviation over the seeds where there are several, and one standard error where there is one. Each page says
what was made how, with errors, and where ours and the paper's differ why.
DMVI: Rosca et al. (2018), AGAN: Rosca et al. (2017), BMS: "Best-of-many-samples" distribution matching (2020), UNIFY: Hu et
al. (2018).
"""
LATER = "not recorded yet"


def line(module: str, item: Item) -> list[str]:
    """One line: of the last record of each of the quick preset's cells, where there are some; not of earlier settings'."""
    path = item.folder / "records" / item.records
    cells = item.cells("quick")
    quick = [record for _, record in results(cells, read_records(path))]
    done, failed = [r for r in quick if r["result"]], [r for r in quick if not r["result"]]
    said = item.headline(done) if done else "none" if failed else LATER
    missing = len(cells) - len(quick)
    notes = [f"{missing} of {len(cells)} cells {LATER}"] * bool(missing and done)
    notes += [f"failed: {reason(record)}" for record in failed[:1]]
    notes += sorted({record["date"] for record in done})[-1:]
    minutes = sum(record["cpu_seconds"] for record in quick) / 120
    where = path.relative_to(HERE)
    ours = ". ".join([said, *notes, *pages(item.folder, module.split(".")[-1])])
    return [item.title, f"`{module}`", f"{minutes:.0f} min", item.paper, ours, f"`{where}`"]


def line_of_page(module: str, page: Page) -> list[str]:
    """The same of what runs itself: its time is that of all its records."""
    folder = module.split(".")[0]
    path = HERE / folder / "results" / "records" / page.records
    where = f"`{path.relative_to(HERE)}`" if path.exists() else page.records
    said = page.headline if isinstance(page.headline, str) else page.headline()
    return [page.title, f"`{page.commands}`", spent(path), page.paper, said, where]


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
    return TEXT + "\n" + markdown(HEAD, lines) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page())
