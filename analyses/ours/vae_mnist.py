"""The VAE on MNIST after 20 epochs: test ELBO, its two terms, and reconstructions; Bernoulli against Quantized Normal pixels.

python -m analyses.ours.vae_mnist             # train and measure what has no record yet, then write vae_mnist.md
python -m analyses.ours.vae_mnist --page      # from the records alone
"""

from __future__ import annotations

import argparse
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from analyses.machinery.cells import markdown
from analyses.machinery.declared import Page
from analyses.machinery.models import points, trained
from analyses.machinery.rebuilt import reconstruction_errors
from klprobe.metrics.elbo import Elbo
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import keep_record, read_records

HERE = Path(__file__).parent / "results"
RECORDS = HERE / "records" / "vae_mnist.jsonl"
EPOCHS, POINTS, DRAWS = 20, 10_000, 4
SETTINGS: dict[str, Any] = {"latent_dim": 50, "width": 400, "layers": 2}
"""50 latents as DMVI; the MLP pair's size is ours; the rest are the trainer's defaults."""
CELLS = (("bernoulli", 0), ("quantized_normal", 0), ("quantized_normal_shared", 0), ("laplace", 0))
TRAINING_POINTS, BATCH = 60_000, 64
GOAL = -105.0
"""Nats: the test ELBO with Bernoulli pixels, grey levels as probabilities."""
WHY = (
    "The spread is learned for every pixel and code: it shrinks to a level where pixels are always black, which is worth most "
    "of the nats, and grows where the digit is, so that errors there cost little. Bernoulli weighs all pixels alike."
)


def main() -> None:
    """Run every cell that has no record, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    done = {(r["visible"], r["seed"]) for r in read_records(RECORDS)}
    for visible, seed in [] if flags.page else CELLS:
        if (visible, seed) not in done:
            keep_record(RECORDS, run(visible, seed))
    (HERE / "vae_mnist.md").write_text(page(read_records(RECORDS)))


def run(visible: str, seed: int, epochs: int = EPOCHS, num_points: int = POINTS) -> dict[str, Any]:
    """Train, and measure on the test split."""
    steps = epochs * (TRAINING_POINTS // BATCH)
    model = {
        "system": "vae",
        "dataset": "mnist:flat",
        "settings": SETTINGS | {"visible": visible},
        "steps": steps,
        "seed": seed,
    }
    started, system, test = time.process_time(), trained(model), points(model, "test")
    training = time.process_time() - started
    scores = Elbo(draws=DRAWS, points=num_points).measure(system, test.floats(), torch.Generator().manual_seed(seed))
    return {
        "visible": visible,
        "seed": seed,
        "settings": system.settings["settings"],
        "epochs": epochs,
        "steps": steps,
        "test_points": min(num_points, len(test)),
        "draws": DRAWS,
        **{s.quantity: (s.value, s.std_error) for s in scores},
        "reconstruction_errors": reconstruction_errors(system, test, seed),
        "cpu_seconds": {"training": training, "measuring": time.process_time() - started - training},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Markdown: the table, and which of the goals were reached."""
    head = ("pixels", "test ELBO, nats", "reconstruction", "average KL", "l1 a pixel", "rms a pixel")
    table = [
        [
            r["visible"],
            *(_shown(r[name], 2) for name in ("elbo", "reconstruction", "kl")),
            *(_shown(r["reconstruction_errors"][name], 5) for name in ("l1", "rms")),
        ]
        for r in rows
    ]
    parts = [
        "# The VAE on MNIST after 20 epochs",
        f"Made by `python -m analyses.ours.vae_mnist`. MLP pair, {SETTINGS['layers']} x {SETTINGS['width']} units, "
        f"{SETTINGS['latent_dim']} latents, batches of {BATCH}, all 10,000 test points; ± is a standard error over points.",
        markdown(head, table),
        *_verdicts({r["visible"]: r for r in rows}),
    ]
    return "\n\n".join(parts) + "\n"


def _verdicts(by: dict[str, dict[str, Any]]) -> list[str]:
    """Sentences on the two goals, as far as there are records."""
    said = []
    if "bernoulli" in by:
        elbo = by["bernoulli"]["elbo"][0]
        said.append(
            f"Test ELBO with Bernoulli pixels {elbo:.2f}, goal {GOAL:.0f}: {'reached' if elbo >= GOAL else 'not reached'}."
        )
    if {"bernoulli", "quantized_normal"} <= set(by):
        said.append(_compared(by["bernoulli"], by["quantized_normal"], "Quantized Normal") + " " + WHY)
    if {"bernoulli", "quantized_normal_shared"} <= set(by):
        said.append(
            _compared(by["bernoulli"], by["quantized_normal_shared"], "Quantized Normal with one spread for all pixels")
        )
    if {"bernoulli", "laplace"} <= set(by):
        said.append(_compared(by["bernoulli"], by["laplace"], "Laplace with a fixed scale of 0.1"))
    return said


def _compared(bernoulli: dict[str, Any], other: dict[str, Any], name: str) -> str:
    """DMVI section 4.2 claims better reconstructions, here by more than two standard errors, and a larger KL term."""
    pairs = [(other["reconstruction_errors"][e], bernoulli["reconstruction_errors"][e]) for e in ("l1", "rms")]
    errors = [(a[0], b[0]) for a, b in pairs]
    clear = [b[0] - a[0] > 2 * math.hypot(a[1], b[1]) for a, b in pairs]
    better = " and ".join(e for e, found in zip(("l1", "rms"), clear, strict=True) if found)
    which = f"better reconstructions by {better}" if better else "no better reconstructions"
    return (
        f"{name} has {which} than Bernoulli (l1 {errors[0][0]:.4f} against "
        f"{errors[0][1]:.4f}, rms {errors[1][0]:.4f} against {errors[1][1]:.4f}), and a KL term of {other['kl'][0]:.1f} "
        f"against {bernoulli['kl'][0]:.1f} nats (DMVI section 4.2: better, and larger)."
    )


def _shown(score: tuple[float, float], digits: int) -> str:
    return f"{score[0]:.{digits}f} ± {score[1]:.{digits}f}"


PAGE = Page(
    order=10,
    title="A VAE on MNIST for 20 epochs",
    paper="Quantized Normal: better reconstructions, larger KL",
    commands="ours.vae_mnist",
    headline="[page](ours/results/vae_mnist.md)",
    records="vae_mnist.jsonl",
)


if __name__ == "__main__":
    main()
