"""Figure 2: one step of the generator as seen by Lemma 1, in one dimension.

python -m analyses.unify.figure_2        # results/figure_2.svg
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.machinery.drawing import COLOURS, save
from analyses.unify.lemmas import (
    START,
    X,
    half,
    kl,
    log_data,
    log_generated,
    log_normal,
    optimal_logit,
    reversed_posterior,
    slope,
    variational,
)

HERE = Path(__file__).parent / "results"
SHARPNESS = 0.5
"""Share of the optimal logit that the discriminator has learned (ours; the paper's picture has no numbers)."""
STEP = 0.5
"""Of the gradient step on the generator's loss."""


def target() -> torch.Tensor:
    """log q^r(x|y = 0) at theta0: where the KL term pulls generated points."""
    prior = half(log_generated(torch.tensor(START, dtype=torch.float64)), log_data(X))
    return reversed_posterior(SHARPNESS * optimal_logit(), prior, 0)[0]


def projected() -> torch.Tensor:
    """theta of the normal next to q^r(x|y = 0) in KL[p_theta||q^r], found from theta0: the paper's 'one optimization step'."""
    theta = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    aim, descent = target(), torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss() -> float:
        descent.zero_grad()
        value = kl(log_generated(theta), aim)
        value.backward()
        return float(value.detach())

    descent.step(loss)
    return theta.detach()


def stepped() -> torch.Tensor:
    """theta after a gradient step on the generator's loss, that is on the KL term minus the JSD."""

    def loss(theta: torch.Tensor) -> torch.Tensor:
        divergence, js, _ = variational(SHARPNESS * optimal_logit(), theta)
        return divergence - js

    return torch.tensor(START, dtype=torch.float64) - STEP * slope(loss, START)


def draw(figure: Figure) -> None:
    """Two panels: before and after."""
    before, after = figure.subplots(1, 2, sharey=True)
    data, theta = log_data(X), torch.tensor(START, dtype=torch.float64)
    _curve(before, data, 0, "p_data(x)")
    _curve(before, log_generated(theta), 1, "p_g(x) at theta0")
    _curve(before, target(), 2, "q^r(x|y=0)")
    before.set_title("before: q^r mixes p_g and p_data")
    _curve(after, data, 0, "p_data(x)", "--")
    _curve(after, target(), 2, "q^r(x|y=0)")
    for name, colour, new in (("p_g at the least KL[p_g||q^r]", 3, projected()), ("p_g one gradient step on", 4, stepped())):
        _curve(after, log_normal(X, new[0], new[1]), colour, f"{name}: N({float(new[0]):.2f}, {math.exp(float(new[1])):.2f}²)")
    after.set_title("after: KL alone misses the small mode")
    for axes in (before, after):
        axes.set_xlim(-6, 6)
        axes.set_xlabel("x")
        axes.legend(loc="upper left", frameon=False, fontsize="small")
    before.set_ylabel("density")
    before.set_ylim(0, 0.85)


def _curve(axes: Axes, log_p: torch.Tensor, colour: int, label: str, style: str = "-") -> None:
    axes.plot(X.numpy(), log_p.exp().numpy(), style, color=COLOURS[colour], label=label)


def main(out: Path = HERE / "figure_2.svg") -> Path:
    """Write the figure."""
    return save(out, (9, 3.6), draw)


if __name__ == "__main__":
    print(main())
