"""Can a classifier tell samples from data? Its accuracy, and how likely that is if it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from klprobe.metrics import Features, Score, check_pair
from klprobe.metrics._two_samples import LEAST, TwoSamples

__all__ = ["C2ST"]


@dataclass(frozen=True)
class C2ST:
    """Classifier two-sample test on features: accuracy on held-out points, 0.5 at best, and a permutation p-value.

    A classifier is fitted on half of both sets, equal in size, and judged on the other halves; then the other way round. The
    p-value asks how often a random labelling of the held-out points sets the first one's mean logits as far apart: exact,
    whatever the classifier; its error is what the number of permutations leaves open. A p-value that is not small says that
    this classifier found nothing, not that there is nothing.

    Reference: Lopez-Paz and Oquab (2017); the mean logit as statistic: Cheng and Cloninger (2022).
    """

    classifier: Literal["mlp", "linear"] = "mlp"
    """Kind of classifier. mlp has one hidden layer; linear is logistic regression, which only sees differences of means."""
    width: int = 64
    """Number of hidden units of the mlp."""
    steps: int = 200
    """Largest number of passes over the points; a tenth of the points is kept for validation and decides when to stop."""
    permutations: int = 999
    """Number of random labellings; the p-value is never smaller than 1 / (permutations + 1)."""
    points: int = 5000
    """Largest number of points of each set; they are chosen at random."""

    def measure(self, sample_features: Features, data_features: Features, generator: torch.Generator) -> tuple[Score, ...]:
        """`c2st-accuracy` and `c2st-p-value`.

        Raises:
            InputError: fewer than 20 points of either set.
        """
        check_pair(sample_features, data_features, "c2st", least=LEAST)
        test = TwoSamples(self.classifier, self.width, self.steps, self.permutations, self.points)
        found, net = test.judge(sample_features.values, data_features.values, generator), sample_features.net
        details = {"classifier": self.classifier, "held_out": found.judged, "permutations": self.permutations}
        return (
            Score("c2st-accuracy", found.accuracy, found.accuracy_error, "lower", net=net, details=details),
            Score("c2st-p-value", found.p_value, found.p_error, "higher", net=net, details=details),
        )
