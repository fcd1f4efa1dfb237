"""Modes found on the 2-D ring (8) and grid (25) by every system, with the MLP pair and 32 latents, 3 seeds.

python -m analyses.benchmarks.modes                  # all cells that have no record yet
python -m analyses.benchmarks.modes vae aae-gan      # these systems
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from klprobe import registry
from klprobe.checkpoint import load_checkpoint
from klprobe.metrics.modes import Modes
from klprobe.provenance import commit
from klprobe.training import train

HERE = Path(__file__).parent
RECORDS = HERE / "records" / "modes.jsonl"
DATASETS, SEEDS, SAMPLES = ("ring", "grid"), (0, 1, 2), 2500
"""2,500 samples as in Srivastava et al. (2017)."""
STEPS = 10_000
COMMON: dict[str, Any] = {"latent_dim": 32, "batch_size": 256, "width": 128, "layers": 2}
"""32 latents (BMS); the rest is ours."""
JUDGE = {"code_width": 128, "code_layers": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "vae": {"visible": "laplace", "laplace_scale": 0.02},
    "aae": {**JUDGE, "reconstruction_weight": 20.0},
    "aae-plus": {**JUDGE},
    "aae-gan": {**JUDGE, "encoder_weight": 20.0, "generator_weight": 20.0},
    "vae-gan": {},
    "ali": {**JUDGE},
    "veegan": {**JUDGE},
    "adversarial-vb": {**JUDGE, "visible": "laplace", "laplace_scale": 0.02},
    "age": {},
    "dcgan": {},
    "wgan-gp": {},
}
"""What differs from a system's defaults: reconstruction on the scale of the data, whose modes are 0.01 and 0.05 wide."""


def main() -> None:
    """Run every cell that has no record, and append its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=list(SETTINGS))
    systems = parser.parse_args().systems
    torch.set_num_threads(1)
    done = {_key(json.loads(line)) for line in RECORDS.read_text().splitlines()} if RECORDS.exists() else set()
    for seed in SEEDS:
        for dataset in DATASETS:
            for system in systems:
                cell = {
                    "system": system,
                    "dataset": dataset,
                    "seed": seed,
                    "steps": STEPS,
                    "settings": COMMON | SETTINGS[system],
                }
                if _key(cell) in done:
                    continue
                record = cell | run(cell) | {"date": datetime.now(UTC).date().isoformat(), "commit": commit()}
                print(
                    f"{system:15} {dataset} seed {seed}: {record['modes']:2d} modes, {100 * record['high_quality']:.1f} %",
                    flush=True,
                )
                with RECORDS.open("a") as file:
                    file.write(json.dumps(record) + "\n")


def run(cell: dict[str, Any]) -> dict[str, Any]:
    """Train, sample, count."""
    dataset = registry.load("datasets", cell["dataset"])()
    algorithm = registry.load("trainers", cell["system"])(**cell["settings"])
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = train(
            algorithm, dataset.load("train"), steps=cell["steps"], out=folder, seed=cell["seed"], checkpoint_every=cell["steps"]
        )
        trained = load_checkpoint(path)
    with torch.no_grad():
        codes = trained.algorithm.prior(SAMPLES, torch.Generator().manual_seed(cell["seed"]))
        samples = trained.algorithm.decode(trained.networks, codes)
    modes, good = Modes().measure(samples, dataset.centres, dataset.std)
    return {"modes": modes.value, "high_quality": good.value, "cpu_seconds": time.process_time() - started}


def _key(cell: dict[str, Any]) -> str:
    return json.dumps({name: cell[name] for name in ("system", "dataset", "seed", "steps", "settings")}, sort_keys=True)


if __name__ == "__main__":
    main()
