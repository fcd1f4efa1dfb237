import torch

from klprobe.cli.estimate import _say_left_out
from klprobe.distributions.posteriors import SampleOnly, as_posterior, standard_normal
from klprobe.distributions.priors import Cloud
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimation.auto import left_out, recommended
from klprobe.estimation.run import choose_methods

BOTH = frozenset({"posterior-density", "prior-density"})


def test_with_both_densities_the_exact_methods_and_those_of_the_paper_run():
    for dim, points in ((1, 20), (100, 60_000)):
        assert recommended(dim, points, BOTH) == ("closed-form", "monte-carlo", "classifier", "gmm", "maf", "lstm")


def test_samples_of_the_posterior_leave_what_needs_the_priors_density_alone():
    few, many = (recommended(dim, 10_000, frozenset({"prior-density"})) for dim in (10, 100))
    assert few == ("classifier", "gmm", "maf", "lstm")
    assert set(many) - set(few) == {"denoising", "telescoping"}


def test_two_clouds_get_methods_for_samples_by_dimension_and_number():
    assert recommended(10, 10_000, frozenset()) == ("classifier", "gaussianized")
    assert set(recommended(200, 10_000, frozenset())) == {"classifier", "gaussianized", "denoising", "telescoping"}
    assert recommended(200, 300, frozenset()) == ("classifier", "gaussianized"), "300 points teach no 200 x 200 weights"


def test_wide_codes_are_spared_what_takes_hours_but_not_the_bounds_that_are_cheap():
    for able in (BOTH, frozenset({"prior-density"})):
        assert set(recommended(256, 1000, able)) >= {"classifier", "gmm", "maf", "lstm"}
        assert set(recommended(256, 1000, able)) - set(recommended(257, 1000, able)) == {"lstm"}
        assert left_out(4096, 1000, able) == ("classifier", "maf", "lstm")
    assert recommended(4096, 1000, BOTH) == ("closed-form", "monte-carlo", "gmm")
    assert recommended(4096, 1000, frozenset()) == ("classifier",), "two clouds have nothing cheaper"
    assert left_out(1000, 10_000, frozenset()) == ("gaussianized", "telescoping")
    assert recommended(1000, 10_000, frozenset()) == ("classifier", "denoising")


def test_auto_names_methods_that_the_input_allows():
    problem = linear_gaussian_encoder(3, 100, 0.4, generator=torch.Generator().manual_seed(0))
    cloud = Cloud(torch.zeros(100, 3))
    for q, p in (
        (problem.posterior, problem.prior),
        (SampleOnly(torch.zeros(100, 3)), standard_normal(3)),
        (problem.posterior, cloud),
    ):
        chosen = choose_methods(["auto"], as_posterior(q), p)
        everything = choose_methods(["all"], as_posterior(q), p)
        assert {name for name, _ in chosen} < {name for name, _ in everything}


def test_the_command_line_says_what_auto_leaves_out_and_only_then(capsys):
    def said(names, dim):
        _say_left_out(names, SampleOnly(torch.zeros(50, dim)), standard_normal(dim))
        return capsys.readouterr().err

    assert "auto leaves out lstm: with 300 latents" in said(["auto"], 300)
    assert "auto leaves out classifier, maf: with" in said(["auto", "lstm"], 4096)
    assert said(["auto"], 256) == said(["gmm"], 4096) == said(["auto", "all"], 4096) == ""
