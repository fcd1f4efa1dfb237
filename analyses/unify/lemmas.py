"""Lemmas 1 and 2 of UNIFY in one dimension, by quadrature: what is an identity, and what must be held fixed for it.

python -m analyses.unify.lemmas        # prints the tables, and writes them to results/lemmas.md
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from analyses.machinery.declared import Page

HERE = Path(__file__).parent / "results"
X = torch.linspace(-14, 14, 2801, dtype=torch.float64)
Z = torch.linspace(-9, 9, 601, dtype=torch.float64)
"""Grids of the trapezoidal rule, which for smooth densities that vanish at the ends is exact to rounding."""
DX, DZ = float(X[1] - X[0]), float(Z[1] - Z[0])
START = (-0.5, 0.2)
"""theta0: mean and log standard deviation of the generator's normal."""
LOG_2 = math.log(2)
Vector = torch.Tensor


def log_normal(x: Vector, mean: Vector | float, log_std: Vector | float) -> Vector:
    """Log-density of a normal."""
    log_std = torch.as_tensor(log_std, dtype=torch.float64)
    return -0.5 * ((x - mean) * torch.exp(-log_std)).square() - log_std - 0.5 * math.log(2 * math.pi)


def log_data(x: Vector) -> Vector:
    """Two modes, a large and a small one, as in the paper's figure 2."""
    parts = [math.log(share) + log_normal(x, mean, math.log(std)) for share, mean, std in ((0.7, 2.5, 0.7), (0.3, -3.0, 0.5))]
    return torch.logaddexp(*parts)


def log_generated(theta: Vector) -> Vector:
    """Of the generator on the grid."""
    return log_normal(X, theta[0], theta[1])


def mean_of(log_p: Vector, f: Vector) -> Vector:
    """E_p f."""
    return (log_p.exp() * f).sum() * DX


def kl(log_p: Vector, log_q: Vector) -> Vector:
    """KL[p||q] in nats."""
    return mean_of(log_p, log_p - log_q)


def half(log_p: Vector, log_q: Vector) -> Vector:
    """Log-density of the even mixture."""
    return torch.logaddexp(log_p, log_q) - LOG_2


def jsd(log_p: Vector, log_q: Vector) -> Vector:
    """Jensen-Shannon divergence in nats."""
    middle = half(log_p, log_q)
    return 0.5 * (kl(log_p, middle) + kl(log_q, middle))


def optimal_logit() -> Vector:
    """log p_data - log p_g at theta0, on the grid."""
    return log_data(X) - log_generated(torch.tensor(START, dtype=torch.float64))


DISCRIMINATORS: dict[str, Callable[[], Vector]] = {
    "optimal": optimal_logit,
    "half the optimal logit": lambda: 0.5 * optimal_logit(),
    "a line": lambda: 0.8 * X - 1.0,
    "uniform guesses": lambda: torch.zeros_like(X),
    "optimal, reversed": lambda: -optimal_logit(),
}
"""Logits of D(x) = q(y = 1|x); y = 1 is data."""


def reversed_posterior(logit: Vector, log_prior: Vector, y: int) -> tuple[Vector, Vector]:
    """log q^r(x|y), proportional to q(1 - y|x) times the prior of x, and the logarithm of what it was divided by."""
    joint = (F.logsigmoid(logit) if y == 0 else F.logsigmoid(-logit)) + log_prior
    log_normaliser = (joint.exp().sum() * DX).log()
    return joint - log_normaliser, log_normaliser


def generator_loss(logit: Vector, theta: Vector) -> Vector:
    """-E_{p_theta(x|y) p(y)} log q^r(y|x): the left side of eq. 6."""
    return -0.5 * (mean_of(log_generated(theta), F.logsigmoid(logit)) + mean_of(log_data(X), F.logsigmoid(-logit)))


def variational(logit: Vector, theta: Vector, fixed: bool = True) -> tuple[Vector, Vector, Vector]:
    """The right side of eq. 6: E KL(p_theta(x|y)||q^r(x|y)), the JSD, and the two log-normalisers' mean, nats.

    `fixed`: whether p_theta0(x), the prior in q^r, stays at the theta0 that theta is at; else it moves with theta.
    """
    generated, data = log_generated(theta), log_data(X)
    prior = half(generated, data)
    fakes, z0 = reversed_posterior(logit, prior.detach() if fixed else prior, 0)
    reals, z1 = reversed_posterior(logit, prior.detach() if fixed else prior, 1)
    return 0.5 * (kl(generated, fakes) + kl(data, reals)), jsd(generated, data), 0.5 * (z0 + z1)


def slope(of: Callable[[Vector], Vector], at: tuple[float, ...] | list[float]) -> Vector:
    """Gradient."""
    theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(of(theta), theta)[0]


def lemma_1(logit: Vector) -> dict[str, Vector]:
    """Both sides' gradients at theta0, with p_theta0 fixed and moving, and the values of the right side's terms."""

    def right(theta: Vector, fixed: bool) -> Vector:
        divergence, js, _ = variational(logit, theta, fixed)
        return divergence - js

    divergence, js, normalisers = variational(logit, torch.tensor(START, dtype=torch.float64))
    return {
        "left": slope(lambda t: generator_loss(logit, t), START),
        "right": slope(lambda t: right(t, True), START),
        "moving": slope(lambda t: right(t, False), START),
        "normalisers": slope(lambda t: variational(logit, t, False)[2], START),
        "kl": divergence,
        "jsd": js,
        "log_normaliser": normalisers,
    }


VAE = (1.8, 0.3, -0.4, 0.35, 0.1, -0.6)
"""Parameters of p(x|z) = N(w tanh(z) + 0.3 w z + b, s^2) and q(z|x) = N(a x + c, t^2): w, b, log s, a, c, log t."""
ELSEWHERE = (1.2, -0.4, 0.1, 0.2, -0.3, -0.3)


def visible(p: Vector) -> Vector:
    """log p(x|z), shape (x, z)."""
    return log_normal(X[:, None], p[0] * (Z.tanh() + 0.3 * Z) + p[1], p[2])


def code_terms(p: Vector) -> tuple[Vector, Vector]:
    """E_q(z|x) log p(x|z) and KL[q(z|x)||p(z)] at every x."""
    log_q, log_prior = log_normal(Z, (p[3] * X + p[4])[:, None], p[5]), log_normal(Z, 0.0, 0.0)
    return (log_q.exp() * visible(p)).sum(1) * DZ, (log_q.exp() * (log_q - log_prior)).sum(1) * DZ


def log_marginal(p: Vector) -> Vector:
    """log of the integral of p(z) p(x|z) on the grid of x: generated points."""
    return torch.logsumexp(visible(p) + log_normal(Z, 0.0, 0.0), 1) + math.log(DZ)


def vae_objective(p: Vector) -> Vector:
    """Eq. 11."""
    reconstruction, divergence = code_terms(p)
    return mean_of(log_data(X), reconstruction - divergence)


PERFECT = torch.ones_like(X), torch.zeros_like(X)
"""D(x) of data and of generated points, by a discriminator that knows where a point is from."""


def eq_12(p: Vector, d: tuple[Vector, Vector] = PERFECT, start: tuple[float, ...] = VAE) -> tuple[Vector, Vector]:
    """The two lines of eq. 12, or with another discriminator eq. 17; points of p_theta0 generated by the parameters `start`.

    q^r(y = 0|x) = D(x) and p(y) = 1/2. With y = 1 p(x|z, y) = p_data(x), q(z|x, y) = N(0.3, 0.8^2) and p(z|y) = N(0, 1):
    constants.
    """
    data, made = log_data(X), log_marginal(torch.tensor(start, dtype=torch.float64))
    of_0 = torch.sub(*code_terms(p))
    of_1 = data - 0.5 * (0.8**2 + 0.3**2 - 1 - 2 * math.log(0.8))
    log_evidence = half(log_marginal(p), data)  # of p(x|z, y) p(z|y) p(y): what p(z, y|x) is divided by
    first, second = torch.zeros(2, dtype=torch.float64)
    for log_p, share in zip((data, made), d, strict=True):
        entropy = -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
        inner = share * of_0 + (1 - share) * of_1 + entropy - LOG_2
        first = first + 0.5 * mean_of(log_p, inner)
        second = second + 0.5 * mean_of(log_p, inner - log_evidence)
    return first, second


def weighted_vae(p: Vector, d: tuple[Vector, Vector], start: tuple[float, ...] = VAE) -> Vector:
    """Half the sum, over data and generated points, of E D(x) times the evidence lower bound of x: what aavae raises."""
    made, bound = log_marginal(torch.tensor(start, dtype=torch.float64)), torch.sub(*code_terms(p))
    return 0.5 * (mean_of(log_data(X), d[0] * bound) + mean_of(made, d[1] * bound))


def aavae_apart() -> float:
    """Largest difference of the gradients of eq. 17 and of the weighted bound, with a line as logit of D."""
    d = torch.sigmoid(DISCRIMINATORS["a line"]())
    sides = slope(lambda p: eq_12(p, (d, d))[0], ELSEWHERE), slope(lambda p: weighted_vae(p, (d, d)), ELSEWHERE)
    return float((sides[0] - sides[1]).abs().max())


def table_1() -> str:
    """Lemma 1 for every discriminator."""
    head = ["D", "left side", "right side", "apart", "apart, p_theta0 moving", "E KL", "JSD", "mean log Z_y"]
    rows = []
    for name, logit in DISCRIMINATORS.items():
        found = lemma_1(logit())
        apart = [f"{float((found['left'] - found[other]).abs().max()):.0e}" for other in ("right", "moving")]
        sides = [", ".join(f"{round(v, 6) + 0.0:+.6f}" for v in found[side].tolist()) for side in ("left", "right")]
        values = [f"{round(float(found[value]), 4) + 0.0:.4f}" for value in ("kl", "jsd", "log_normaliser")]
        rows.append([name, *sides, apart[0], apart[1], *values])
    return _markdown(head, rows)


def table_2() -> str:
    """Lemma 2 at theta0 and away from it."""
    head = ["parameters", "VAE objective / 2", "eq. 12, line 1", "line 2", "gradient of line 1 apart", "of line 2 apart"]
    rows = []
    for name, at in (("theta0, where points are generated", VAE), ("another theta", ELSEWHERE)):
        p = torch.tensor(at, dtype=torch.float64)
        values = [f"{float(v):.6f}" for v in (vae_objective(p) / 2, *eq_12(p))]
        truth = slope(lambda t: vae_objective(t) / 2, at)
        apart = [float((slope(lambda t, i=i: eq_12(t)[i], at) - truth).abs().max()) for i in (0, 1)]  # type: ignore[misc]
        rows.append([name, *values, *(f"{a:.0e}" for a in apart)])
    return _markdown(head, rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


TEXT = """# UNIFY's two lemmas in one dimension

Written by `python -m analyses.unify.lemmas`, by quadrature in float64. "Apart": the largest difference of two gradients.

## Lemma 1 (eq. 6)

Data: 0.7 N(2.5, 0.7^2) + 0.3 N(-3, 0.5^2). Generator: N(m, s^2), theta = (m, log s), at theta0 = (-0.5, 0.2). Gradients
(d/dm, d/dlog s) of both sides for five discriminators D, none of which needs to be optimal:

{one}

- With p_theta0(x) held fixed the lemma holds to rounding, for any D.
- With p_theta0 moving along with theta the right side's gradient is off by that of the mean of log Z_0 and log Z_1, the
  normalisers of q^r(x|y), and by nothing else. It vanishes when D takes half of p_theta0 for data, Z_0 = Z_1 = 1/2, as an
  optimal D and uniform guesses do; else holding fixed matters.
- Appendix C says JSD <= E KL. Its proof drops log Z_y <= 0 from eq. 20, and the statement is false for a D that is wrong
  enough: the last row has E KL = 0 and a positive JSD. It holds in the other rows.

## Lemma 2 (eq. 12)

p(x|z) = N(w tanh z + 0.3 w z + b, s^2), q(z|x) = N(a x + c, t^2), the same data, a discriminator that knows where a point is
from, and generated points of theta0 throughout:

{two}

- Line 1 is half the VAE objective plus a constant, everywhere: an identity.
- Line 2 is larger by -E log p_theta(x), here by {gap:.4f} nats at theta0. Its gradient agrees with that of line 1 at theta0,
  where the dropped term is the mean of a score under its own density, E_p grad log p = 0; at any other theta it does not.
- Eq. 17 puts a learned D(x), here a line as logit, in place of the perfect one. Its gradient is that of D(x) times the evidence
  lower bound of x, summed over data and generated points, which is what `klprobe train aavae` follows: apart by {aavae:.0e}.
"""


def main() -> None:
    """Write the page."""
    first, second = eq_12(torch.tensor(VAE, dtype=torch.float64))
    page = TEXT.format(one=table_1(), two=table_2(), gap=float(second - first), aavae=aavae_apart())
    (HERE / "lemmas.md").write_text(page)
    print(page)


PAGE = Page(
    order=3,
    title="UNIFY Lemmas 1 and 2, Figure 2",
    paper="two identities; a picture",
    commands="unify.lemmas, unify.figure_2",
    headline="[page](unify/results/lemmas.md), [figure](unify/results/figure_2.svg)",
    records="none: quadrature, in seconds",
)


if __name__ == "__main__":
    main()
