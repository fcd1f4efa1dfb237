"""A classifier's two-sample test: how often it is right about points it was not fitted on, and how likely that is by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from klprobe.metrics import seed_of
from klprobe.metrics._statistics import share_error
from klprobe.types import InputError

LEAST = 20
"""Smallest number of points of each set."""


class Verdict(NamedTuple):
    """Result of the test.

    Attributes:
        accuracy, accuracy_error: Share of points told apart rightly, and its standard error over fresh points and fits.
        p_value, p_error: The p-value of the permutations, and its standard error due to their number.
        judged: Number of points in all.
    """

    accuracy: float
    accuracy_error: float
    p_value: float
    p_error: float
    judged: int


@dataclass(frozen=True)
class TwoSamples:
    """The test's settings, those of the metrics `c2st` and `c2st-latents`."""

    classifier: Literal["mlp", "linear"]
    width: int
    steps: int
    permutations: int
    points: int

    def judge(self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> Verdict:
        """Tell x from y, shapes (m, D) and (n, D), as many of each.

        One classifier is fitted on half of both and judged on the other halves, a second one the other way round. Where they
        differ by more than the points they judge explain, the fit itself varies, and the error holds that as well.

        Raises:
            InputError: points that are all equal.
        """
        half = min(len(x), len(y), self.points) // 2
        chosen = [z[torch.randperm(len(z), generator=generator)[: 2 * half]].double() for z in (x, y)]
        first, second = (torch.cat([z[part] for z in chosen]) for part in (slice(0, half), slice(half, 2 * half)))
        labels = torch.arange(2 * half) < half
        logits = [self._logits(fit, labels, other, generator) for fit, other in ((first, second), (second, first))]
        shares = [float(((found > 0) == labels).double().mean()) for found in logits]
        accuracy, judged = sum(shares) / 2, 4 * half
        of_points = share_error(accuracy, judged) ** 2
        of_fits = max(0.0, (shares[0] - shares[1]) ** 2 / 4 - of_points)
        p_value = self._p_value(logits[0], half, generator)
        p_error = math.sqrt(p_value * (1 - p_value) / self.permutations)
        return Verdict(accuracy, math.sqrt(of_points + of_fits), p_value, p_error, judged)

    def _logits(self, fit: torch.Tensor, labels: torch.Tensor, other: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Logits of other points by a classifier that was fitted on some points, shape (n,)."""
        if not (fit != fit[0]).any():
            raise InputError("c2st has nothing to tell apart: all points are the same.")
        mean, std = fit.mean(0), fit.std(0)
        std = torch.where(std > 0, std, 1.0)
        classifier = self._classifier(seed_of(generator)).fit(((fit - mean) / std).numpy(), labels.numpy())
        sure = torch.from_numpy(classifier.predict_proba(((other - mean) / std).numpy())[:, 1]).double()
        return torch.logit(sure, eps=1e-6)

    def _classifier(self, seed: int) -> Any:
        if self.classifier == "linear":
            from sklearn.linear_model import LogisticRegression

            return LogisticRegression(max_iter=self.steps)
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((self.width,), max_iter=self.steps, early_stopping=True, random_state=seed)

    def _p_value(self, logits: torch.Tensor, half: int, generator: torch.Generator) -> float:
        """Share of labellings, the true one included, under which the logits of x are as high."""
        orders = torch.stack([torch.randperm(2 * half, generator=generator)[:half] for _ in range(self.permutations)])
        above = (logits[orders].mean(1) >= logits[:half].mean() - 1e-12).sum()
        return (1 + int(above)) / (1 + self.permutations)
