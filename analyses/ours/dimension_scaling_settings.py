"""The grid, and the settings that make a fit take half a minute at most: ours, no paper has this figure."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

DIMS = (1, 10, 100, 1000)
KLS = (0.0, 1.0, 5.0, 20.0, 50.0, 100.0)
"""Nats."""
SEEDS = 3
POINTS = 10_000
"""Of the encoder that methods see which need log q(z|x)."""
EVERYWHERE: dict[str, Any] = {"steps": 400, "check_every": 100, "num_samples": 10_000, "num_prior_samples": 50_000}
"""For every estimator that has the field."""
AT: dict[int, dict[str, Any]] = {
    100: {"steps": 300, "moment_samples": 100_000},
    1000: {"steps": 100, "check_every": 50, "num_samples": 4000, "num_prior_samples": 20_000, "moment_samples": 20_000},
}
"""Changes with D."""
OF: dict[str, dict[str, Any]] = {
    "gmm": {"components": 10, "steps": 200},
    "maf": {"components": 3, "steps": 300},
    "lstm": {"steps": 200},
    "knn": {"num_samples": 10_000},
    "monte-carlo": {"num_samples": 4000},
    "denoising": {"steps": 100, "num_samples": 8000},
    "least-squares": {"centres": 200, "fit_samples": 5000},
}
"""Changes with the estimator."""
OF_AT: dict[tuple[str, int], dict[str, Any]] = {
    ("gmm", 1000): {"components": 3, "em_iterations": 5, "steps": 20},
    ("maf", 1000): {"components": 1, "steps": 20},
    ("lstm", 100): {"layers": 1, "width": 32, "steps": 10, "num_samples": 2000},
    ("lstm", 1000): {"layers": 1, "width": 16, "steps": 3, "num_samples": 1000},
    ("knn", 1000): {"num_samples": 4000},
    ("least-squares", 1000): {"centres": 100, "fit_samples": 3000, "num_samples": 2000, "num_prior_samples": 5000},
    ("classifier", 1000): {"quadratic": False, "steps": 100},
    ("critic", 1000): {"quadratic": False, "steps": 100},
    ("gaussianized", 1000): {"quadratic": False, "steps": 100},
    ("denoising", 1000): {"num_samples": 1000, "steps": 0, "levels": 7},
    ("telescoping", 1000): {"most_links": 4, "steps": 0, "num_samples": 2000, "num_prior_samples": 5000},
    ("monte-carlo", 1000): {"num_samples": 2000},
}
"""Changes with both. A quadratic form of 1000 latents is beyond half a minute."""


def settings_of(name: str, dim: int, fields: Set[str]) -> dict[str, Any]:
    """What differs from the estimator's defaults, among its `fields`."""
    chosen = EVERYWHERE | AT.get(dim, {}) | OF.get(name, {}) | OF_AT.get((name, dim), {})
    return {key: value for key, value in chosen.items() if key in fields}
