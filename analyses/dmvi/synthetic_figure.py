"""What figures 2, 8, 9 and 10 share: true KL and estimates while the second Gaussian learns, one panel for each dimension."""

from __future__ import annotations

import argparse
from pathlib import Path

from analyses.dmvi.run_synthetic import of_figure
from klprobe.rendering.synthetic import draw, table
from klprobe.synthetic.settings import PRESETS, Preset

HERE = Path(__file__).parent / "results"


def main(number: int, setting: str) -> None:
    """Draw one figure and print its table as Markdown."""
    parser = argparse.ArgumentParser(description=f"Figure {number}: {setting}.")
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--out", type=Path, default=HERE / f"figure_{number}.svg")
    flags = parser.parse_args()
    print(write(number, setting, flags.preset, flags.out))


def write(number: int, setting: str, preset: Preset, out: Path) -> str:
    """Write the figure as SVG and return its table."""
    records = of_figure(number, preset)
    widths = sorted({record["settings"]["classifier_width"] for record in records})
    title = f"DMVI figure {number}, {preset} preset: {setting}, {', '.join(map(str, widths))} units a layer"
    out.write_bytes(draw(records, "minimize", title).svg)
    head, *rows = table(records, "minimize")
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
