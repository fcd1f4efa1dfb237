"""BMS Tables 4 and 6: FID and IvOM on CIFAR-10.

python -m analyses.bms.table_4_6                   # from the records
python -m analyses.bms.table_4_6 --preset quick    # training, measuring, table
"""

from __future__ import annotations

from pathlib import Path

from analyses.bms.image_models import model
from analyses.bms.image_scores import headline, part, work
from analyses.bms.image_settings import LIGHT_SNGAN, QUOTED, TABLES, Row
from analyses.machinery.cells import Cell, Item, Preset, Record, main

HERE = Path(__file__).parent / "results"
QUICK = (*TABLES[:5], LIGHT_SNGAN)
"""The standard CNN takes six times as long a step, and has no quick rows."""
ABOUT = """FID with 64 features of a small classifier that klprobe trained on the same images, where the paper has those of
Inception: **only the order of rows can be compared with the paper, no value**. IvOM is the mean squared error a value of the
nearest image that a code gives, in [0, 1]; the paper's scale is not known. ± is one standard error over images; the spread over
training seeds is not in it."""


def rows(preset: Preset) -> tuple[Row, ...]:
    """All that klprobe has, or the quick ones."""
    return TABLES if preset == "paper" else QUICK


def cells(preset: Preset) -> list[Cell]:
    """A model a row."""
    return [{"preset": preset, "row": row.name, "model": model(preset, row)} for row in rows(preset)]


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_4_6.md, one part a preset."""
    parts = ["# BMS Tables 4 and 6", ABOUT]
    for preset in dict.fromkeys(record["cell"]["preset"] for record in records):
        found = [record for record in records if record["cell"]["preset"] == preset]
        parts += part(preset, rows(preset), QUOTED if preset == "paper" else (), found)
    path = folder / "table_4_6.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path]


ITEM = Item(
    order=4,
    title="BMS Tables 4, 6",
    paper="FID 23.4 to 89.3, IvOM .0037 to .0084",
    headline=headline,
    folder=HERE,
    records="table_4_6.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
