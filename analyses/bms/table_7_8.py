"""BMS Tables 7 and 8: FID and IvOM on CelebA, 64 x 64 and 128 x 128.

python -m analyses.bms.table_7_8                   # from the records
python -m analyses.bms.table_7_8 --preset quick    # training, measuring, table
"""

from __future__ import annotations

from pathlib import Path

from analyses.bms.image_models import model
from analyses.bms.image_scores import headline, part, work
from analyses.bms.image_settings import FACES, QUOTED_FACES
from analyses.machinery.cells import Cell, Item, Preset, Record, main

HERE = Path(__file__).parent / "results"
ABOUT = """FID with the features of a classifier that klprobe trained on CIFAR-10, to whose 32 x 32 pixels faces are
brought, for CelebA's images have no classes; the paper has those of Inception: **only the order of rows can be compared
with the paper, no value**. `klprobe evaluate --net` judges a trained model with another net. IvOM is the mean squared error
a value of the nearest image that a code gives, in [0, 1]; the paper's scale is not known. ± is one standard error over
images; the spread over training seeds is not in it. "Quoted" are systems that klprobe does not have."""


def cells(preset: Preset) -> list[Cell]:
    """A model a row; without CelebA each of them fails, and the table says why."""
    return [{"preset": preset, "row": row.name, "model": model(preset, row)} for row in FACES]


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_7_8.md, one part a preset."""
    parts = ["# BMS Tables 7 and 8", ABOUT]
    for preset in dict.fromkeys(record["cell"]["preset"] for record in records):
        parts += part(preset, FACES, QUOTED_FACES, [record for record in records if record["cell"]["preset"] == preset])
    path = folder / "table_7_8.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path]


ITEM = Item(
    order=6,
    title="BMS Tables 7, 8",
    paper="CelebA: FID 13.6 to 41.2, IvOM .0034 to .0221",
    headline=headline,
    folder=HERE,
    records="table_7_8.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
