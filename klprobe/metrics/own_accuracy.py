"""Accuracy, on held-out data, of the classifier that a system learned from few labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klprobe.metrics import Score
from klprobe.metrics._statistics import share_error
from klprobe.types import InputError

__all__ = ["OwnAccuracy"]


@dataclass(frozen=True)
class OwnAccuracy:
    """Share of held-out data whose class a system's own classifier q(y|x), learned from few labels, gets right.

    Reference: Kingma et al. (2014), Table 1; UNIFY (Hu et al. 2018), Table 4.
    """

    def measure(self, own_logits: torch.Tensor, held_out_labels: torch.Tensor) -> tuple[Score, ...]:
        """`semi-supervised-accuracy`.

        Args:
            own_logits: Logits of q(y|x) for held-out data, shape (n, classes).
            held_out_labels: Classes of held-out data, counted from 0, shape (n,).
        Raises:
            InputError: no data, or labels that do not go with the logits.
        """
        n = len(own_logits)
        if held_out_labels.shape != (n,) or not n or int(held_out_labels.max()) >= own_logits.shape[1]:
            raise InputError(
                "own-accuracy needs one label a point, of the classes that there are logits of; got "
                f"{tuple(held_out_labels.shape)} and {tuple(own_logits.shape)}."
            )
        share = float((own_logits.argmax(1) == held_out_labels).double().mean())
        details = {"points": n, "classes": own_logits.shape[1]}
        return (Score("semi-supervised-accuracy", share, share_error(share, n), "higher", details=details),)
