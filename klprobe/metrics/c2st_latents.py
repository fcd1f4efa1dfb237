"""Can a classifier tell codes from the prior? Its accuracy, and how likely that is if it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from klprobe.metrics import Score
from klprobe.metrics._two_samples import LEAST, TwoSamples
from klprobe.types import InputError

__all__ = ["C2STLatents"]


@dataclass(frozen=True)
class C2STLatents:
    """Classifier two-sample test of the aggregate posterior against the prior: accuracy, 0.5 at best, and a p-value.

    As c2st, with one code z ~ q(z|x) a held-out point and as many draws of p(z). It says whether q(z) and p(z) differ, where
    this classifier can see it; by how many nats is what `klprobe estimate` says.

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
    """Largest number of codes, and of draws of the prior; they are chosen at random."""

    def measure(self, codes: torch.Tensor, prior_codes: torch.Tensor, generator: torch.Generator) -> tuple[Score, ...]:
        """`c2st-latents-accuracy` and `c2st-latents-p-value`.

        Args:
            codes: One draw of q(z|x) a data point, shape (n, D).
            prior_codes: Draws of the prior, shape (m, D).
            generator: Source of all randomness.
        Raises:
            InputError: fewer than 20 codes or draws, or of several dimensions.
        """
        if codes.dim() != 2 or codes.shape[1:] != prior_codes.shape[1:] or min(len(codes), len(prior_codes)) < LEAST:
            raise InputError(
                f"c2st-latents needs at least {LEAST} codes (n, D) and as many draws of the prior; got "
                f"{tuple(codes.shape)} and {tuple(prior_codes.shape)}."
            )
        test = TwoSamples(self.classifier, self.width, self.steps, self.permutations, self.points)
        found = test.judge(codes, prior_codes, generator)
        details = {"classifier": self.classifier, "held_out": found.judged, "permutations": self.permutations}
        return (
            Score("c2st-latents-accuracy", found.accuracy, found.accuracy_error, "lower", details=details),
            Score("c2st-latents-p-value", found.p_value, found.p_error, "higher", details=details),
        )
