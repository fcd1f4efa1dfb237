"""The runs behind figures 2, 8, 9 and 10, one line of records/ each as soon as it is done; what is there is not run again.

python -m analyses.dmvi.run_synthetic                  # d = 1, 10, 100, three seeds: 15 minutes of one core
python -m analyses.dmvi.run_synthetic --dims 1000 --seeds 1 --figures 2
python -m analyses.dmvi.run_synthetic --larger
python -m analyses.dmvi.run_synthetic --preset paper --device cuda --dims 100 --seeds 10
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from analyses.dmvi.settings import SYNTHETIC_FIGURES
from klprobe.runtime.records import Record, keep_record, read_records
from klprobe.synthetic.run import run_one
from klprobe.synthetic.settings import PRESETS, Experiment, Preset, Settings, is_cell

RECORDS = Path(__file__).parent / "results" / "records" / "synthetic.jsonl"
THOUSAND = {"steps": 1000, "logged": 21}
"""Ours, at d = 1000 of the quick preset: W has ten million entries, and a step of it takes a fifth of a second."""
LARGER = ((100, {"steps": 100_000}), (1000, {"steps": 4000}), (100, {"classifier_width": 1024}))
"""d, and what differs from figure 2's quick runs, of those that show what more steps and a larger classifier do."""
Cell = tuple[Experiment, int, int, Settings]


def settings_of(figure: int, dim: int, preset: Preset, larger: Mapping[str, int] = MappingProxyType({})) -> Settings:
    """What the figure's runs at one dimension are made with, or larger ones."""
    smaller = THOUSAND if (preset, dim) == ("quick", 1000) else {}
    return Settings(**{**PRESETS[preset], **smaller, **SYNTHETIC_FIGURES[figure], **larger})


def cells(figures: list[int], dims: list[int], seeds: int, preset: Preset) -> Iterator[Cell]:
    """Estimation and minimisation of every figure; two figures may share an estimation."""
    for seed in range(seeds):
        for figure in figures:
            for dim in dims:
                for experiment in ("estimate", "minimize"):
                    yield experiment, dim, seed, settings_of(figure, dim, preset)  # type: ignore[misc]


def larger_cells() -> Iterator[Cell]:
    """Figure 2's minimisation at one seed, with many more steps or a larger classifier."""
    for dim, larger in LARGER:
        yield "minimize", dim, 0, settings_of(2, dim, "quick", larger)


def of_figure(figure: int, preset: Preset = "quick") -> list[Record]:
    """The records that belong to one figure."""
    return [
        record
        for record in read_records(RECORDS)
        if is_cell(record, record["experiment"], record["dim"], record["seed"], settings_of(figure, record["dim"], preset))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=int, nargs="+", default=list(SYNTHETIC_FIGURES), choices=list(SYNTHETIC_FIGURES))
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--larger", action="store_true", help="run the larger ones alone: forty minutes of one core")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    done = read_records(RECORDS)
    for cell in larger_cells() if flags.larger else cells(flags.figures, flags.dims, flags.seeds, flags.preset):
        if any(is_cell(record, *cell) for record in done):
            continue
        record = run_one(*cell, preset=flags.preset, device=flags.device)
        keep_record(RECORDS, record)
        done.append(record)
        experiment, dim, seed, settings = cell
        variant = f"{settings.classifier_layers} layers, lr {settings.classifier_lr:g}, "
        variant += f"{settings.classifier_steps_per_generator_step} updates"
        end = record["curve"]["true_kl" if experiment == "minimize" else "estimate"][-1]
        said = f"{record['truth']:.4g} -> {end:.4g} in {record['cpu_seconds']:.0f} s"
        print(f"{experiment} d = {dim}, seed {seed}, {variant}: {said}", flush=True)


if __name__ == "__main__":
    main()
