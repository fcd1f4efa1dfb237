"""Can a classifier tell samples from data? Its accuracy, and how likely that is if it cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from klprobe.metrics._shared import Features, Score, check_pair, seed_of
from klprobe.types import InputError

__all__ = ["C2ST"]


@dataclass(frozen=True)
class C2ST:
    """Classifier two-sample test on features or latents: accuracy on held-out points, 0.5 at best, and a permutation p-value.

    A classifier is fitted on half of both sets, equal in size, and judged on the other halves. The p-value asks how often a
    random labelling of the held-out points sets the mean logits as far apart: exact, whatever the classifier. A p-value that
    is not small says that this classifier found nothing, not that there is nothing.

    Reference: Lopez-Paz and Oquab (2017); the mean logit as statistic: Cheng and Cloninger (2022).
    """

    classifier: Literal["mlp", "linear"] = "mlp"
    """mlp: one hidden layer; linear: logistic regression, which sees differences of means alone."""
    width: int = 64
    """Hidden units of the mlp."""
    steps: int = 200
    """Passes over the points, at most; a tenth of the points decides when to stop."""
    permutations: int = 999
    """Random labellings; the p-value is no smaller than 1 / (permutations + 1)."""
    points: int = 5000
    """Points of each set at most, chosen at random."""

    def measure(self, sample_features: Features, data_features: Features, generator: torch.Generator) -> tuple[Score, ...]:
        """`c2st-accuracy` and `c2st-p-value`.

        Raises:
            InputError: fewer than 20 points of either set.
        """
        check_pair(sample_features, data_features, "c2st", least=20)
        half = min(len(sample_features), len(data_features), self.points) // 2
        chosen = [f.values[torch.randperm(len(f), generator=generator)[: 2 * half]] for f in (sample_features, data_features)]
        fit, held_out = (torch.cat([values[part] for values in chosen]) for part in (slice(0, half), slice(half, 2 * half)))
        labels = torch.arange(2 * half) < half
        if not (fit != fit[0]).any():
            raise InputError("c2st has nothing to tell apart: all features are the same.")
        mean, std = fit.mean(0), fit.std(0)
        std = torch.where(std > 0, std, 1.0)
        judge = self._classifier(seed_of(generator)).fit(((fit - mean) / std).numpy(), labels.numpy())
        sure = torch.from_numpy(judge.predict_proba(((held_out - mean) / std).numpy())[:, 1]).double()
        right = ((sure > 0.5) == labels).double()
        accuracy = float(right.mean())
        details = {"classifier": self.classifier, "held_out": 2 * half, "permutations": self.permutations}
        error = math.sqrt(max(accuracy * (1 - accuracy), 1 / (2 * half)) / (2 * half))
        logits = torch.logit(sure, eps=1e-6)
        return (
            Score("c2st-accuracy", accuracy, error, "lower", net=sample_features.net, details=details),
            Score(
                "c2st-p-value", self._p_value(logits, half, generator), None, "higher", net=sample_features.net, details=details
            ),
        )

    def _classifier(self, seed: int) -> Any:
        if self.classifier == "linear":
            from sklearn.linear_model import LogisticRegression

            return LogisticRegression(max_iter=self.steps)
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((self.width,), max_iter=self.steps, early_stopping=True, random_state=seed)

    def _p_value(self, logits: torch.Tensor, half: int, generator: torch.Generator) -> float:
        """Share of labellings, the true one included, under which the samples' logits are as high."""
        orders = torch.stack([torch.randperm(2 * half, generator=generator)[:half] for _ in range(self.permutations)])
        above = (logits[orders].mean(1) >= logits[:half].mean() - 1e-12).sum()
        return (1 + int(above)) / (1 + self.permutations)
