import math

import pytest

from klprobe.estimation import verdict
from klprobe.estimation.identities import check_identities
from klprobe.estimation.verdict import Facts
from klprobe.types import Estimate, Quantity

NOTHING = Quantity(None, None, "not computed")


def say(method, target, bound, value, error=0.01, quantity="kl", **details):
    return Estimate(method, target, bound, value, error, quantity, details=details)


def facts(num_points=1000, average=5.0, information=3.0, correlation=0.1, **more):
    return Facts(num_points, Quantity(average, 0.02), Quantity(information, 0.02), Quantity(correlation, 0.02), **more)


SANDWICH = [
    say("closed-form", "population", "upper", 5.0),
    say("monte-carlo", "empirical", "exact", 2.0),
    say("monte-carlo", "population", "upper", 2.0),
    say("monte-carlo", "population", "lower", 1.5, quantity="leave-one-out"),
    say("gmm", "population", "lower", 1.7),
    say("classifier", "population", "none", 9.0, quantity="mean-logit"),
]


def conclude(facts, estimates):
    brackets = {target: verdict.bracket(estimates, target) for target in verdict.TARGETS}
    checks = [*verdict.check_estimates(facts, estimates), *check_identities(facts, estimates, None)]
    return verdict.verdict(facts, estimates, brackets, checks)


def test_a_bracket_takes_the_best_bound_of_its_own_target_and_ignores_what_bounds_nothing():
    population = verdict.bracket(SANDWICH, "population")
    assert (population.lower.method, population.lower.value) == ("gmm", 1.7)
    assert (population.upper.method, population.upper.value) == ("monte-carlo", 2.0)
    empirical = verdict.bracket(SANDWICH, "empirical")
    assert empirical.lower.value == empirical.upper.value == 2.0


def test_a_noisy_bound_does_not_win_by_luck():
    estimates = [say("gmm", "population", "lower", 1.0, 0.01), say("maf", "population", "lower", 1.1, 0.5)]
    assert verdict.bracket(estimates, "population").lower.method == "gmm"


def test_a_kl_is_never_bounded_from_below_by_less_than_zero():
    population = verdict.bracket([say("monte-carlo", "population", "lower", -14.0)], "population")
    assert (population.lower.value, population.lower.method) == (0.0, "non-negativity")
    assert population.upper.value is None
    assert population.upper.reason
    assert population.interval == (0.0, None)


def test_the_interval_covers_both_ends_with_room_for_every_candidate():
    low, high = verdict.bracket(SANDWICH, "population").interval
    assert 1.7 - 4 * 0.01 < low < 1.7 - 1.96 * 0.01
    assert 2.0 + 1.96 * 0.01 < high < 2.0 + 4 * 0.01


def test_values_that_are_not_finite_enter_no_bracket():
    estimates = [say("maf", "population", "lower", math.nan), say("gmm", "population", "lower", 0.5, math.inf), *SANDWICH]
    assert verdict.bracket(estimates, "population").lower.value == 1.7


@pytest.mark.parametrize(
    ("case", "estimates", "expected"),
    [
        (facts(), SANDWICH, "resolved"),
        (facts(information=6.6, average=8.6), SANDWICH[1:], "floor-limited"),
        (facts(), [*SANDWICH, say("maf", "population", "lower", 2.2)], "methods-disagree"),
        (facts(average=1.0), SANDWICH, "impossible"),
        (facts(information=7.5), SANDWICH, "impossible"),
        (facts(), [*SANDWICH, say("x", "empirical", "upper", -0.5)], "impossible"),
        (facts(), [*SANDWICH, say("x", "empirical", "none", math.nan)], "impossible"),
    ],
)
def test_the_verdict_follows_from_what_was_found(case, estimates, expected):
    assert conclude(case, estimates)[0] == expected


def test_four_standard_errors_are_forgiven():
    almost = [*SANDWICH, say("maf", "population", "lower", 2.05)]
    assert conclude(facts(), almost)[0] == "resolved"
    assert conclude(facts(information=6.95, average=8.95, num_points=1000), SANDWICH[1:])[0] == "floor-limited"


def test_draws_that_do_not_follow_their_density_fail_the_identity():
    wrong = say("monte-carlo", "empirical", "exact", 2.0, plain_average_kl={"value": 6.0, "std_error": 0.1})
    failed = [c.name for c in verdict.check_estimates(facts(), [wrong]) if not c.passed and c.severity == "error"]
    assert failed == ["average-kl-identity"]


def test_the_ceiling_says_how_many_points_it_would_take():
    """I is between 6.6 (found) and average KL - lower bound = 8.6 - 1.7."""
    _, advice = conclude(facts(average=8.6, information=6.6), SANDWICH[1:])
    assert "more than 1,000 points" in advice
    assert f"{math.exp(8.6 - 1.7):,.0f}" in advice


@pytest.mark.parametrize(
    ("split", "trained_on", "severity", "passed", "said"),
    [
        ("train", "train", "warning", False, "was trained on ('train')"),
        ("all", "train", "warning", False, "was trained on ('train')"),
        ("test", "all", "warning", False, "was trained on ('all')"),
        ("all", "all", "warning", False, "was trained on ('all')"),
        ("test", "train", "warning", True, "the encoder was not trained on these points"),
        ("validation", "train", "warning", True, "the encoder was not trained on these points"),
        ("unknown", "unknown", "unknown", False, "is unknown"),
        ("all", "unknown", "unknown", False, "is unknown"),
        ("test", "unknown", "unknown", False, "is unknown"),
        ("unknown", "train", "unknown", False, "is unknown"),
        ("unknown", "all", "unknown", False, "is unknown"),
    ],
)
def test_points_are_held_out_or_trained_on_or_unknown_and_nothing_else(split, trained_on, severity, passed, said):
    checks = verdict.check_estimates(facts(split=split, trained_on=trained_on), SANDWICH)
    check = next(c for c in checks if c.name == "held-out-points")
    assert (check.severity, check.passed) == (severity, passed)
    assert said in check.message
    assert ("was not trained on these points" in check.message) == passed


@pytest.mark.parametrize(("value", "expected"), [(0.5, "resolved"), (0.01, "floor-limited")])
def test_an_encoder_of_samples_only_gets_a_lower_bound_in_words(value, expected):
    case = Facts(1000, NOTHING, NOTHING, NOTHING, has_density=False, deterministic=True)
    said, advice = conclude(case, [say("gmm", "population", "lower", value)])
    assert said == expected
    assert "no upper bound" in advice
    assert "infinite" in advice


def test_a_lower_bound_at_its_own_ceiling_is_not_mistaken_for_the_size_of_the_kl():
    case = Facts(4000, NOTHING, NOTHING, NOTHING, has_density=False)
    limits = {"ceiling": math.log(800) - 5, "prior_samples": 800}
    for share, told in ((0.98, True), (0.2, False)):
        _, advice = conclude(case, [say("critic", "population", "lower", 1.6, quantity="nwj", clipped_share_q=share, **limits)])
        assert ("log n - 4 = 2.68, n = 800 prior samples" in advice) is told
    assert "log n" not in conclude(case, [say("gmm", "population", "lower", 1.6)])[1], "a density model has none"


def test_an_estimate_that_bounds_nothing_is_not_contradicted():
    case = Facts(4000, NOTHING, NOTHING, NOTHING, has_density=False)
    said, advice = conclude(case, [say("denoising", "population", "none", 1.0)])
    assert said == "floor-limited"
    assert "No lower bound shows a difference" in advice, "denoising did find one"
