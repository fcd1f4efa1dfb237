import dataclasses
import json
from typing import ClassVar

import pytest
import torch

import klprobe
from klprobe import registry
from klprobe.distributions.posteriors import SampleOnly, standard_normal
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import Estimator, InputError

QUICK = ["closed-form", MonteCarlo(num_samples=400)]


@pytest.fixture
def problem():
    return linear_gaussian_encoder(3, 300, 0.5, generator=torch.Generator().manual_seed(0))


@dataclasses.dataclass(frozen=True)
class Fails(Estimator):
    error: BaseException = dataclasses.field(default_factory=lambda: RuntimeError("out of luck"))
    requires: ClassVar[frozenset[str]] = frozenset()

    def estimate(self, posterior, prior, *, generator, progress=None):
        raise self.error


def test_the_library_gives_the_report_of_the_command_line(problem):
    report = klprobe.estimate(problem.posterior, problem.prior, methods=QUICK)
    assert report.verdict == "resolved"
    assert report.brackets["population"].lower.value <= report.brackets["population"].upper.value
    parts = report.mutual_information.value + report.total_correlation.value + sum(report.dimensionwise_kl)
    assert parts == pytest.approx(report.average_kl.value, abs=1e-3)
    assert all(check.passed for check in report.checks if check.severity == "error")
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_plain_torch_normal_gives_the_same_report(problem):
    mean, std = problem.posterior.rows(slice(None))
    plain = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    first, second = (klprobe.estimate(q, methods=QUICK).estimates for q in (plain, problem.posterior))
    assert [e.value for e in first] == [e.value for e in second]


def test_a_method_gives_the_same_number_in_any_company(problem):
    alone = klprobe.estimate(problem.posterior, methods=[MonteCarlo(num_samples=400)], seed=3)
    beside = klprobe.estimate(problem.posterior, methods=[*QUICK, Fails()], seed=3)
    value = {e.method: e.value for e in alone.estimates}["monte-carlo"]
    assert {e.method: e.value for e in beside.estimates}["monte-carlo"] == value
    assert klprobe.estimate(problem.posterior, methods=QUICK, seed=4).estimates[-1].value != beside.estimates[-1].value


def test_what_is_no_estimator_is_refused_in_words(problem):
    class Duck:
        requires = frozenset()

        def estimate(self, posterior, prior, *, generator, progress=None):
            return ()

    with pytest.raises(InputError, match=r"got Duck: let its class inherit from klprobe\.types\.Estimator"):
        klprobe.estimate(problem.posterior, methods=[Duck()])


def test_an_estimator_that_says_nothing_more_has_the_defaults():
    plain, settings = Fails(), MonteCarlo()
    assert (plain.requires, plain.in_parallel, plain.preset, plain.width) == (frozenset(), False, "default", 0)
    assert (plain.device, plain.partial, plain.resume, plain.cost(None)) == (None, None, False, None)
    assert (settings.in_parallel, settings.device, settings.preset, settings.width) == (True, "cpu", "default", 0)


def test_a_failing_method_is_named_and_costs_no_other(problem):
    report = klprobe.estimate(problem.posterior, methods=[*QUICK, Fails()])
    assert [(m.method, m.reason) for m in report.not_done] == [("test-run", "RuntimeError: out of luck")]
    assert {e.method for e in report.estimates} == {"closed-form", "monte-carlo"}


def test_an_interrupted_run_reports_what_it_has(problem):
    report = klprobe.estimate(problem.posterior, methods=[MonteCarlo(400), Fails(KeyboardInterrupt())])
    assert report.not_done[0].reason == "the run was interrupted"
    assert {e.method for e in report.estimates} == {"closed-form", "monte-carlo"}
    assert report.dimensionwise_kl is None


def test_an_interrupt_after_the_methods_costs_the_marginals_alone(problem, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("klprobe.estimation.run.dimensionwise_kl", interrupted)
    report = klprobe.estimate(problem.posterior, methods=QUICK)
    assert report.estimates
    assert report.dimensionwise_kl is None
    assert "interrupted" in report.total_correlation.reason


def test_all_leaves_out_what_the_input_does_not_allow(problem):
    from klprobe.estimation.run import choose_methods

    everything = [name for name, _ in choose_methods(["all"], problem.posterior, problem.prior)]
    assert sorted(everything) == list(registry.names("estimators"))
    assert everything[:2] == ["closed-form", "monte-carlo"]
    samples = [name for name, _ in choose_methods(["all"], SampleOnly(torch.zeros(30, 3)), problem.prior)]
    assert set(everything) - set(samples) == {"closed-form", "monte-carlo"}


def test_a_method_named_outright_says_what_the_input_lacks(problem):
    report = klprobe.estimate(
        SampleOnly(torch.randn(30, 3, generator=torch.Generator().manual_seed(0))), methods=["monte-carlo"]
    )
    assert "samples" in report.not_done[0].reason
    assert report.mutual_information.value is None
    assert "no density" in report.mutual_information.reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: klprobe.estimate(q, methods=["monte_karlo"]), "Did you mean 'monte-carlo'"),
        (lambda q: klprobe.estimate(q, standard_normal(4)), "3 latents"),
        (lambda q: klprobe.estimate(q, methods=[]), "method"),
    ],
)
def test_unusable_calls_are_refused_before_anything_runs(problem, call, message):
    with pytest.raises(InputError, match=message):
        call(problem.posterior)


def test_wrong_types_are_refused(problem):
    with pytest.raises(TypeError, match="Distribution"):
        klprobe.estimate(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="prior"):
        klprobe.estimate(problem.posterior, "normal")


def test_the_empirical_kl_of_a_deterministic_encoder_is_said_to_be_infinite():
    codes = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    report = klprobe.estimate(SampleOnly(codes, deterministic=True), methods=["knn"])
    sides = report.brackets["empirical"]
    assert sides.lower.value is sides.upper.value is None
    assert str(sides.lower.reason).startswith("infinite")
    assert report.brackets["population"].lower.value is not None


def test_the_report_says_what_share_of_the_prior_lies_in_holes_or_why_not():
    perfect = linear_gaussian_encoder(4, 3000, 0.4, generator=torch.Generator().manual_seed(0))
    share = klprobe.estimate(perfect.posterior, perfect.prior, methods=["monte-carlo"]).prior_in_holes
    narrow = klprobe.estimate(perfect.posterior, standard_normal(4), methods=["closed-form"], marginals=False).prior_in_holes
    assert share.value > 0
    assert 0 < share.std_error < 0.1
    assert narrow.value is None
    assert narrow.reason
    implicit = klprobe.estimate(
        SampleOnly(torch.randn(200, 2, generator=torch.Generator().manual_seed(0))), methods=["knn"]
    ).prior_in_holes
    assert implicit.value is None
    assert "klprobe holes" in str(implicit.reason)


def test_methods_that_pass_over_weights_are_not_run_and_say_so(problem):
    weights = torch.arange(1.0, 301.0)
    report = klprobe.estimate(problem.posterior, methods=[*QUICK, "gmm", "knn"], weights=weights)
    assert {e.method for e in report.estimates} == {"monte-carlo", "closed-form"}
    assert {n.method for n in report.not_done} == {"gmm", "knn"}
    assert all("does not take weights" in n.reason for n in report.not_done)
    assert all(kl >= 0 for kl in report.dimensionwise_kl)
    kl = next(e for e in report.estimates if (e.method, e.quantity, e.target) == ("monte-carlo", "kl", "empirical"))
    assert sum(report.dimensionwise_kl) <= kl.value + 4 * kl.std_error
    share = weights.double() / weights.sum()
    assert report.log_n == pytest.approx(float(-torch.xlogy(share, share).sum()))
    assert "weights that leave 225 points" in report.provenance["rows"]
    assert problem.posterior.weights is None, "the posterior that was handed over stays as it is"
    json.dumps(report.to_dict(), allow_nan=False)


def test_groups_reach_every_bound_of_the_population(problem):
    groups = torch.arange(300) // 10
    alone = klprobe.estimate(problem.posterior, methods=QUICK)
    report = klprobe.estimate(problem.posterior, methods=QUICK, groups=groups)
    for first, second in zip(alone.estimates, report.estimates, strict=True):
        same = first.target == "empirical"
        assert (first.value == second.value) == (same or first.quantity != "leave-one-out")
        assert (first.std_error == second.std_error) == same
    assert report.provenance["rows"].startswith("30 groups")


def test_copies_are_named_with_their_number_and_take_the_bound_down_to_the_truth():
    once = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twice = torch.cat([once, once + 1e-7])
    report = klprobe.estimate(klprobe.DiagonalGaussian(twice, std=torch.full_like(twice, 0.1)), methods=QUICK)
    (check,) = [c for c in report.checks if c.name == "duplicate-points"]
    assert not check.passed
    assert "300 of 600 points repeat another point's posterior" in check.message
    assert "row 300 does row 0" in check.message
    assert report.brackets["population"].lower.value == 0.0
    assert report.log_n == pytest.approx(5.70, abs=0.01), "log 300"
    assert report.verdict == "floor-limited"


def test_one_posterior_for_all_points_leaves_no_bound_without_it():
    same = klprobe.DiagonalGaussian(torch.ones(50, 2).double(), std=torch.full((50, 2), 0.5).double())
    report = klprobe.estimate(same, methods=QUICK)
    assert not [e for e in report.estimates if e.quantity == "leave-one-out"]
    assert any("there is no leave-one-out bound" in c.message for c in report.checks)
