"""BMS Table 1 with the networks and batches of the rows that it quotes: 2 x 128 tanh units, batches of 512, 25,000 steps.

python -m analyses.bms.table_1_protocol                     # from the records
python -m analyses.run --preset paper --hours 2.5 --jobs 2  # in stretches of time
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.bms.mode_settings import CODE_JUDGE, DATASETS, LATENTS, PRINTED, T
from analyses.bms.table_1 import work
from analyses.machinery.cells import Cell, Item, Preset, Record, main, markdown, reason
from analyses.machinery.findings import over_seeds

HERE = Path(__file__).parent / "results"
SEEDS = {"tiny": 1, "quick": 1, "paper": 5}
STEPS = {"tiny": 2, "quick": 1000, "paper": 25_000}
COMMON: dict[str, Any] = {
    "latent_dim": LATENTS,
    "width": 128,
    "layers": 2,
    "batch_norm": False,
    "activation": "tanh",
    "orthogonal_gain": 1.4,
    "batch_size": 512,
    "adam_beta1": 0.5,
    "adam_beta2": 0.999,
}
"""Metz et al. (2017), appendix A, and Srivastava et al. (2017), as public programs have it; 32 latents are those of BMS."""
METHOD = {"draws": T, "lr": 1e-3, "discriminator_lr": 1e-4, "code_lr": 1e-3, **CODE_JUDGE}
FAITHFUL = {"reconstruction_weight": 2.0}
"""Equation 7 as it stands; its weights are not given, these are those of our Table 1."""
WITH_SAMPLES = FAITHFUL | {"sample_weight": 1.0, "data_target": 0.5, "sample_target": 0.5}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "BMS-VAE-GAN": ("bms-vae-gan", METHOD | FAITHFUL),
    "BMS-VAE-GAN, samples judged too": ("bms-vae-gan", METHOD | WITH_SAMPLES),
    "SN-GAN, lr 1e-4": ("sngan", {"lr": 1e-4}),
    "SN-GAN, lr 1e-3": ("sngan", {"lr": 1e-3}),
}
SAID = """Generator and discriminator with 2 x 128 tanh units, orthogonal initial weights of gain 1.4, batches of 512, Adam with
beta1 0.5: what the rows that the paper quotes were made with. 2,500 samples a seed; % of high quality: within 3 standard
deviations of a mode. Every seed is shown: modes found, and %."""


def cells(preset: Preset) -> list[Cell]:
    """A model for each row, data set and seed; the method first, on the ring before the grid."""
    listed = []
    for row, (system, own) in ROWS.items():
        for name in DATASETS if preset != "tiny" else ["ring"]:
            for seed in range(SEEDS[preset]):
                settings = COMMON | own | ({"batch_size": 32} if preset == "tiny" else {})
                model = {"system": system, "dataset": name, "settings": settings, "steps": STEPS[preset], "seed": seed}
                listed.append({"preset": preset, "row": row, "dataset": name, "seed": seed, "model": model})
    return listed


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_1_protocol.md: a row for each system and data set, with all its seeds."""
    parts = ["# BMS Table 1 with the protocol of its quoted rows", SAID]
    for preset in dict.fromkeys(record["cell"]["preset"] for record in records):
        lines = []
        for name in DATASETS:
            for row, (system, _) in ROWS.items():
                mine = [r for r in records if [r["cell"][of] for of in ("preset", "dataset", "row")] == [preset, name, row]]
                if mine:
                    lines.append([f"{row}, {name}", ", ".join(getattr(PRINTED[system], name)) + " %", *_found(mine)])
        parts += [f"## Preset {preset}, {STEPS[preset]:,} steps"]
        parts += [markdown(["system, data", "paper: modes, high quality", "modes", "% high quality", "every seed"], lines)]
    path = folder / "table_1_protocol.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path]


def _found(records: list[Record]) -> list[str]:
    """Modes and % over the seeds, and of each seed; or why there are none."""
    done = {record["cell"]["seed"]: record["result"] for record in records if record["result"]}
    if not done:
        return ["none", "none", reason(records[-1])]
    modes, good = [float(kept["modes"]) for kept in done.values()], [100 * kept["high_quality"] for kept in done.values()]
    each = "; ".join(f"{kept['modes']}, {100 * kept['high_quality']:.1f}" for _, kept in sorted(done.items()))
    return [over_seeds(modes, ".1f"), over_seeds(good, ".1f"), each]


def headline(rows: list[Record]) -> str:
    """Modes and % of high quality of each system, over the seeds."""
    said = []
    for name in DATASETS:
        for row in ROWS:
            mine = [r for r in rows if (r["cell"]["dataset"], r["cell"]["row"]) == (name, row)]
            if mine:
                modes, good, _ = _found(mine)
                least = min(100 * r["result"]["high_quality"] for r in mine)
                said.append(f"{name}, {row}: {modes} modes, {good} %, least {least:.1f} % of {len(mine)} seeds")
    return "; ".join(said)


ITEM = Item(
    order=9,
    title="BMS Table 1, protocol of its quoted rows",
    paper="ring 8 modes, 99.6 %; grid 25 modes, 99.7 %",
    headline=headline,
    folder=HERE,
    records="modes_protocol.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
