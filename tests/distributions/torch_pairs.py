"""Pairs of torch distributions, posterior and prior of one latent or a few, whose KL is known by sums over a grid.

The grid uses torch's densities and nothing of klprobe's: what is tested is what klprobe makes of them.
"""

import math

import torch
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Chi2,
    ContinuousBernoulli,
    Exponential,
    ExpTransform,
    FisherSnedecor,
    Gamma,
    GeneralizedPareto,
    Geometric,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Independent,
    InverseGamma,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    NegativeBinomial,
    Normal,
    Pareto,
    Poisson,
    RelaxedBernoulli,
    SigmoidTransform,
    StudentT,
    TanhTransform,
    TransformedDistribution,
    Uniform,
    VonMises,
    Weibull,
)

N = 40
GRID = 40_001


def spread(low, high, dtype=torch.float64):
    """One parameter for each data point, shape (N, 1)."""
    return torch.linspace(low, high, N, dtype=dtype)[:, None]


def one(*values, dtype=torch.float64):
    """Parameters of a prior of one latent, each of shape (1,)."""
    return [torch.tensor([value], dtype=dtype) for value in values]


def of_one(kind, *values, dtype=torch.float64):
    """A prior of one latent."""
    return Independent(kind(*one(*values, dtype=dtype)), 1)


def logistic(loc, scale):
    base = Uniform(torch.zeros_like(loc + scale), torch.ones_like(loc + scale))
    return TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(loc, scale)])


def squashed(loc, scale):
    """tanh of a normal, as in reinforcement learning."""
    return TransformedDistribution(Normal(loc, scale), [TanhTransform()])


def shifted_gamma(loc, rate):
    return TransformedDistribution(Gamma(torch.full_like(rate, 2.0), rate), [AffineTransform(loc, torch.ones_like(loc))])


def two_normals(mean, std):
    """A mixture of two normals with batch shape (N,) and event shape (1,)."""
    component = Independent(Normal(torch.stack([mean, -mean], 1), torch.stack([std, std], 1)), 1)
    return MixtureSameFamily(Categorical(logits=torch.tensor([0.0, 1.0], dtype=mean.dtype).expand(len(mean), 2)), component)


REAL, POSITIVE, UNIT, ANGLE = "real", "positive", "unit", "angle"
FULL, HALF = spread(-1.5, 1.5), spread(0.5, 2.0)

CONTINUOUS = {
    # name: (support, posterior, prior)
    "normal | student-t": (REAL, Normal(FULL, 0.5), of_one(StudentT, 3.0, 0.0, 1.0)),
    "normal | cauchy": (REAL, Normal(FULL, 0.5), of_one(Cauchy, 0.0, 1.0)),
    "normal | laplace": (REAL, Normal(FULL, 0.5), of_one(Laplace, 0.0, 1.0)),
    "normal | gumbel": (REAL, Normal(FULL, 0.5), of_one(Gumbel, 0.0, 1.0)),
    "normal | logistic": (REAL, Normal(FULL, 0.5), Independent(logistic(*one(0.0, 1.0)), 1)),
    "laplace | normal": (REAL, Laplace(FULL, 0.5), of_one(Normal, 0.0, 1.0)),
    "laplace | laplace": (REAL, Laplace(FULL, 0.5), of_one(Laplace, 0.5, 1.0)),
    "laplace | cauchy": (REAL, Laplace(FULL, 0.5), of_one(Cauchy, 0.5, 1.0)),
    "student-t | normal": (REAL, StudentT(spread(8.0, 12.0), FULL, 0.3), of_one(Normal, 0.0, 1.5)),
    "student-t | student-t": (REAL, StudentT(spread(3.0, 12.0), FULL, 0.3), of_one(StudentT, 4.0, 0.0, 1.0)),
    "cauchy | cauchy": (REAL, Cauchy(FULL, 0.5), of_one(Cauchy, 0.0, 1.0)),
    "cauchy | student-t of 2": (REAL, Cauchy(FULL, 0.5), of_one(StudentT, 2.0, 0.0, 1.0)),
    "gumbel | normal": (REAL, Gumbel(FULL, 0.5), of_one(Normal, 0.0, 1.5)),
    "gumbel | gumbel": (REAL, Gumbel(FULL, 0.5), of_one(Gumbel, 0.0, 1.0)),
    "logistic | normal": (REAL, logistic(FULL, HALF / 4), of_one(Normal, 0.0, 1.0)),
    "logistic | logistic": (REAL, logistic(FULL, HALF / 4), Independent(logistic(*one(0.0, 1.0)), 1)),
    "affine normal | normal": (
        REAL,
        TransformedDistribution(Normal(torch.zeros(N, 1).double(), 1.0), [AffineTransform(FULL, HALF / 4)]),
        of_one(Normal, 0.0, 1.0),
    ),
    "one affine of all | normal": (
        REAL,
        TransformedDistribution(Normal(FULL, 0.5), [AffineTransform(0.3, 0.7)]),
        of_one(Normal, 0.0, 1.0),
    ),
    "two normals | normal": (REAL, two_normals(FULL, HALF / 4), of_one(Normal, 0.0, 1.0)),
    "two normals | two normals": (
        REAL,
        two_normals(FULL, HALF / 4),
        MixtureSameFamily(
            Categorical(probs=torch.tensor([0.2, 0.8]).double()),
            Independent(Normal(torch.tensor([[1.0], [-1.0]]).double(), 0.9), 1),
        ),
    ),
    "uniform | normal": (REAL, Uniform(FULL - 0.4, FULL + 0.6), of_one(Normal, 0.0, 1.0)),
    "uniform | laplace": (REAL, Uniform(FULL - 0.4, FULL + 0.6), of_one(Laplace, 0.0, 1.0)),
    "uniform apart | normal": (REAL, Uniform(2 * FULL - 0.01, 2 * FULL + 0.01), of_one(Normal, 0.0, 1.0)),
    "uniform | uniform": (REAL, Uniform(FULL - 0.4, FULL + 0.6), of_one(Uniform, -3.0, 3.0)),
    "uniform | two boxes": (
        REAL,
        Uniform(FULL - 0.4, FULL + 0.6),
        MixtureSameFamily(
            Categorical(probs=torch.tensor([0.2, 0.8]).double()),
            Independent(Uniform(torch.tensor([[-3.0], [-1.0]]).double(), torch.tensor([[0.0], [3.0]]).double()), 1),
        ),
    ),
    "float32 normal | float32 student-t": (
        REAL,
        Normal(FULL.float(), torch.tensor(0.5)),
        of_one(StudentT, 3.0, 0.0, 1.0, dtype=torch.float32),
    ),
    "float32 laplace | float32 cauchy": (
        REAL,
        Laplace(FULL.float(), torch.tensor(0.5)),
        of_one(Cauchy, 0.0, 1.0, dtype=torch.float32),
    ),
    "beta | beta": (UNIT, Beta(spread(2.0, 5.0), spread(4.0, 2.0)), of_one(Beta, 1.5, 1.5)),
    "beta | uniform": (UNIT, Beta(spread(2.0, 5.0), spread(4.0, 2.0)), of_one(Uniform, 0.0, 1.0)),
    "beta | normal": (UNIT, Beta(spread(2.0, 5.0), spread(4.0, 2.0)), of_one(Normal, 0.5, 0.5)),
    "beta | kumaraswamy": (UNIT, Beta(spread(2.0, 5.0), spread(4.0, 2.0)), of_one(Kumaraswamy, 1.5, 1.5)),
    "float32 beta | float32 beta": (
        UNIT,
        Beta(spread(2.0, 5.0, torch.float32), spread(4.0, 2.0, torch.float32)),
        of_one(Beta, 1.5, 1.5, dtype=torch.float32),
    ),
    "kumaraswamy | beta": (UNIT, Kumaraswamy(spread(2.0, 4.0), spread(3.0, 2.0)), of_one(Beta, 1.5, 1.5)),
    "continuous bernoulli | uniform": (UNIT, ContinuousBernoulli(spread(0.1, 0.8)), of_one(Uniform, 0.0, 1.0)),
    "relaxed bernoulli | beta": (
        UNIT,
        RelaxedBernoulli(torch.tensor(1.5).double(), logits=FULL),
        of_one(Beta, 1.0, 1.0),
    ),
    "relaxed bernoulli | relaxed bernoulli": (
        UNIT,
        RelaxedBernoulli(torch.tensor(1.5).double(), probs=spread(0.2, 0.9)),
        Independent(RelaxedBernoulli(torch.tensor(1.0).double(), probs=torch.tensor([0.4]).double()), 1),
    ),
    "tanh normal | uniform": ("both", squashed(FULL, HALF / 4), of_one(Uniform, -1.0, 1.0)),
    "tanh normal | tanh normal": ("both", squashed(FULL, HALF / 4), Independent(squashed(*one(0.0, 1.0)), 1)),
    "gamma | gamma": (POSITIVE, Gamma(spread(2.0, 5.0), HALF), of_one(Gamma, 2.0, 1.0)),
    "gamma | exponential": (POSITIVE, Gamma(spread(2.0, 5.0), HALF), of_one(Exponential, 0.5)),
    "gamma | log-normal": (POSITIVE, Gamma(spread(2.0, 5.0), HALF), of_one(LogNormal, 0.5, 1.0)),
    "gamma | normal": (POSITIVE, Gamma(spread(2.0, 5.0), HALF), of_one(Normal, 1.0, 3.0)),
    "gamma | half-cauchy": (POSITIVE, Gamma(spread(2.0, 5.0), HALF), of_one(HalfCauchy, 2.0)),
    "gamma | weibull": (POSITIVE, Gamma(spread(2.0, 5.0), HALF), of_one(Weibull, 2.0, 0.8)),
    "log-normal | log-normal": (POSITIVE, LogNormal(FULL, 0.4), of_one(LogNormal, 0.0, 1.0)),
    "log-normal | gamma": (POSITIVE, LogNormal(FULL, 0.4), of_one(Gamma, 2.0, 1.0)),
    "log-normal | half-cauchy": (POSITIVE, LogNormal(FULL, 0.4), of_one(HalfCauchy, 1.0)),
    "exp of normal | log-normal": (
        POSITIVE,
        TransformedDistribution(Normal(FULL, 0.4), [ExpTransform()]),
        of_one(LogNormal, 0.0, 1.0),
    ),
    "half-normal | half-normal": (POSITIVE, HalfNormal(HALF), of_one(HalfNormal, 1.5)),
    "half-normal | exponential": (POSITIVE, HalfNormal(HALF), of_one(Exponential, 1.0)),
    "half-cauchy | half-cauchy": (POSITIVE, HalfCauchy(HALF), of_one(HalfCauchy, 1.0)),
    "exponential | exponential": (POSITIVE, Exponential(HALF), of_one(Exponential, 1.0)),
    "exponential | chi2": (POSITIVE, Exponential(HALF), of_one(Chi2, 2.5)),
    "chi2 | gamma": (POSITIVE, Chi2(spread(3.0, 6.0)), of_one(Gamma, 2.0, 0.5)),
    "weibull | exponential": (POSITIVE, Weibull(HALF, spread(1.5, 2.5)), of_one(Exponential, 1.0)),
    "weibull | weibull": (POSITIVE, Weibull(HALF, spread(1.5, 2.5)), of_one(Weibull, 1.0, 1.0)),
    "inverse-gamma | inverse-gamma": (POSITIVE, InverseGamma(spread(3.0, 5.0), HALF), of_one(InverseGamma, 2.0, 1.0)),
    "inverse-gamma | log-normal": (POSITIVE, InverseGamma(spread(3.0, 5.0), HALF), of_one(LogNormal, 0.0, 1.0)),
    "fisher-snedecor | half-cauchy": (POSITIVE, FisherSnedecor(spread(4.0, 8.0), 9.0), of_one(HalfCauchy, 1.0)),
    "pareto | pareto": (POSITIVE, Pareto(HALF, 3.0), of_one(Pareto, 0.4, 2.0)),
    "pareto | log-normal": (POSITIVE, Pareto(HALF, 3.0), of_one(LogNormal, 0.0, 1.0)),
    "generalised pareto | half-cauchy": (
        POSITIVE,
        GeneralizedPareto(torch.zeros(N, 1), HALF.float(), 0.2),
        of_one(HalfCauchy, 1.0),
    ),
    "shifted gamma | gamma": (POSITIVE, shifted_gamma(spread(0.1, 2.0), HALF), of_one(Gamma, 2.0, 1.0)),
    "von mises | von mises": (ANGLE, VonMises(FULL, 4.0 * HALF), of_one(VonMises, 0.0, 1.0)),
    "von mises | normal": (ANGLE, VonMises(FULL, 4.0 * HALF), of_one(Normal, 0.0, 1.5)),
    "von mises | uniform": (ANGLE, VonMises(FULL, 4.0 * HALF), of_one(Uniform, -math.pi - 1e-9, math.pi + 1e-9)),
}
COUNTS = {
    "bernoulli | bernoulli": (Bernoulli(spread(0.1, 0.9)), of_one(Bernoulli, 0.3)),
    "bernoulli by logits | bernoulli": (Bernoulli(logits=FULL), of_one(Bernoulli, 0.3)),
    "certain bernoulli | bernoulli": (Bernoulli(spread(0.0, 1.0).round()), of_one(Bernoulli, 0.3)),
    "binomial | binomial": (Binomial(7, spread(0.1, 0.9)), Independent(Binomial(7, torch.tensor([0.4]).double()), 1)),
    "binomial | poisson": (Binomial(7, spread(0.1, 0.9)), of_one(Poisson, 3.0)),
    "geometric | geometric": (Geometric(spread(0.3, 0.9)), of_one(Geometric, 0.5)),
    "geometric | poisson": (Geometric(spread(0.5, 0.9)), of_one(Poisson, 1.0)),
    "negative binomial | geometric": (
        NegativeBinomial(3.0, probs=spread(0.1, 0.5)),
        of_one(Geometric, 0.3),
    ),
    "poisson | poisson": (Poisson(spread(0.5, 4.0)), of_one(Poisson, 2.0)),
    "poisson | negative binomial": (
        Poisson(spread(0.5, 4.0)),
        Independent(NegativeBinomial(2.0, probs=torch.tensor([0.5]).double()), 1),
    ),
    "float32 poisson | float32 geometric": (
        Poisson(spread(0.5, 4.0, torch.float32)),
        of_one(Geometric, 0.3, dtype=torch.float32),
    ),
    "categorical | categorical": (
        Categorical(logits=torch.randn(N, 1, 5, generator=torch.Generator().manual_seed(0)).double()),
        Independent(Categorical(probs=torch.tensor([[0.1, 0.2, 0.3, 0.2, 0.2]]).double()), 1),
    ),
    "categorical | binomial": (
        Categorical(logits=torch.randn(N, 1, 5, generator=torch.Generator().manual_seed(0)).double()),
        Independent(Binomial(4, torch.tensor([0.4]).double()), 1),
    ),
}


def grid(support):
    """Points and their weights, by the midpoint rule in a variable that the support is the image of."""
    t = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    if support == UNIT:
        return t, torch.full_like(t, 1 / GRID)
    if support == "both":
        return 2 * t - 1, torch.full_like(t, 2 / GRID)
    if support == ANGLE:
        return math.pi * (2 * t - 1), torch.full_like(t, 2 * math.pi / GRID)
    if support == POSITIVE:  # z = s^2 / (1 - s)^2, so that both ends are fine
        s = t
        return (s / (1 - s)) ** 2, 2 * s / (1 - s) ** 3 / GRID
    return torch.tan(math.pi * (t - 0.5)), math.pi / torch.cos(math.pi * (t - 0.5)) ** 2 / GRID


def quiet(distribution):
    """Without torch's own refusal of codes outside of the support, for a grid."""
    distribution._validate_args = False
    for inner in ("base_dist", "_component_distribution", "_mixture_distribution"):
        if inner in distribution.__dict__:
            quiet(distribution.__dict__[inner])
    return distribution


def as_posterior_of(q):
    """Batch shape (N,), event shape (1,)."""
    return q if q.event_shape else Independent(q, 1)


def kl_on_grid(support, q, p):
    """KL of the mean of the N conditionals of q from p, by a sum over the grid."""
    z, weight = grid(support)
    q, total = quiet(as_posterior_of(q)), torch.zeros(())
    for part, w in zip(z.split(2000), weight.split(2000), strict=True):
        each = q.log_prob(part[:, None, None]).double().nan_to_num(nan=-math.inf)
        each = torch.where(q.support.check(part[:, None, None]).expand_as(each), each, -math.inf)
        log_q = torch.logsumexp(each, 1) - math.log(N)
        log_p = quiet(p).log_prob(part[:, None].to(z.dtype)).double()
        inside = log_q > -700
        total = total + (w * log_q.exp() * (log_q - log_p))[inside].sum()
    return float(total)


def kl_of_counts(q, p, most=200):
    """The same by a sum over whole numbers, those that either may take."""
    total = 0.0
    q, p = as_posterior_of(q), p
    for k in range(most):
        z = torch.tensor([float(k)], dtype=torch.float64)
        try:
            log_q = torch.logsumexp(q.log_prob(z), 0) - math.log(N)
            log_p = p.log_prob(z)
        except ValueError:  # beyond the last that one of them can take
            break
        if log_q > -700:
            total += float(log_q.exp() * (log_q - log_p))
    return total
