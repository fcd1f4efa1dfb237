"""Reports as real runs give them, and as unlucky ones do: numbers in the manner of three published encoders."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from klprobe.estimation.report import Report
from klprobe.types import Bracket, Check, Estimate, NotDone, Quantity, RadiusHistogram, Side

INF, NAN = math.inf, math.nan
NO_DENSITY = "needs log q(z|x), but this encoder gives samples only"


def curves(steps, start, end, best):
    at = np.unique(np.linspace(1, steps, 100).astype(int))
    fall = end + (start - end) * np.exp(-8 * at / steps)
    rise = np.maximum(0, at - best) / steps * 0.4
    train = [[int(s), float(v)] for s, v in zip(at, fall, strict=True)]
    held_out = [[int(s), float(v)] for s, v in zip(at[::4], (fall + 0.05 + rise)[::4], strict=True)]
    return {"curves": {"train": train, "validation": held_out}, "chosen_step": best}


def radii(dim):
    edges = np.linspace(0, 1.6 * math.sqrt(dim) + 2.5, 41)
    middle = (edges[1:] + edges[:-1]) / 2
    return RadiusHistogram(tuple(edges), tuple(stats.chi(dim).pdf(middle / 1.15) / 1.15), tuple(stats.chi(dim).pdf(middle)))


def side(e):
    return Side(e.value, e.std_error, e.method if e.quantity == "kl" else f"{e.method} ({e.quantity})")


def bounds(average, average_error, log_n):
    return [
        Estimate("closed-form", "empirical", "upper", average, 0.0),
        Estimate("closed-form", "empirical", "lower", average - log_n, 0.0),
        Estimate("closed-form", "population", "upper", average, average_error),
    ]


def learned(method, population, empirical, error, seconds, details, quantity="kl", bound="lower"):
    return [
        Estimate(method, target, bound, value, err, quantity, 60000, seconds, details)
        for target, value, err in (("population", population, error * 1.5), ("empirical", empirical, error))
    ]


def full(name, dim, average, information, kl, kl_error, loo, gmm, maf, lstm, verdict, advice):
    """All five methods on 60,000 points."""
    log_n = math.log(60000)
    nets = curves(4000, 0.69, 0.42, 2800)
    estimates = [
        *bounds(average, 0.011, log_n),
        Estimate("monte-carlo", "empirical", "exact", kl, kl_error, "kl", 2000, 1.31),
        Estimate("monte-carlo", "population", "upper", kl, kl_error * 1.3, "kl", 2000, 1.31),
        Estimate("monte-carlo", "population", "lower", loo, 0.31, "leave-one-out", 2000, 1.31),
        *learned("classifier", maf * 0.97, maf * 0.98, 0.02, 48.2, nets, "mean-logit", "none"),
        *learned("classifier", maf * 0.93, maf * 0.94, 0.021, 48.2, nets, "donsker-varadhan"),
        *learned("classifier", maf * 0.92, maf * 0.93, 0.024, 48.2, nets, "nwj"),
        *learned("classifier", maf * 0.99, maf * 1.01, 0.05, 48.2, nets, "donsker-varadhan-unclipped", "none"),
        *learned("classifier", maf * 0.98, maf * 1.02, 0.06, 48.2, nets, "nwj-unclipped", "none"),
        *learned("gmm", gmm, gmm * 1.02, 0.012, 8.4, curves(600, 15.1, 13.2, 480)),
        *learned("maf", maf, maf * 1.03, 0.013, 40.3, curves(6000, 190.0, 12.9, 3900)),
        *learned("lstm", lstm, lstm * 1.01, 0.015, 71.9, curves(3000, 18.0, 13.4, 2900)),
    ]
    lower = max((e for e in estimates if e.target == "population" and e.bound == "lower"), key=lambda e: e.value)
    exact = estimates[3]
    sizes = np.exp(-0.35 * np.arange(dim)) * kl / 4
    order = np.random.default_rng(0).permutation(dim)
    return Report(
        latent_dim=dim,
        num_points=60000,
        log_n=log_n,
        average_kl=Quantity(average, 0.011),
        mutual_information=Quantity(information, kl_error),
        total_correlation=Quantity(kl - float(sizes.sum()), kl_error),
        dimensionwise_kl=tuple(float(v) for v in sizes[order]),
        active_units=dim,
        estimates=tuple(estimates),
        brackets={
            "empirical": Bracket(side(exact), side(exact), (kl - 2.2 * kl_error, kl + 2.2 * kl_error)),
            "population": Bracket(side(lower), side(estimates[4]), (lower.value - 0.03, kl + 3 * kl_error)),
        },
        verdict=verdict,
        advice=advice,
        checks=(
            Check("kl-not-negative", "error", True, "0 <= KL"),
            Check("mutual-information-at-most-log-n", "error", True, "0 <= MI <= log N"),
            Check("split", "warning", False, "These are the points that the encoder was trained on: use --split test."),
        ),
        radius=radii(dim),
        provenance={
            "input": f"{name}.npz",
            "split": "train",
            "trained_on": "train",
            "seed": 0,
            "prior": "N(0, I)",
            "methods": {"monte-carlo": {"num_samples": 2000}, "gmm": {"components": 100}},
            "versions": {"klprobe": "0.1.0", "torch": "2.13.0"},
            "device": "cpu",
            "commit": "0123abc",
        },
    )


def easy():
    return full("joint-vae-fashion", 10, 5.14, 4.915, 0.225, 0.013, 0.219, 0.20, 0.212, 0.18, "resolved", (
        "The aggregate posterior is 0.2 nats from its prior, whether these points or all data are meant. "
        "Samples of the prior land where the decoder was trained."
    ))  # fmt: skip


def between():
    return full("beta-vae-mnist", 10, 10.75, 9.195, 1.555, 0.041, -0.27, 0.61, 0.72, 0.55, "resolved", (
        "The population's KL lies between 0.7 and 1.6 nats. About 10,000 more points narrow it from above."
    ))  # fmt: skip


def floor_limited():
    return full("factor-vae-mnist", 10, 19.04, 10.83, 8.21, 0.09, -14.3, 0.693, 0.607, 0.52, "floor-limited", (
        "Mutual information is 10.83 of at most log N = 11.00 nats: each point is its own island, and 8.21 nats is what N "
        "points can show, not what the model is. It would take at least e^10.8 = 50,000 points, and probably many more: "
        "give more points, or trust the lower bound."
    ))  # fmt: skip


def change(report, **fields):
    return dataclasses.replace(report, **fields)


def only_population(report):
    return tuple(
        dataclasses.replace(e, value=e.value) for e in report.estimates if e.method in ("classifier", "gmm", "maf", "lstm")
    )


def sample_only():
    base = between()
    nothing = Quantity(None, None, NO_DENSITY)
    gmm = next(e for e in base.estimates if e.method == "maf" and e.target == "population")
    own = next(e for e in base.estimates if e.method == "maf" and e.target == "empirical")
    missing = Side(None, None, None, NO_DENSITY)
    return change(
        base,
        average_kl=nothing,
        mutual_information=nothing,
        total_correlation=nothing,
        dimensionwise_kl=None,
        active_units=None,
        estimates=only_population(base),
        brackets={"empirical": Bracket(side(own), missing), "population": Bracket(side(gmm), missing)},
        advice="Only a lower bound can be given: the encoder gives samples and no density.",
        not_done=(NotDone("monte-carlo", NO_DENSITY), NotDone("closed-form", NO_DENSITY)),
    )


def interrupted():
    base = floor_limited()
    return change(
        base,
        estimates=base.estimates[:6],
        dimensionwise_kl=None,
        total_correlation=Quantity(None, None, "not computed: the run was interrupted"),
        brackets={**base.brackets, "population": Bracket(side(base.estimates[5]), side(base.estimates[4]))},
        radius=None,
        not_done=(
            NotDone("classifier", "interrupted"),
            NotDone("gmm", "not started: the run was interrupted"),
            NotDone("maf", "InputError: the fit diverged at step 12 (loss nan): lower --lr, or use --methods gmm lstm"),
        ),
    )


def impossible():
    return change(
        easy(),
        mutual_information=Quantity(12.4, 0.02),
        verdict="impossible",
        advice="A check failed: mutual information exceeds log N. Report this as a bug, with report.json.",
        checks=(
            Check(
                "mutual-information-at-most-log-n", "error", False, "MI = 12.40 ± 0.02 > log N = 11.00 by 70 standard errors"
            ),
            Check("duplicate-points", "warning", False, "31 of 60000 points have the same mean and log-variance"),
            Check("finite", "error", True, "all numbers are finite"),
        ),
    )


def disagree():
    base = between()
    maf = Estimate("maf", "population", "lower", 2.31, 0.04, "kl", 60000, 40.3, curves(6000, 19.0, 12.9, 3900))
    return change(
        base,
        estimates=(*base.estimates, maf),
        brackets={**base.brackets, "population": Bracket(side(maf), side(base.estimates[4]))},
        verdict="methods-disagree",
        advice="maf says at least 2.31 +- 0.04 and monte-carlo at most 1.56 +- 0.05. Run both again with another --seed.",
    )


def crossing():
    """The lower bound lies above the upper one, by less than their errors."""
    base = easy()
    maf = Estimate("maf", "population", "lower", 0.2312, 0.011, "kl", 60000, 40.3)
    return change(
        base,
        estimates=(*base.estimates, maf),
        brackets={**base.brackets, "population": Bracket(side(maf), side(base.estimates[4]))},
    )


def infinite():
    """A deterministic encoder's average KL, and methods that overflowed."""
    base = between()
    broken = (
        Estimate("classifier", "population", "none", INF, NAN, "mean-logit", 1000, 3.0, {"reason": "the network diverged"}),
        Estimate("maf", "population", "lower", NAN, NAN, "kl", 1000, 3.0, {"curves": {"train": [[1, INF], [2, NAN]]}}),
        Estimate("lstm", "population", "lower", -INF, INF, "kl", 1000, 3.0),
        Estimate("gmm", "population", "lower", 0.61, INF, "kl", 1000, 3.0),
    )
    return change(
        base,
        average_kl=Quantity(INF, None),
        mutual_information=Quantity(NAN, NAN),
        dimensionwise_kl=(0.5, INF, *base.dimensionwise_kl[2:]),
        estimates=broken,
        brackets={t: Bracket(side(broken[3]), Side(INF, None, "closed-form")) for t in ("empirical", "population")},
        verdict="impossible",
        advice="Not everything is finite.",
    )


def huge():
    """1000 latents, each point its own island: 5000 nats of upper bound above 3 nats of lower bound."""
    advice = "More points are needed."
    base = full("draw", 1000, 5012.3, 10.99, 5001.31, 0.4, -812.0, 2.1, 2.9, 2.4, "floor-limited", advice)
    return change(base, dimensionwise_kl=tuple(float(v) for v in np.random.default_rng(1).gamma(0.3, 0.02, 1000)))


def wild():
    """An unclipped classifier in the manner of Rosca et al.'s Table 3."""
    base = full("celeba", 100, 112.4, 11.9, 100.4, 0.5, 40.0, 61.0, 83.0, 88.0, "floor-limited", "More points are needed.")
    noise = Estimate("classifier", "empirical", "none", 720140.922, 5311.0, "mean-logit", 60000, 3000.0)
    return change(base, estimates=(*base.estimates, noise))


def one_latent():
    return full("tiny", 1, 1.32, 1.28, 0.041, 0.004, 0.040, 0.038, 0.035, 0.03, "resolved", "Nothing to do.")


def empty():
    """Nothing worked."""
    reason = "interrupted before it began"
    nothing = Side(None, None, None, "no method gave a bound")
    return Report(
        latent_dim=2,
        num_points=10,
        log_n=math.log(10),
        average_kl=Quantity(None, None, reason),
        mutual_information=Quantity(None, None, reason),
        total_correlation=Quantity(None, None, reason),
        dimensionwise_kl=None,
        active_units=None,
        estimates=(),
        brackets={t: Bracket(nothing, nothing) for t in ("empirical", "population")},
        verdict="impossible",
        advice="Nothing was estimated.",
        checks=(),
        not_done=(NotDone("monte-carlo", "interrupted"),),
    )


def hostile():
    """Text from outside that would break a page, a terminal or a console's markup."""
    nasty = "<script>alert(1)</script>\"'&[red]x[/red]{{7*7}}\x1b[31m"
    return change(
        easy(),
        advice=nasty,
        checks=(Check(nasty, "error", False, nasty),),
        not_done=(NotDone(nasty, nasty),),
        provenance={"input": nasty, nasty: {nasty: [nasty]}},
    )


CASES = {
    f.__name__: f
    for f in (
        easy, between, floor_limited, sample_only, interrupted, impossible, disagree, crossing, infinite, huge, wild,
        one_latent, empty, hostile,
    )
}  # fmt: skip


@pytest.fixture(params=CASES)
def name(request) -> str:
    """Every kind of report in turn."""
    return request.param


@pytest.fixture
def any_report(name) -> Report:
    """The report of that kind."""
    return CASES[name]()


@pytest.fixture
def report_of():
    """A kind of report by name."""
    return lambda name: CASES[name]()
