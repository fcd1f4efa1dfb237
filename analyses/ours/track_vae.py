"""Watch the bracket of KL[q(z)||p(z)] while a VAE trains: a quarter of a minute on one CPU core.

python -m analyses.ours.track_vae            # trains on scikit-learn's digits, writes track_vae.png beside this file
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

import klprobe
from klprobe.datasets.digits import Digits
from klprobe.rendering.forest import BLUE, ORANGE
from klprobe.trainers.vae import VAE
from klprobe.training.loop import train

EPOCHS, EVERY = 60, 3
SYSTEM = VAE(latent_dim=8, width=128, layers=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "track_vae.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw(follow(arguments.epochs), arguments.out)
    print(arguments.out)


def follow(epochs: int) -> dict[int, dict[str, float]]:
    """By epoch, what `klprobe.track` says of the points that the encoder is not trained on."""
    training, held_out = Digits().load("train"), Digits().load("test")
    steps = len(training) // SYSTEM.batch_size
    history = {}

    def look(step: int, networks: torch.nn.ModuleDict) -> None:
        numbers = klprobe.track(lambda x: SYSTEM.encode(networks, x), held_out.x)
        history[step // steps] = numbers
        bracket = f"KL[q||p] between {numbers['population_lower']:.2f} and {numbers['population_upper']:.2f}"
        print(f"epoch {step // steps}: {bracket}, mutual information {numbers['mutual_information']:.2f} nats")

    with tempfile.TemporaryDirectory() as folder:
        train(SYSTEM, training, steps=epochs * steps, out=folder, watch=look, watch_every=EVERY * steps)
    return history


def draw(history: dict[int, dict[str, float]], path: Path) -> None:
    """Left the bracket, right the two numbers whose difference is the empirical KL."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    epochs = list(history)
    left, right = figure.subplots(1, 2)

    def curve(name: str, errors: int = 0) -> list[float]:
        return [numbers[name] + errors * numbers.get(f"{name}_error", 0.0) for numbers in history.values()]

    low, high = curve("population_lower"), curve("population_upper")
    left.fill_between(epochs, low, high, color=BLUE, alpha=0.4, label="bracket of KL[q||p]")
    left.fill_between(epochs, curve("population_lower", -2), curve("population_upper", 2), color=BLUE, alpha=0.15)
    left.plot(epochs, low, color=BLUE, linewidth=1)
    left.plot(epochs, high, color=BLUE, linewidth=1)
    left.set(title="How far is q(z) from the prior?", xlabel="epoch", ylabel="nats (pale: 2 standard errors)", ylim=(0, None))
    left.legend(frameon=False, loc="lower right")
    right.plot(epochs, curve("average_kl"), color="black", label="average KL")
    right.plot(epochs, curve("mutual_information"), color=ORANGE, label="mutual information")
    right.plot(epochs, curve("log_n"), color=ORANGE, linestyle=":", label="its ceiling, log N")
    right.set(title="What the code says about the data", xlabel="epoch", ylabel="nats", ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
