"""Are samples of the class that was asked for?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klprobe.metrics import Features, Score
from klprobe.metrics._statistics import share_error
from klprobe.types import CapabilityError, InputError

__all__ = ["Accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """Share of conditional samples that a classifier puts into the class asked for; for data, the classifier's accuracy.

    With the features of labelled data in the samples' place it is the accuracy of a (semi-supervised) classifier, and the
    value that the best samples can have.

    Reference: UNIFY (Hu et al. 2018), Tables 2, 4.
    """

    def measure(self, sample_features: Features, sample_labels: torch.Tensor) -> tuple[Score, ...]:
        """`accuracy`.

        Args:
            sample_features: With logits, shape (m, classes).
            sample_labels: Classes, counted from 0, shape (m,).
        Raises:
            CapabilityError: a net without classes.
            InputError: no samples, or labels that do not go with them.
        """
        logits, net = sample_features.logits, sample_features.net
        if logits is None:
            raise CapabilityError(f"accuracy needs a classifier's logits, but {net} has no classes. Give --net one.")
        if sample_labels.shape != (len(logits),) or not len(logits):
            raise InputError(f"accuracy needs one label a sample; got {tuple(sample_labels.shape)} for {len(logits)} samples.")
        if not 0 <= int(sample_labels.min()) <= int(sample_labels.max()) < logits.shape[1]:
            raise InputError(
                f"accuracy: labels from {int(sample_labels.min())} to {int(sample_labels.max())}, but {net} has "
                f"{logits.shape[1]} classes."
            )
        share = float((logits.argmax(1) == sample_labels).double().mean())
        error = share_error(share, len(logits))
        return (Score("accuracy", share, error, "higher", net=net, details={"samples": len(logits)}),)
