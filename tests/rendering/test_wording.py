"""Numbers and brackets in words: what a reader is told is what the numbers say."""

import dataclasses
import math

import pytest

from klprobe.rendering import wording
from klprobe.types import Bracket, Side


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (8.2134, 0.0912, "8.213 ± 0.091"),
        (8.2134, 0.12, "8.21 ± 0.12"),
        (-14.3, 0.31, "-14.30 ± 0.31"),
        (19.0412, 0.0, "19.04"),
        (720140.922, 5311.3, "720141 ± 5311"),
        (0.0, 0.0, "0"),
        (0.00004, 0.0, "4.000e-05"),
        (1e9, 2e7, "1.000e+09 ± 2.0e+07"),
        (1.5, 1e-9, "1.500 ± 1.0e-09"),
        (0.61, math.inf, "0.6100 ± unknown"),
        (0.61, None, "0.6100 ± unknown"),
        (math.inf, math.nan, "infinite"),
        (-math.inf, 1.0, "-infinite"),
        (math.nan, 1.0, "NaN"),
        (None, None, "-"),
    ],
)
def test_a_value_is_rounded_to_two_digits_of_its_error(value, error, text):
    assert str(wording.number(value, error)) == text


def bracketed(report, lower, upper, interval=None):
    ends = [Side(*end, "gmm") if end else Side(None, None, None, "no method") for end in (lower, upper)]
    return dataclasses.replace(report, brackets={"population": Bracket(*ends, interval), "empirical": Bracket(*ends)})


@pytest.mark.parametrize(
    ("lower", "upper", "said"),
    [
        ((0.693, 0.02), (8.21, 0.1), "between 0.693 and 8.21 nats"),
        ((8.2101, 0.0001), (8.2104, 0.0001), "between 8.2101 and 8.2104 nats"),
        ((8.2101, 0.02), (8.2104, 0.1), "about 8.21 nats"),
        ((31.52280001, 0.0), (31.52280002, 1e-12), "31.5228 nats"),
        ((-0.01, 0.02), (0.004, 0.02), "at most 0.00400 nats"),
        ((8.21, 0.09), (8.21, 0.09), "8.210 ± 0.090 nats"),
        ((0.0, 0.0), (8.21, 0.1), "at most 8.21 nats"),
        ((-14.3, 0.3), (8.21, 0.1), "at most 8.21 nats"),
        ((0.72, 0.02), None, "at least 0.720 nats; no upper bound"),
        ((-0.1, 0.02), None, "0 or more nats: no bound above 0"),
        (None, (8.21, 0.1), "at most 8.21 nats"),
        ((0.72, 0.02), (math.inf, math.nan), "at least 0.720 nats; no upper bound"),
        ((0.231, 0.011), (0.225, 0.017), "about 0.228 nats"),
        (None, None, "not known: no method gave a bound"),
    ],
)
def test_the_headline_says_what_the_bracket_holds(report_of, lower, upper, said):
    assert wording.headline(bracketed(report_of("easy"), lower, upper), "population") == said


@pytest.mark.parametrize("verdict", ["methods-disagree", "impossible"])
def test_bounds_that_contradict_each_other_are_never_averaged(report_of, verdict):
    report = dataclasses.replace(bracketed(report_of("easy"), (2.31, 0.04), (1.56, 0.05)), verdict=verdict)
    assert wording.headline(report, "population") == "a contradiction: at least 2.31 and at most 1.56 nats"


def test_sides_name_each_ends_method_error_and_interval(report_of):
    report = bracketed(report_of("easy"), (0.693, 0.02), None, (0.65, None))
    said = wording.sides(report, "population")
    assert said == "lower 0.693 ± 0.020 by gmm; no upper bound (no method); 95 % interval 0.650 to no upper limit"


def test_the_estimates_that_set_a_bracket_are_marked_even_when_the_side_names_the_quantity(report_of):
    report = report_of("easy")  # its population's lower side is `monte-carlo (leave-one-out)`
    marked = {(e.method, e.quantity, e.target) for e in report.estimates if wording.sets_bracket(report, e)}
    assert marked == {
        ("monte-carlo", "kl", "empirical"),
        ("monte-carlo", "kl", "population"),
        ("monte-carlo", "leave-one-out", "population"),
    }


def test_the_source_says_so_when_the_encoder_was_trained_on_the_points(report_of):
    report = report_of("easy")
    for split, trained_on, seen in [("train", "train", True), ("all", "train", True), ("test", "train", False)]:
        given = dataclasses.replace(report, provenance={"split": split, "trained_on": trained_on})
        assert ("trained on" in wording.source(given)) == seen
    assert wording.source(dataclasses.replace(report, provenance={})) == "N = 60,000 points, D = 10 latents"


def test_one_reason_is_said_once_and_different_ones_are_both_said(report_of):
    assert wording.identity(report_of("sample_only")).count("needs log q(z|x)") == 1
    assert "infinite = KL[q_N||p] + mutual information NaN" in wording.identity(report_of("infinite"))


def test_plain_text_keeps_its_meaning_without_unicode():
    assert wording.ascii_only("0 ≤ KL ≤ 8.2 ± 0.1, e^MI ≈ 50,000\N{EM DASH}β") == "0 <= KL <= 8.2 +- 0.1, e^MI ~ 50,000-?"
