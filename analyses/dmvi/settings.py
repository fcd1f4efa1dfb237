"""Numbers taken from Rosca, Lakshminarayanan, Mohamed (2018), Distribution Matching in Variational Inference."""

from __future__ import annotations

from typing import Any

from analyses.machinery.cells import Cell, Preset

SYNTHETIC_DIMS = (1, 10, 100, 1000)
"""Section 5: the data dimensions d; k = 10 d."""
SYNTHETIC_SEEDS = 10
"""Figures 2, 8, 9, 10: initialisations of the classifier."""
SYNTHETIC_FIGURES: dict[int, dict[str, Any]] = {
    2: {"classifier_layers": 4, "classifier_lr": 1e-4, "classifier_steps_per_generator_step": 1, "generator_lr": 1e-3},
    8: {"classifier_layers": 3, "classifier_lr": 1e-4, "classifier_steps_per_generator_step": 1, "generator_lr": 1e-3},
    9: {"classifier_layers": 4, "classifier_lr": 1e-3, "classifier_steps_per_generator_step": 1, "generator_lr": 1e-3},
    10: {"classifier_layers": 4, "classifier_lr": 1e-4, "classifier_steps_per_generator_step": 5, "generator_lr": 1e-3},
}
"""Appendix E and the captions of figures 2, 8, 9 and 10. That the layers of the MLP are hidden ones is our reading."""
SYNTHETIC_FINDINGS = {
    2: "the true KL falls for d = 1, 10; learning diverges for d = 100, 1000; the estimate is off at every d",
    8: "as figure 2",
    9: "the true KL falls for d = 1, 10; learning diverges for d = 100, already the estimation for d = 1000",
    10: "converges earlier for d = 1, 10, 100, no better for d = 1000; the estimate is no better",
}
"""What section 5 and the captions say; the figures print no numbers."""

TABLE_1 = (
    ("vae", "color-mnist", 50, 0.468, 0.244),
    ("vae", "color-mnist", 100, 0.238, 0.129),
    ("vae", "cifar-10:partial", 100, 0.447, 0.334),
    ("vae", "cifar-10:partial", 200, 0.221, 0.164),
    ("draw", "cifar-10:partial", 49152, 0.0872, 0.0870),
    ("vae", "celeba", 100, 1.1237, 1.0039),
    ("vae", "celeba", 200, 0.575, 0.5138),
)
"""Table 1: system, data, latents, average KL and Monte Carlo marginal KL, both in nats per latent."""
ITERATIONS = {"color-mnist": 100_000, "cifar-10:partial": 200_000, "celeba": 200_000}
"""Appendix K."""
NOISE, PENALTY, DROPOUT = {"activation_noise": 1.0}, {"gradient_penalty": 10.0}, {"dropout": 0.5}
"""The paper names these and gives no strengths; ours."""
TABLE_2: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("3 layers", {"layers": 3}, 2.3),
    ("4 layers", {"layers": 4}, 3.3),
    ("4 layers, activation noise", {"layers": 4} | NOISE, 25812.8),
    ("4 layers, gradient penalty", {"layers": 4} | PENALTY, 3.05),
)
"""Table 2, total nats: ColorMNIST VAE with 50 latents, 5000 units a layer, lr 5e-4."""
TABLE_3: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("5 layers", {"layers": 5}, 17.74),
    ("5 layers, activation noise", {"layers": 5} | NOISE, 720140.922),
    ("5 layers, lr 1e-4", {"layers": 5, "lr": 1e-4}, 14.83),
    ("7 layers", {"layers": 7}, 18.82),
    ("7 layers, dropout", {"layers": 7} | DROPOUT, 19.01),
    ("7 layers, lr 1e-4", {"layers": 7, "lr": 1e-4}, 18.02),
    ("10 layers, lr 1e-4", {"layers": 10, "lr": 1e-4}, 18.12),
)
"""Table 3, total nats: CelebA VAE with 100 latents, lr 5e-4 unless said."""
TABLE_3_MONTE_CARLO = 100.3
TABLE_2_MONTE_CARLO = 12.3
TABLE_4 = ((0, 23.4, 12.2), (1, 22.52, 11.57), (2, 22.34, 11.4), (10, 22.23, 11.29))
"""Table 4, total nats: lambda, average KL, Monte Carlo marginal KL; ColorMNIST, 50 latents."""
VISIBLE_KL = {"bernoulli": 44.7, "quantized_normal": 256.7}
"""Section 4.2, Figure 7: the average KL in nats with either visible distribution."""
GMM_COMPONENTS = (10, 50, 100)
MAF_FLOWS, MAF_WIDTHS = (1, 2, 3), (512, 1024, 2048)
LSTM_LAYERS, LSTM_WIDTHS = (1, 2, 3, 4, 5), (200, 500, 1000)
"""Appendix A.4, Figure 6."""

STEPS = {"tiny": 4, "quick": 1500}
"""Of training, where a preset does not take the paper's: 1,500 steps of its networks are about 3 minutes of one core."""
DRAW_STEPS = 300
"""Of DRAW's in the quick preset: a step of its recurrent networks takes as long as five of a VAE's."""
TINY_LATENTS, TINY = 4, {"draw": {"glances": 2, "memory": 8}}
DRAW_LATENTS = 100
"""DRAW's, ours: the convolutional DRAW of 2016 with its 49,152 is out of scope."""


def model(preset: Preset, system: str, dataset: str, latents: int, seed: int = 0, **settings: Any) -> Cell:
    """What a VAE of the paper is here: its networks, Adam and batch, with a preset's steps; digits stand in when tiny."""
    tiny = preset == "tiny"
    return {
        "system": system,
        "dataset": "digits" if tiny else dataset,
        "settings": {"latent_dim": TINY_LATENTS if tiny else latents, **(TINY.get(system, {}) if tiny else {}), **settings},
        "steps": DRAW_STEPS if (system, preset) == ("draw", "quick") else STEPS.get(preset) or ITERATIONS[dataset],
        "seed": seed,
    }
