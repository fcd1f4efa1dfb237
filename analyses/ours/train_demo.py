"""Train the checkpoint that `klprobe demo` runs on: a small VAE on the train part of scikit-learn's digits.

    python analyses/ours/train_demo.py

writes klprobe/assets/demo.safetensors, without the optimiser's state. Half a minute on one CPU core. Seed and settings
stand in the file's header; the weights are the same on the same machine and torch, and differ slightly on others.
Settings were chosen on a fifth of the train part, held out for that; the test part played no role.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import klprobe
from klprobe.datasets.digits import Digits
from klprobe.trainers.vae import VAE
from klprobe.training.checkpoint import load_checkpoint, save_checkpoint
from klprobe.training.loop import train

DEMO = VAE(latent_dim=8, width=128, layers=2)
STEPS = 6000
ASSET = Path(klprobe.__file__).parent / "assets" / "demo.safetensors"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trained = load_checkpoint(train(DEMO, Digits().load("train"), steps=STEPS, out=folder, seed=0))
    save_checkpoint(ASSET, trained)
    for split in ("train", "test"):
        nll, kl = negative_elbo(trained.algorithm, trained.networks, Digits().load(split).x)
        print(f"{split}: ELBO {-nll - kl:.2f} nats, of which average KL {kl:.2f}")
    print(f"{ASSET}: {ASSET.stat().st_size / 1000:.0f} kB")


def negative_elbo(algorithm: VAE, networks: torch.nn.ModuleDict, x: torch.Tensor) -> tuple[float, float]:
    """Mean of -log p(x|z) over 20 draws of z a point, and average KL[q(z|x)||p(z)], nats."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        terms = [algorithm.terms(networks, x, noise) for _ in range(20)]
    return float(sum(nll for nll, _ in terms) / len(terms)), float(terms[0][1])


if __name__ == "__main__":
    main()
