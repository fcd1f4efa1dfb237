"""Correct a log-ratio on a held-out draw: by a temperature, or by a clipped isotonic regression."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

ROUNDS, REACH = 60, 7.0
"""Halvings of the bracket around the temperature's logarithm, and its first half width."""
SPREAD = 0.5
"""Standard deviation of the temperature's logarithm before any draw is seen."""

Change = Callable[[torch.Tensor], torch.Tensor]
"""From log-ratios to log-ratios, elementwise."""


def calibrated(
    kind: Literal["temperature", "isotonic"], on_q: torch.Tensor, on_p: torch.Tensor
) -> tuple[Change, dict[str, Any]]:
    """What makes log-ratios agree with the frequency of the label at held-out draws, and what there is to say of it.

    Args:
        kind: `temperature` divides by one number; `isotonic` maps by a rising step function, joined by lines, that can
            say no more than the draws behind each of its ends.
        on_q, on_p: Log-ratios at held-out draws of q (label 1) and of p (label 0), shapes (m,) and (n,), float64.
    Reference: Guo et al. (2017), section 4.2; Zadrozny and Elkan (2002).
    """
    if kind == "temperature":
        temperature = best_temperature(on_q, on_p)
        return (lambda f: f / temperature), {"temperature": temperature}
    return _isotonic(on_q, on_p), {}


def best_temperature(on_q: torch.Tensor, on_p: torch.Tensor) -> float:
    """T under which f / T has the least log-loss, both classes weighing the same, held near 1 by what is known beforehand.

    A fit is seldom off by a factor: log T is normal with standard deviation 1/2 before the draws are seen. Among thousands
    of draws that overlap this says nothing; where the two sides are told apart without a mistake, and every T does, T is 1.
    """
    low, high, draws = -REACH, REACH, len(on_q) + len(on_p)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        slope = math.exp(-middle)
        loss = 0.5 * ((on_p * torch.sigmoid(slope * on_p)).mean() - (on_q * torch.sigmoid(-slope * on_q)).mean())
        # derivative of the summed log-loss by log 1/T, and of the prior: more than zero where 1/T is too large
        gradient = draws * slope * float(loss) - middle / SPREAD**2
        low, high = (middle, high) if gradient > 0 else (low, middle)
    return math.exp((low + high) / 2)


def _isotonic(on_q: torch.Tensor, on_p: torch.Tensor) -> Change:
    from sklearn.isotonic import IsotonicRegression

    f = torch.cat([on_q, on_p]).cpu().numpy()
    label = np.r_[np.ones(len(on_q)), np.zeros(len(on_p))]
    weight = np.r_[np.full(len(on_q), 1 / len(on_q)), np.full(len(on_p), 1 / len(on_p))]
    # probabilities of the ends rest on a block of one class alone: with one more draw of the other they stay finite
    low, high = 1 / (len(on_q) + 1), len(on_p) / (len(on_p) + 1)
    rising = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(f, label, sample_weight=weight)

    def change(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rising.predict(values.cpu().numpy())).to(values).logit()

    return change
