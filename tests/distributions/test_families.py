"""Any torch distribution as posterior or prior: the value that a sum over a grid or many draws give, or a sentence."""

import math

import pytest
import torch
from torch.distributions import (
    AbsTransform,
    AffineTransform,
    Bernoulli,
    Categorical,
    Cauchy,
    Dirichlet,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    LKJCholesky,
    LogisticNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    Multinomial,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    RelaxedOneHotCategorical,
    StickBreakingTransform,
    TransformedDistribution,
    Uniform,
)

import klprobe
from klprobe.distributions import families
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.categorical import Classes
from klprobe.distributions.posteriors import as_posterior, conditional_kl, prior_log_prob, sample_prior
from klprobe.estimators.closed_form import ClosedForm
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.knn import Knn
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import InputError
from tests.distributions.torch_pairs import CONTINUOUS, COUNTS, N, as_posterior_of, kl_of_counts, kl_on_grid, quiet

QUADRATURE = 2e-3
"""What the grids may be off by, at kinks and far out in tails."""


def estimated(q, p, num_samples=3000, seed=0):
    """The report, without what takes long."""
    return klprobe.estimate(q, p, methods=[MonteCarlo(num_samples=num_samples)], seed=seed, marginals=False)


def empirical(report):
    (found,) = [e for e in report.estimates if (e.method, e.target, e.bound) == ("monte-carlo", "empirical", "exact")]
    return found


def check(report, truth, slack):
    found = empirical(report)
    assert abs(found.value - truth) <= 4 * found.std_error + slack
    assert report.verdict in ("resolved", "floor-limited")
    assert not report.not_done
    report.to_json()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_posterior_and_prior_have_the_kl_of_a_grid(name):
    support, q, p = CONTINUOUS[name]
    check(estimated(as_posterior_of(q), p), kl_on_grid(support, q, p), QUADRATURE)


@pytest.mark.parametrize("name", COUNTS)
def test_discrete_posterior_and_prior_have_the_kl_of_a_sum(name):
    q, p = COUNTS[name]
    check(estimated(as_posterior_of(q), p), kl_of_counts(q, p), 1e-6)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def covariances(*shape, dim=3, seed=1):
    factor = normals(*shape, dim, dim, seed=seed)
    return factor @ factor.mT / dim + 0.3 * torch.eye(dim).double()


ONE = torch.ones(N, 3).double()
VECTORS = {
    "dirichlet | dirichlet": (Dirichlet(normals(N, 4).exp() + 0.5), Dirichlet(torch.ones(4).double())),
    "float32 dirichlet": (Dirichlet((normals(N, 4).exp() + 0.5).float()), Dirichlet(torch.ones(4))),
    "dirichlet | logistic-normal": (
        Dirichlet(normals(N, 4).exp() + 0.5),
        LogisticNormal(torch.zeros(3).double(), torch.ones(3).double() * 1.5),
    ),
    "logistic-normal | logistic-normal": (
        LogisticNormal(normals(N, 3), ONE * 0.5),
        LogisticNormal(torch.zeros(3).double(), torch.ones(3).double()),
    ),
    "logistic-normal | dirichlet": (LogisticNormal(normals(N, 3), ONE * 0.5), Dirichlet(torch.ones(4).double())),
    "stick-breaking normal | dirichlet": (
        TransformedDistribution(Independent(Normal(normals(N, 3), ONE), 1), [StickBreakingTransform()]),
        Dirichlet(torch.ones(4).double()),
    ),
    "relaxed | relaxed": (
        RelaxedOneHotCategorical(torch.tensor(0.7).double(), logits=normals(N, 4)),
        RelaxedOneHotCategorical(torch.tensor(1.0).double(), logits=torch.zeros(4).double()),
    ),
    "relaxed | dirichlet": (
        RelaxedOneHotCategorical(torch.tensor(1.0).double(), logits=normals(N, 4)),
        Dirichlet(torch.ones(4).double()),
    ),
    "one-hot | one-hot": (OneHotCategorical(logits=normals(N, 5)), OneHotCategorical(logits=torch.zeros(5).double())),
    "one-hot by probs | one-hot": (
        OneHotCategorical(probs=normals(N, 4).softmax(1)),
        OneHotCategorical(probs=torch.tensor([0.1, 0.2, 0.3, 0.4]).double()),
    ),
    "mixture of one-hot | one-hot": (
        MixtureSameFamily(Categorical(logits=normals(N, 2)), OneHotCategorical(logits=normals(N, 2, 5))),
        OneHotCategorical(logits=torch.zeros(5).double()),
    ),
    "multinomial | multinomial": (
        Multinomial(5, probs=normals(N, 4).softmax(1)),
        Multinomial(5, probs=torch.tensor([0.1, 0.2, 0.3, 0.4]).double()),
    ),
    "bernoullis | bernoullis": (
        Independent(Bernoulli(logits=normals(N, 3)), 1),
        Independent(Bernoulli(torch.full((3,), 0.4).double()), 1),
    ),
    "full | full": (
        MultivariateNormal(normals(N, 3), covariances(N)),
        MultivariateNormal(torch.zeros(3).double(), covariances(1)[0]),
    ),
    "full | diagonal": (
        MultivariateNormal(normals(N, 3), covariances(N)),
        Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1),
    ),
    "full | mixture of full": (
        MultivariateNormal(normals(N, 3), covariances(N)),
        MixtureSameFamily(Categorical(torch.ones(7).double()), MultivariateNormal(normals(7, 3), covariances(7))),
    ),
    "diagonal | full in float32": (
        Independent(Normal(normals(N, 3), ONE * 0.5), 1),
        MultivariateNormal(torch.zeros(3), covariances(1)[0].float()),
    ),
    "diagonal | low rank in float32": (
        Independent(Normal(normals(N, 3), ONE * 0.5), 1),
        LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 2), torch.ones(3)),
    ),
    "low rank | low rank": (
        LowRankMultivariateNormal(normals(N, 3), normals(N, 3, 1), ONE),
        LowRankMultivariateNormal(torch.zeros(3).double(), torch.ones(3, 2).double(), torch.ones(3).double()),
    ),
    "mixtures of full | normal": (
        MixtureSameFamily(Categorical(logits=normals(N, 4)), MultivariateNormal(normals(N, 4, 3), covariances(N, 4))),
        Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1),
    ),
    "affine of each point's vector | normal": (
        TransformedDistribution(Independent(Normal(normals(N, 3), ONE), 1), [AffineTransform(normals(N, 3, seed=2), ONE, 1)]),
        Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1),
    ),
    "affine of one vector | normal": (
        TransformedDistribution(MultivariateNormal(normals(N, 3), covariances(N)), [AffineTransform(normals(3), 1.0, 1)]),
        Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1),
    ),
    "boxes | normal": (
        Independent(Uniform(normals(N, 3) - 1, normals(N, 3) + 1), 1),
        Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1),
    ),
}


def by_draws(q, p, dtype, rounds=400):
    """KL[q_N||p] by torch alone, from as many draws of every point, and its error."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        drawn = q.sample(torch.Size([rounds]))
    z = drawn.double()  # (rounds, N, D)
    log_q = torch.stack([torch.logsumexp(q.log_prob(row[:, None]).double(), 1) for row in z]) - math.log(N)
    ratio = (log_q - p.log_prob(z.to(dtype)).double()).mean(1)
    return float(ratio.mean()), float(ratio.std()) / math.sqrt(rounds)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_have_the_kl_that_torch_alone_gives_from_many_draws(name):
    q, p = VECTORS[name]
    truth, error = by_draws(quiet(q), quiet(p), torch.float32 if "float32" in name else torch.float64)
    check(estimated(q, p), truth, 4 * error + 1e-6)


def test_weights_that_all_points_share_are_those_of_each():
    weights, components = normals(4), Independent(Normal(normals(N, 4, 3), torch.ones(N, 4, 3).double()), 1)
    shared = estimated(MixtureSameFamily(Categorical(logits=weights), components), None)  # of which torch gives no draws
    each = estimated(MixtureSameFamily(Categorical(logits=weights.expand(N, 4)), components), None)
    assert empirical(shared).value == empirical(each).value


def test_a_purely_categorical_code_is_computed_exactly():
    probs, prior = normals(N, 4).softmax(1), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    report = klprobe.estimate(OneHotCategorical(probs=probs), OneHotCategorical(probs=prior), methods=["closed-form"])
    mean = probs.mean(0)
    assert report.brackets["empirical"].upper.value == pytest.approx(float((mean * (mean / prior).log()).sum()), rel=1e-12)
    assert report.mutual_information.value == pytest.approx(float((probs * (probs / mean).log()).sum(1).mean()), rel=1e-10)
    exact = sorted(e.value for e in Classes(probs, prior).estimates() if e.quantity in ("kl", "leave-one-out"))
    assert sorted(e.value for e in report.estimates if e.method == "closed-form") == pytest.approx(exact, rel=1e-10)


def test_classes_that_the_prior_rules_out_cost_nothing_where_q_never_takes_them():
    some = torch.cat([torch.zeros(N, 1).double(), normals(N, 3).softmax(1)], 1)
    prior = OneHotCategorical(probs=torch.tensor([0.0, 0.2, 0.4, 0.4], dtype=torch.float64))
    mean = some.mean(0)[1:]
    truth = float((mean * (mean / prior.probs[1:]).log()).sum())
    check(estimated(OneHotCategorical(probs=some), prior), truth, 1e-9)


NORMAL = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
GAUSSIANS = Independent(Normal(normals(N, 3), ONE * 0.5), 1)
OUTSIDE = {
    "normal | box": (GAUSSIANS, Independent(Uniform(-torch.ones(3), torch.ones(3)), 1)),
    "normal | gamma": (GAUSSIANS, Independent(Gamma(torch.ones(3), torch.ones(3)), 1)),
    "normal | exponential": (GAUSSIANS, Independent(Exponential(torch.ones(3)), 1)),
    "laplace | box": (Independent(Laplace(normals(N, 3), ONE), 1), Independent(Uniform(-torch.ones(3), torch.ones(3)), 1)),
    "box | smaller box": (
        Independent(Uniform(-2 * ONE, 2 * ONE), 1),
        Independent(Uniform(-torch.ones(3), torch.ones(3)), 1),
    ),
    "one-hot | a class ruled out": (
        OneHotCategorical(probs=normals(N, 4).softmax(1)),
        OneHotCategorical(probs=torch.tensor([0.0, 0.2, 0.4, 0.4])),
    ),
    "bernoulli | a certain one": (
        Independent(Bernoulli(ONE / 3), 1),
        Independent(Bernoulli(torch.tensor([1.0, 0.5, 0.5])), 1),
    ),
    "multinomial | another count": (
        Multinomial(5, probs=normals(N, 4).softmax(1)),
        Multinomial(6, probs=torch.ones(4).double() / 4),
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_mass_outside_of_the_priors_support_is_said_to_make_the_kl_infinite(name):
    report = estimated(*OUTSIDE[name])
    for bracket in report.brackets.values():
        assert bracket.lower.value is None
        assert bracket.lower.reason.startswith("infinite")
    assert "infinite" in report.advice
    assert all(check.passed for check in report.checks if check.severity == "error")
    report.to_json()


REFUSED = {
    "one-hot | default": (OneHotCategorical(logits=normals(N, 4)), None, "is discrete, and the prior"),
    "dirichlet | default": (Dirichlet(normals(N, 4).exp()), None, "simplex"),
    "normal | dirichlet": (GAUSSIANS, Dirichlet(torch.ones(3)), "simplex"),
    "normal | bernoulli": (GAUSSIANS, Independent(Bernoulli(torch.ones(3) / 2), 1), "discrete"),
    "poisson | gamma": (Independent(Poisson(ONE), 1), Independent(Gamma(torch.ones(3), 1.0), 1), "discrete"),
    "aggregate of one-hot as prior of a normal": (
        Independent(Normal(normals(N, 4), 1.0), 1),
        AggregatePosterior(OneHotCategorical(logits=normals(N, 4))),
        "discrete",
    ),
    "bare normal": (Normal(normals(N, 3), 1.0), None, r"Independent\(Normal"),
    "one latent without its dimension": (Normal(normals(N), 1.0), None, r"shape \(N, 1\)"),
    "categorical": (Categorical(logits=normals(N, 4)), None, "OneHotCategorical"),
    "one-hot groups": (Independent(OneHotCategorical(logits=normals(N, 2, 4)), 1), None, "klprobe.Classes"),
    "cholesky factors": (LKJCholesky(3, torch.ones(N)), None, "flattened"),
    "bare prior": (GAUSSIANS, Normal(torch.zeros(3), 1.0), r"Independent\(Normal"),
    "prior of another width": (GAUSSIANS, Independent(Normal(torch.zeros(4), 1.0), 1), "has 4"),
    "no density": (
        Independent(TransformedDistribution(Normal(normals(N, 3), 1.0), [AbsTransform()]), 1),
        None,
        "cannot be undone",
    ),
    "negative scale": (Independent(Laplace(normals(N, 3), -ONE, validate_args=False), 1), None, "scale"),
    "nan": (Independent(Laplace(ONE.log() / 0 * 0, ONE, validate_args=False), 1), None, "loc"),
    "nan in the prior": (GAUSSIANS, Independent(Laplace(torch.full((3,), math.nan), 1.0, validate_args=False), 1), "loc"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused_in_a_sentence(name):
    q, p, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as refused:
        estimated(q, p)
    assert "\n" not in str(refused.value)


class Tilted(torch.distributions.Transform):
    """A user's transform that shifts each data point by a vector of its own, in a way that nobody can know."""

    domain = codomain = torch.distributions.constraints.real_vector
    bijective = True

    def __init__(self, shift):
        super().__init__()
        self.held = [shift]

    def _call(self, x):
        return x + self.held[0]

    def _inverse(self, y):
        return y - self.held[0]

    def log_abs_det_jacobian(self, x, y):
        return torch.zeros(x.shape[:-1], dtype=x.dtype)


def test_a_transform_that_hides_what_belongs_to_which_point_is_refused():
    q = TransformedDistribution(Independent(Normal(normals(N, 3), ONE), 1), [Tilted(normals(N, 3, seed=5))])
    with pytest.raises(InputError, match="subclass ConditionalDistribution"):
        estimated(q, None)


def test_a_transform_that_all_points_share_is_used():
    shift = normals(3)
    q = TransformedDistribution(Independent(Normal(normals(N, 3), ONE), 1), [Tilted(shift)])
    same = Independent(Normal(normals(N, 3) + shift, ONE), 1)
    truth = empirical(estimated(same, None, 20_000))
    check(estimated(q, None), truth.value, 4 * truth.std_error)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if "pareto" not in name])
def test_a_subset_of_the_points_keeps_each_points_density(name):
    q = as_posterior(as_posterior_of(CONTINUOUS[name][1]))
    points = torch.tensor([3, 0, N - 1, 3])
    z = q.sample_at(points, torch.Generator().manual_seed(0))
    pairs = q.log_prob_matrix(z, points)
    torch.testing.assert_close(pairs.diagonal(), q.log_prob_at(z, points), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.select(points).log_prob_at(z, torch.arange(4)), pairs.diagonal(), rtol=1e-10, atol=1e-10)


def test_blocks_change_neither_densities_nor_what_draws_are_of(monkeypatch):
    prior = MixtureSameFamily(
        Categorical(torch.ones(61)), MultivariateNormal(normals(61, 5).float(), covariances(61, dim=5).float())
    )
    z = sample_prior(prior, 3000, torch.Generator().manual_seed(0))
    whole = prior_log_prob(prior, z)
    monkeypatch.setattr(families, "NUMBERS", 61 * 5 * 5 * 100)
    torch.testing.assert_close(prior_log_prob(prior, z), whole, rtol=1e-12, atol=1e-12)
    again = sample_prior(prior, 3000, torch.Generator().manual_seed(0))
    error = (z.var(0) + again.var(0)).div(3000).sqrt()
    assert ((again.mean(0) - z.mean(0)).abs() < 5 * error).all()


def test_many_full_components_in_many_latents_are_drawn_and_scored_in_little_memory(monkeypatch):
    seen = []
    prior = MixtureSameFamily(Categorical(torch.ones(61)), MultivariateNormal(normals(61, 20), covariances(61, dim=20)))
    draw = MultivariateNormal.rsample
    monkeypatch.setattr(MultivariateNormal, "rsample", lambda self, shape=(): seen.append(shape[0]) or draw(self, shape))
    assert sample_prior(prior, 2000, torch.Generator().manual_seed(0)).shape == (2000, 20)
    assert max(seen) * 61 * 20 * 20 <= families.NUMBERS  # 160,000 at once asked for 31 GB


def test_formulas_of_torch_that_are_wrong_or_do_not_broadcast_are_not_believed():
    q, p = (CONTINUOUS["continuous bernoulli | uniform"][i] for i in (1, 2))
    assert conditional_kl(as_posterior(as_posterior_of(q)), p) is None  # torch says infinite
    q, p = COUNTS["bernoulli | bernoulli"]  # an IndexError in torch
    exact = conditional_kl(as_posterior(as_posterior_of(q)), p)
    a = q.probs[:, 0]
    torch.testing.assert_close(exact, a * (a / 0.3).log() + (1 - a) * ((1 - a) / 0.7).log())


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (OneHotCategorical(logits=normals(N, 4)), OneHotCategorical(logits=torch.zeros(4))),
        (Dirichlet(normals(N, 4).exp() + 0.5), Dirichlet(torch.ones(4))),
    ],
)
@pytest.mark.parametrize("method", [Knn(), Gmm()])
def test_methods_that_need_volume_refuse_codes_without(q, p, method):
    with pytest.raises(InputError, match="monte-carlo"):
        method.estimate(q, p, generator=torch.Generator().manual_seed(0))
    assert klprobe.estimate(q, p, methods=["closed-form", method]).not_done[0].reason


def test_active_units_are_not_known_where_the_mean_is_no_number():
    report = estimated(
        Independent(Cauchy(normals(N, 2), torch.ones(N, 2).double()), 1), Independent(Cauchy(torch.zeros(2), 1.0), 1)
    )
    assert report.active_units is None


def test_closed_form_draws_where_there_is_no_formula():
    q, p = CONTINUOUS["normal | cauchy"][1:]
    (average,) = [
        e
        for e in ClosedForm().estimate(as_posterior_of(q), p, generator=torch.Generator().manual_seed(0))
        if e.quantity == "average-kl"
    ]
    assert not average.details["closed_form"]


class Wrong(torch.distributions.Distribution):
    """A user's prior whose log_prob forgets to add up the latents."""

    def __init__(self, dim):
        super().__init__(torch.Size(), torch.Size([dim]), validate_args=False)

    def log_prob(self, z):
        return -0.5 * z.square()


def test_a_log_prob_of_the_wrong_shape_is_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"gives shape \(5, 3\) for codes of shape \(5, 3\)"):
        prior_log_prob(Wrong(3), normals(5, 3))


def test_a_prior_with_gradients_and_one_in_float32_are_taken():
    z = normals(20, 3)
    trained = Independent(Normal(torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)), 1)
    assert not prior_log_prob(trained, z).requires_grad
    assert not sample_prior(trained, 5, torch.Generator().manual_seed(0)).requires_grad
    torch.testing.assert_close(prior_log_prob(NORMAL, z), Normal(0.0, 1.0).log_prob(z).sum(1))


@pytest.mark.parametrize("method", ["gmm", "maf"])
def test_a_density_model_says_that_the_kl_is_infinite_and_needs_no_fit_for_it(method):
    q = klprobe.SampleOnly(normals(200, 3))
    report = klprobe.estimate(q, Independent(Uniform(-torch.ones(3), torch.ones(3)), 1), methods=[method], marginals=False)
    assert report.brackets["population"].lower.reason.startswith("infinite")
    assert report.verdict == "resolved"
