"""Inception score: how certain a classifier is of each sample's class, and how many classes the samples have."""

from __future__ import annotations

import math
from dataclasses import dataclass

from klprobe.metrics import Features, Score
from klprobe.metrics._statistics import mean_error
from klprobe.types import CapabilityError, InputError

__all__ = ["InceptionScore"]


@dataclass(frozen=True)
class InceptionScore:
    """Inception score under any classifier: exp of the mutual information between sample and class.

    Between 1 and the number of classes, higher is better; it says nothing about the likeness to data, nor of variety within
    a class. Its error comes from each sample's influence on the mutual information, exact to first order.

    Reference: Salimans et al. (2016), section 4; the CIFAR-10 network of AGAN Table 5 is `klprobe train classifier`.
    """

    splits: int = 1
    """Number of parts whose scores are averaged. The 10 of Salimans et al. lower the score of small sets."""

    def measure(self, sample_features: Features) -> tuple[Score, ...]:
        """`inception-score`.

        Raises:
            CapabilityError: a net without classes.
            InputError: a single class, or fewer samples than twice the splits.
        """
        logits, net = sample_features.logits, sample_features.net
        if logits is None:
            raise CapabilityError(f"inception-score needs a classifier's logits, but {net} has no classes. Give --net one.")
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise InputError(
                f"inception-score needs a classifier of at least 2 classes; {net} gives logits {tuple(logits.shape)}."
            )
        if len(logits) < 2 * self.splits or self.splits < 1:
            raise InputError(f"inception-score needs 2 samples a split; got {len(logits)} samples for {self.splits} splits.")
        scores, variance = [], 0.0
        for part in logits.double().log_softmax(1).tensor_split(self.splits):
            marginal = part.logsumexp(0) - math.log(len(part))
            surprise = (part.exp() * (part - marginal)).sum(1)
            scores.append(math.exp(float(surprise.mean())))
            variance += (scores[-1] * mean_error(surprise)) ** 2
        value, error = sum(scores) / self.splits, math.sqrt(variance) / self.splits
        details = {"samples": len(logits), "splits": self.splits, "classes": logits.shape[1]}
        return (Score("inception-score", value, error, "higher", net=net, details=details),)
