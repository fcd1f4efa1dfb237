"""A prior of each data point, p(z|x_n): the average KL is right, and what has no meaning is refused with the reason."""

import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Cauchy,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Uniform,
    kl_divergence,
)

import klprobe
from klprobe.cli import main
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.types import InputError

N, D = 300, 3


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


MEAN, PRIOR_MEAN = normals(N, D), normals(N, D, seed=1)
HALF = torch.full((N, D), 0.5).double()
NORMALS = Independent(Normal(MEAN, HALF), 1)
PRIORS = Independent(Normal(PRIOR_MEAN, torch.ones(N, D).double()), 1)
EXACT = {
    "normal | normal": (NORMALS, PRIORS),
    "float32 normal | float32 normal": (
        Independent(Normal(MEAN.float(), HALF.float()), 1),
        Independent(Normal(PRIOR_MEAN.float(), torch.ones(N, D)), 1),
    ),
    "laplace | laplace": (Independent(Laplace(MEAN, HALF), 1), Independent(Laplace(PRIOR_MEAN, torch.ones(N, D).double()), 1)),
    "full | full": (
        MultivariateNormal(MEAN, 0.5 * torch.eye(D).double().expand(N, D, D)),
        MultivariateNormal(PRIOR_MEAN, torch.eye(D).double().expand(N, D, D)),
    ),
    "classes | classes": (OneHotCategorical(logits=normals(N, 4)), OneHotCategorical(logits=normals(N, 4, seed=1))),
    "bernoullis | bernoullis": (
        Independent(Bernoulli(logits=MEAN), 1),
        Independent(Bernoulli(logits=PRIOR_MEAN), 1),
    ),
}


def average(report):
    return report.average_kl.value, report.average_kl.std_error


@pytest.mark.parametrize("name", EXACT)
def test_the_average_kl_is_the_mean_of_torchs_formula(name):
    q, p = EXACT[name]
    report = klprobe.estimate(q, p)
    each = kl_divergence(q, p).double()
    assert average(report) == pytest.approx((float(each.mean()), float(each.std()) / math.sqrt(N)), rel=1e-5)
    assert report.brackets["population"].upper.value == pytest.approx(float(each.mean()), rel=1e-5)
    assert report.verdict == "resolved"
    report.to_json()


def test_the_average_kl_is_drawn_over_pairs_where_there_is_no_formula():
    """KL[N(m, 0.25)||Laplace(c, 1)] in each latent by quadrature."""
    p = Independent(Laplace(PRIOR_MEAN, torch.ones(N, D).double()), 1)
    z = MEAN + HALF * torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None, None]
    weight = Normal(MEAN, HALF).log_prob(z).exp()
    each = (weight * (Normal(MEAN, HALF).log_prob(z) - Laplace(PRIOR_MEAN, 1.0).log_prob(z))).sum(0) * 18 * HALF / 4000
    value, error = average(klprobe.estimate(NORMALS, p))
    assert abs(value - float(each.sum(1).mean())) <= 4 * error
    within = float(each.sum(1).std()) / math.sqrt(N)
    assert within <= error <= 1.5 * within


def test_it_is_an_upper_bound_of_the_kl_between_the_means_of_both():
    whole = klprobe.estimate(NORMALS, AggregatePosterior(PRIORS), methods=["monte-carlo"], marginals=False)
    exact = next(e for e in whole.estimates if (e.method, e.target, e.bound) == ("monte-carlo", "empirical", "exact"))
    upper = klprobe.estimate(NORMALS, PRIORS).brackets["empirical"].upper.value
    assert 0 < exact.value < upper


def test_a_prior_that_is_the_same_for_all_points_gives_the_average_kl_of_that_prior():
    one = Independent(Normal(torch.zeros(D).double(), torch.ones(D).double()), 1)
    same, whole = klprobe.estimate(NORMALS, one.expand((N,))), klprobe.estimate(NORMALS, one, methods=["closed-form"])
    assert average(same)[0] == pytest.approx(average(whole)[0], rel=1e-12)


def test_methods_and_quantities_without_a_meaning_are_named_with_the_reason():
    report = klprobe.estimate(NORMALS, PRIORS, methods=["monte-carlo", "classifier", "closed-form"])
    assert [missing.method for missing in report.not_done] == ["monte-carlo", "classifier"]
    for reason in (report.mutual_information.reason, report.total_correlation.reason, *(m.reason for m in report.not_done)):
        assert "AggregatePosterior(prior)" in reason
    with pytest.raises(InputError, match="need one p"):
        klprobe.estimate(NORMALS, PRIORS, parts={"first": slice(0, 1)})
    with pytest.raises(InputError, match="monte-carlo"):
        klprobe.estimate(NORMALS, PRIORS, methods=["monte-karlo"])


@pytest.mark.parametrize(
    ("q", "p", "words"),
    [
        (SampleOnly(MEAN), PRIORS, "both densities"),
        (NORMALS, Independent(Bernoulli(logits=PRIOR_MEAN), 1), "two kinds"),
        (NORMALS, Independent(Normal(PRIOR_MEAN[:20], 1.0), 1), "N = 300"),
        (NORMALS, Independent(Normal(PRIOR_MEAN[:, :2], 1.0), 1), "event shape"),
    ],
)
def test_priors_that_do_not_fit_are_refused(q, p, words):
    with pytest.raises(InputError, match=words):
        klprobe.estimate(q, p)


def test_infinite_and_heavy_tailed_averages_are_said():
    box = klprobe.estimate(NORMALS, Independent(Uniform(PRIOR_MEAN - 1, PRIOR_MEAN + 1), 1))
    assert box.average_kl.value == math.inf
    assert "infinite" in box.advice
    heavy = klprobe.estimate(Independent(Cauchy(MEAN, HALF), 1), PRIORS)
    assert heavy.verdict == "impossible"


def test_a_file_of_priors_is_held_against_its_own_points(tmp_path, capsys):
    np.savez(tmp_path / "q.npz", mean=MEAN, std=HALF)
    np.savez(tmp_path / "p.npz", mean=PRIOR_MEAN, std=np.ones((N, D)))
    np.savez(tmp_path / "few.npz", mean=PRIOR_MEAN[:20], std=np.ones((20, D)))
    flags = ["estimate", "--checkpoint", f"{tmp_path}/q.npz", "--prior"]
    assert main([*flags, f"conditional:{tmp_path}/p.npz", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    truth = float(kl_divergence(NORMALS, PRIORS).mean())
    assert document["average_kl"]["value"] == pytest.approx(truth, rel=1e-9)
    assert document["not_done"] == []
    assert main([*flags, f"conditional:{tmp_path}/p.npz"]) == 0
    assert "AggregatePosterior" in capsys.readouterr().out
    assert main([*flags, f"conditional:{tmp_path}/few.npz"]) == 2
    assert "N = 300" in capsys.readouterr().err


def test_klprobes_own_posteriors_are_priors_of_each_point_too():
    p = DiagonalGaussian(PRIOR_MEAN, logvar=torch.zeros(N, D).double())
    assert average(klprobe.estimate(NORMALS, p))[0] == pytest.approx(float(kl_divergence(NORMALS, PRIORS).mean()), rel=1e-12)
