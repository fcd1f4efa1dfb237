"""What the comparison of all systems on MNIST fixes, and why; nothing here is a paper's experiment."""

from __future__ import annotations

from typing import Any

from analyses.machinery.cells import Preset

DATASET = "mnist:flat"
"""Vectors of 784 and the MLP pair: on one thread a tenth of the time of the papers' convolutions."""
COMMON: dict[str, Any] = {"latent_dim": 10, "width": 128, "output": "sigmoid"}
"""10 latents, the least that AGAN sweeps on ColorMNIST; the width is what a CPU minute a system allows."""
CODE: dict[str, Any] = {"code_width": 128, "code_layers": 2}
SYSTEMS: dict[str, dict[str, Any]] = {
    "vae": {},
    "aae": CODE,
    "aae-plus": CODE,
    "aae-gan": CODE,
    "vae-gan": {"lr": 5e-4},
    "ali": {**CODE, "lr": 5e-4},
    "adversarial-vb": CODE,
    "veegan": CODE,
    "age": {"lr": 5e-4, "reconstruction_weight": 100.0, "batch_norm": False},
    "dcgan": {"lr": 5e-4},
    "wgan-gp": {"lr": 5e-4},
    "draw": {"glances": 5, "memory": 128},
}
"""What differs from a system's defaults besides `COMMON`: sizes, and learning rates raised for so few steps. AGE takes the
least of AGAN's weights of the reconstruction: with the authors' 10 the encoder soon gave all samples one code, which left the
generator no slope to leave it by. It goes without batch normalisation, which spreads the codes of any batch, even of noise:
with it in the encoder, its first layer excepted or not, samples did not even get the data's mean."""
STEPS: dict[str, int] = {"wgan-gp": 1000, "draw": 750}
"""Where a step costs more than several of the others: five critic updates, five glances."""
DEAR = ("draw",)
"""Costs as much as five others all the same."""
MOST_STEPS: dict[Preset, int] = {"tiny": 5, "quick": 2000, "paper": 40_000}
SEEDS: dict[Preset, tuple[int, ...]] = {"tiny": (0,), "quick": (0, 1, 2), "paper": (0, 1, 2)}
JUDGE_STEPS: dict[Preset, int] = {"tiny": 5, "quick": 2000, "paper": 2000}
SAMPLES: dict[Preset, int] = {"tiny": 200, "quick": 10_000, "paper": 10_000}
CLAIM = ("aae", "aae-plus", "aae-gan")
"""DMVI section 6: matching the marginals instead of each conditional should bring q(z) nearer to p(z) than a VAE does."""


def model(preset: Preset, system: str, seed: int) -> dict[str, Any]:
    """What `analyses.machinery.models` trains."""
    most = MOST_STEPS[preset]
    steps = most if preset == "tiny" else STEPS.get(system, MOST_STEPS["quick"]) * most // MOST_STEPS["quick"]
    data = "digits" if preset == "tiny" else DATASET
    return {"system": system, "dataset": data, "settings": COMMON | SYSTEMS[system], "steps": steps, "seed": seed}
