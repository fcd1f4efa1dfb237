import math

import pytest

from klprobe.estimation.identities import check_identities
from klprobe.estimation.verdict import Facts, bracket, verdict
from klprobe.types import Estimate, PartReport, Quantity

NAMES = [
    "information-within-its-bounds",
    "kl-is-average-less-information",
    "leave-one-out-below-empirical",
    "latents-below-whole",
    "lower-below-upper",
]
UNKNOWN = Quantity(None, None, "not computed")


def facts(average=5.0, information=3.0, error=0.02, num_points=1000):
    return Facts(num_points, Quantity(average, 0.02), Quantity(information, error), UNKNOWN)


def estimates(kl=2.0, left_out=1.5, error=0.01, more=()):
    return [
        Estimate("monte-carlo", "empirical", "exact", kl, error),
        Estimate("monte-carlo", "population", "upper", kl, error),
        Estimate("monte-carlo", "population", "lower", left_out, error, "leave-one-out"),
        *more,
    ]


def broken(*arguments):
    return [check.name for check in check_identities(*arguments) if not check.passed]


def test_a_report_that_contradicts_nothing_breaks_none():
    assert broken(facts(), estimates(), [0.5, 0.0, 1.4]) == []
    assert [check.name for check in check_identities(facts(), estimates(), None)] == NAMES


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((facts(information=-0.2, average=1.8), estimates(), None), "information-within-its-bounds"),
        ((facts(information=7.2, average=9.2), estimates(), None), "information-within-its-bounds"),
        ((facts(information=1.2, average=1.0), estimates(-0.2, -0.3), None), "information-within-its-bounds"),
        ((facts(information=math.nan), estimates(), None), "information-within-its-bounds"),
        ((facts(information=2.5), estimates(), None), "kl-is-average-less-information"),
        ((facts(), estimates(left_out=2.2), None), "leave-one-out-below-empirical"),
        ((facts(), estimates(), [0.5, -0.1]), "latents-below-whole"),
        ((facts(), estimates(), [1.5, 1.5, math.nan]), "latents-below-whole"),
        ((facts(), estimates(more=[Estimate("maf", "population", "lower", 2.2, 0.01)]), None), "lower-below-upper"),
    ],
)
def test_each_identity_that_breaks_is_named(arguments, name):
    assert name in broken(*arguments)


def test_errors_are_allowed_for_but_not_ones_that_excuse_everything():
    """A wrong Cholesky solve once gave an average KL of 4e25 with errors of 1e25, and passed."""
    assert broken(facts(information=3.06), estimates(), None) == []
    assert broken(facts(information=-0.07, average=1.93), estimates(), None) == []
    huge = estimates(4e25, -1e25, 1e25)
    assert "information-within-its-bounds" in broken(facts(26.0, -4e25, 1e25), huge, None)


def test_a_part_obeys_them_too():
    part = PartReport("level 0", "latents", 2, Quantity(1.0, 0.0), Quantity(1.5, 0.01), {}, ())
    checks = check_identities(facts(), estimates(), None, [part])
    assert next(check.message for check in checks if not check.passed).startswith("mutual information of part level 0 1.5")


def conclude(case, found):
    brackets = {target: bracket(found, target) for target in ("empirical", "population")}
    return verdict(case, found, brackets, check_identities(case, found, None))


def test_one_that_breaks_makes_the_verdict_impossible_and_is_named_in_the_advice():
    said, advice = conclude(facts(information=2.5), estimates())
    assert said == "impossible"
    assert "kl-is-average-less-information" in advice


def test_a_learned_bound_that_crosses_is_a_disagreement_and_a_proven_one_is_impossible():
    learned = [Estimate("maf", "population", "lower", 2.2, 0.01)]
    assert conclude(facts(), estimates(more=learned))[0] == "methods-disagree"
    assert conclude(facts(), estimates(left_out=2.2))[0] == "impossible"
    proven = [Estimate("closed-form", "empirical", "upper", 1.9, 0.0)]
    assert conclude(facts(), estimates(more=proven))[0] == "impossible"


def test_what_too_few_draws_see_is_no_contradiction():
    """Three posteriors 6 deviations apart: of 400 draws none lies between, and the KL was 0.002 below its only latent's."""
    draws = [Estimate("monte-carlo", "empirical", "exact", 363.235, 1.8e-5, num_samples=400)]
    case = facts(average=363.235 + 1.0986, information=1.0986, error=1.8e-5, num_points=3)
    assert broken(case, draws, [363.237]) == []
    assert broken(case, draws, [363.3]) == ["latents-below-whole"]
