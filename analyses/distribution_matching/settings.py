"""Numbers taken from Rosca, Lakshminarayanan, Mohamed (2018), Distribution Matching in Variational Inference."""

from __future__ import annotations

from typing import Any

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
