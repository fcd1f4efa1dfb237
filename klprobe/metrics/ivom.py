"""How well the generator can rebuild data at all: the best code for each point, by descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from klprobe.distributions import sample_prior
from klprobe.metrics._shared import Model, Score
from klprobe.metrics._statistics import mean_error
from klprobe.types import InputError, Progress, no_progress

__all__ = ["Ivom"]


@dataclass(frozen=True)
class Ivom:
    """Inference via optimisation (IvOM): mean squared error of held-out points at the best code that descent finds.

    Each point starts `restarts` times from a draw of the prior, and the best end counts; lower is better, and more steps
    only lower it. Squared errors are means over values, on the scale of the data ([0, 1] for images here; BMS does not say).
    A generator that leaves modes out cannot rebuild them, whatever the code; nothing keeps the code near the prior.

    Reference: Metz et al. (2017), Unrolled GANs, section 3.4; BMS Tables 4, 8.
    """

    optimiser: Literal["adam", "lbfgs"] = "adam"
    """adam: `lr` and `steps`; lbfgs: strong Wolfe steps, better on smooth generators."""
    steps: int = 300
    """Steps from each start."""
    lr: float = 0.05
    """Adam's learning rate, falling to zero as a cosine."""
    restarts: int = 3
    """Starts of each point."""
    points: int = 100
    """Data points at most, chosen at random."""

    def measure(
        self, model: Model, data: torch.Tensor, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Score, ...]:
        """`ivom`.

        Raises:
            CapabilityError: no generator.
            InputError: settings below 1.
        """
        if min(self.steps, self.restarts, self.points) < 1 or not self.lr > 0:
            raise InputError("ivom needs steps, restarts and points of at least 1, and lr above 0.")
        x = data[torch.randperm(len(data), generator=generator)[: self.points]].float()
        best = torch.full((len(x),), torch.inf, dtype=torch.float64)
        for start in range(self.restarts):
            z = sample_prior(model.prior, len(x), generator).float()
            best = torch.minimum(best, self._descend(model, x, z))
            progress(start + 1, self.restarts, f"{float(best.mean()):.4g}")
        details = {"points": len(x), "restarts": self.restarts, "optimiser": self.optimiser, "steps": self.steps}
        return (Score("ivom", float(best.mean()), mean_error(best), "lower", details=details),)

    def _descend(self, model: Model, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Least squared error of each point on the way from its z, shape (m,)."""
        z = z.requires_grad_()
        best = torch.full((len(x),), torch.inf, dtype=torch.float64)

        def errors() -> torch.Tensor:
            nonlocal best
            found = (model.decode(z) - x).square().flatten(1).mean(1)
            best = torch.minimum(best, found.detach().double().nan_to_num(torch.inf))
            return found

        def slope() -> float:
            total = errors().sum()  # points do not share codes, so the sum's gradient holds each point's own
            (z.grad,) = torch.autograd.grad(total, z)
            return float(total.detach())

        if self.optimiser == "lbfgs":
            torch.optim.LBFGS([z], max_iter=self.steps, line_search_fn="strong_wolfe", tolerance_change=1e-12).step(slope)
        else:
            adam = torch.optim.Adam([z], self.lr)
            slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
            for _ in range(self.steps):
                slope()
                adam.step()
                slower.step()
        with torch.no_grad():
            errors()
        return best
