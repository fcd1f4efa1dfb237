"""The VAE on MNIST after 20 epochs: test ELBO, its two terms, and reconstructions; Bernoulli against Quantized Normal pixels.

python -m analyses.systems.vae_mnist --runs DIR      # train and measure what has no record yet, then print the table
python -m analyses.systems.vae_mnist --table         # from the records alone
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from analyses.systems.mnist import append, reconstruction_errors, records, stamp, trained, vectors
from klprobe.evidence import Trained
from klprobe.metrics.elbo import Elbo
from klprobe.trainers.vae import VAE

RECORDS = Path(__file__).parent / "records" / "vae_mnist.jsonl"
EPOCHS, POINTS, DRAWS = 20, 10_000, 4
SETTINGS: dict[str, Any] = {"latent_dim": 50, "width": 400, "layers": 2}
"""50 latents as DMVI; the MLP pair's size is ours; the rest are the trainer's defaults."""
CELLS = tuple((visible, seed) for seed in (0, 1) for visible in ("bernoulli", "quantized_normal"))
GOAL = -105.0
"""Nats: the test ELBO with Bernoulli pixels, grey levels as probabilities."""


def main() -> None:
    """Run every cell that has no record, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/systems"))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many to run at most")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    done = {(r["visible"], r["seed"]) for r in records(RECORDS)}
    missing = [cell for cell in CELLS if cell not in done]
    for visible, seed in [] if flags.table else missing[: flags.cells]:
        append(RECORDS, run(visible, seed, flags.runs, flags.data_root))
    print(table(records(RECORDS)))


def run(visible: str, seed: int, runs: Path, root: Path | None, epochs: int = EPOCHS, points: int = POINTS) -> dict[str, Any]:
    """Train, and measure on the test split."""
    data = vectors("train", root)
    algorithm = VAE(visible=visible, **SETTINGS)  # type: ignore[arg-type]
    steps = epochs * (len(data) // algorithm.batch_size)
    system, train_seconds = trained(algorithm, data, steps, runs / f"vae-{visible}-seed-{seed}", seed)
    started, test = time.process_time(), vectors("test", root)
    scores = Elbo(draws=DRAWS, points=points).measure(Trained(system), test.floats(), torch.Generator().manual_seed(seed))
    return {
        "visible": visible,
        "seed": seed,
        "settings": system.settings["settings"],
        "epochs": epochs,
        "steps": steps,
        "test_points": min(points, len(test)),
        "draws": DRAWS,
        **{s.quantity: (s.value, s.std_error) for s in scores},
        "reconstruction_errors": reconstruction_errors(system, test, seed),
        "cpu_seconds": {"training": train_seconds, "measuring": time.process_time() - started},
        **stamp(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, and whether the two goals were reached."""
    lines = ["| pixels | seed | test ELBO, nats | reconstruction | average KL | l1 a pixel | rms a pixel |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for r in rows:
        cells = [_shown(r[name], 2) for name in ("elbo", "reconstruction", "kl")]
        cells += [_shown(r["reconstruction_errors"][name], 5) for name in ("l1", "rms")]
        lines.append(f"| {r['visible']} | {r['seed']} | {' | '.join(cells)} |")
    for seed in sorted({r["seed"] for r in rows}):
        pair = {r["visible"]: r for r in rows if r["seed"] == seed}
        if len(pair) < 2:
            continue
        bernoulli, normal = pair["bernoulli"], pair["quantized_normal"]
        better = all(normal["reconstruction_errors"][e][0] < bernoulli["reconstruction_errors"][e][0] for e in ("l1", "rms"))
        lines += [
            "",
            f"Seed {seed}: test ELBO {bernoulli['elbo'][0]:.2f}, goal {GOAL:.0f}: "
            f"{'reached' if bernoulli['elbo'][0] >= GOAL else 'not reached'}. Quantized Normal has "
            f"{'better' if better else 'no better'} reconstructions by both errors, and a KL term of {normal['kl'][0]:.1f} "
            f"against {bernoulli['kl'][0]:.1f} nats.",
        ]
    return "\n".join(lines)


def _shown(score: tuple[float, float], digits: int) -> str:
    return f"{score[0]:.{digits}f} ± {score[1]:.{digits}f}"


if __name__ == "__main__":
    main()
