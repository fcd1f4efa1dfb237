"""Error with which the generator can rebuild data from the best code for each point, found by descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from klprobe.distributions.posteriors import sample_prior
from klprobe.metrics import Model, Score
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
    """Method that searches for the best code. adam uses `lr` and `steps`; lbfgs takes strong Wolfe steps and is better on
    smooth generators."""
    steps: int = 300
    """Number of steps from each start."""
    lr: float = 0.05
    """Learning rate of Adam, which falls to zero along a cosine."""
    restarts: int = 3
    """Number of random starts for each data point."""
    points: int = 100
    """Largest number of data points; they are chosen at random."""

    def measure(
        self, model: Model, data: torch.Tensor, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Score, ...]:
        """`ivom`.

        Raises:
            CapabilityError: no generator.
            InputError: settings below 1.
        """
        x = data[torch.randperm(len(data), generator=generator)[: self.points]].float()
        _, best = nearest_codes(self, model, x, generator, progress)
        details = {"points": len(x), "restarts": self.restarts, "optimiser": self.optimiser, "steps": self.steps}
        return (Score("ivom", float(best.mean()), mean_error(best), "lower", details=details),)

    def _descend(self, model: Model, x: torch.Tensor, z: torch.Tensor, best: _Best) -> None:
        """Go down from z, and keep what is better on the way than the best so far."""
        z = z.requires_grad_()

        def errors() -> torch.Tensor:
            found = (model.decode(z, grad=True) - x).square().flatten(1).mean(1)
            best.keep(z.detach(), found.detach().double().nan_to_num(torch.inf))
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


def nearest_codes(
    search: Ivom, model: Model, x: torch.Tensor, generator: torch.Generator, progress: Progress = no_progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best code of every point of x, shape (m, D), and its squared error, shape (m,), float64.

    Args:
        search: Settings; its `points` plays no part.
        model: Model whose generator is searched.
        x: Data points, shape (m, *shape).
        generator: Draws the starts.
        progress: Function that is called with the number of starts done.
    Raises:
        CapabilityError: no generator.
        InputError: settings below 1.
    """
    if min(search.steps, search.restarts, search.points) < 1 or not search.lr > 0:
        raise InputError("ivom needs steps, restarts and points of at least 1, and lr above 0.")
    best = _Best(len(x))
    for start in range(search.restarts):
        search._descend(model, x, sample_prior(model.prior, len(x), generator).float(), best)
        progress(start + 1, search.restarts, f"{float(best.errors.mean()):.4g}")
    return best.codes, best.errors


class _Best:
    """The least error of each of m points so far, infinite at first, and the code that has it."""

    def __init__(self, num: int) -> None:
        self.errors = torch.full((num,), torch.inf, dtype=torch.float64)
        self.codes = torch.empty(num, 0)

    def keep(self, codes: torch.Tensor, errors: torch.Tensor) -> None:
        """Take over the codes, shape (m, D), that are better."""
        better = errors < self.errors
        self.codes = codes.where(better[:, None], self.codes) if self.codes.numel() else codes.clone()
        self.errors = errors.where(better, self.errors)
