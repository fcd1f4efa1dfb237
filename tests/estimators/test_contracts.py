"""What every estimator promises beside the right number (`test_truth.py`), run over whatever files the folder holds."""

import dataclasses
import functools
import json
import math

import pytest
import torch

from klprobe import registry
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, standard_normal
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.types import NOT_A_KL, Estimate, Estimator, InputError

QUICK = {"steps": 300, "num_samples": 2000, "num_prior_samples": 20_000, "components": 5, "centres": 50, "fit_samples": 1000}
"""Settings that make a fit take a second; an estimator takes those that it has."""
NAMES = registry.names("estimators")


def make(name):
    kind = registry.load("estimators", name)
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in QUICK.items() if key in fields})


def run(name, posterior, prior, seed=0):
    return make(name).estimate(posterior, prior, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def problem():
    return linear_gaussian_encoder(3, 400, 0.4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(problem):
    """From the name of an estimator to its estimates; each is run once, and only when it is asked for."""
    return functools.cache(lambda name: run(name, problem.posterior, problem.prior))


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_is_a_frozen_dataclass_whose_fields_are_documented_flags(name):
    kind = registry.load("estimators", name)
    assert isinstance(kind(), Estimator)
    assert kind.__dataclass_params__.frozen
    assert kind.requires <= {"posterior-density", "prior-density", "volume"}
    assert registry.describe("estimators", name).endswith(".")
    assert hash(make(name)) == hash(make(name))


@pytest.mark.parametrize("name", NAMES)
def test_estimates_say_who_what_of_which_kl_and_on_which_side(name, found):
    keys = [(e.quantity, e.target, e.bound) for e in found(name)]
    assert len(keys) == len(set(keys)) > 0
    for e in found(name):
        assert isinstance(e, Estimate)
        assert e.method == name
        assert e.target in ("empirical", "population")
        assert e.bound in ("exact", "lower", "upper", "none")
        assert math.isfinite(e.value)
        assert e.std_error >= 0
        assert e.seconds >= 0
        json.dumps(dict(e.details), allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name, found, problem):
    again = run(name, problem.posterior, problem.prior)
    assert [(e.value, e.std_error) for e in again] == [(e.value, e.std_error) for e in found(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_match_is_not_told_from_zero_by_a_bound(name):
    """q(z) = p(z): every lower bound is at most the KL and every upper bound at least, within 5 errors.

    Of the population the KL is 0; of the 400 points it is what 20,000 draws of their mixture say, to 0.01 nats.
    """
    rng = torch.Generator().manual_seed(2)
    q = DiagonalGaussian(0.8 * torch.randn(400, 2, generator=rng).double(), std=torch.full((400, 2), 0.6).double())
    z = q.sample_at(torch.arange(20_000) % 400, rng)
    log_q = torch.logsumexp(q.log_prob_matrix(z, torch.arange(400)), 1) - math.log(400)
    truth = {"population": 0.0, "empirical": float((log_q - standard_normal(2).log_prob(z)).mean())}
    bounds = [e for e in run(name, q, standard_normal(2)) if e.quantity not in NOT_A_KL]
    assert bounds
    for e in bounds:
        if e.bound in ("lower", "exact"):
            assert e.value <= truth[e.target] + 5 * e.std_error + 0.02
        if e.bound in ("upper", "exact"):
            assert e.value >= truth[e.target] - 5 * e.std_error - 0.02


@pytest.mark.parametrize("name", NAMES)
def test_samples_alone_are_used_or_refused_with_the_reason(name, problem):
    samples = SampleOnly(problem.posterior.sample_at(torch.arange(400), torch.Generator().manual_seed(0)))
    if "posterior-density" in registry.load("estimators", name).requires:
        with pytest.raises(InputError, match="samples"):
            run(name, samples, problem.prior)
    else:
        assert {e.target for e in run(name, samples, problem.prior)} == {"population"}


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_of_another_dimension_is_refused(name, problem):
    with pytest.raises(InputError, match="3 latents"):
        run(name, problem.posterior, standard_normal(4))


@pytest.mark.parametrize("name", NAMES)
def test_progress_is_told_and_ends_at_its_total(name, problem):
    seen = []
    make(name).estimate(
        problem.posterior,
        problem.prior,
        generator=torch.Generator().manual_seed(0),
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    if seen:
        assert seen[-1][0] == pytest.approx(seen[-1][1])
