"""The report by part: what a part says is what that part alone would say, and the table says it everywhere."""

import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal

import klprobe
from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior, standard_normal
from klprobe.estimation.parts import marginal
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.rendering.html import fragment, page
from klprobe.types import InputError

N = 300
FAST = MonteCarlo(num_samples=2000)


@pytest.fixture(scope="module")
def posterior():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mean, logvar=-1 + 0.3 * torch.randn(N, 5, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def probs():
    return (2 * torch.randn(N, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).softmax(1)


@pytest.fixture(scope="module")
def report(posterior, probs):
    parts = {"level 0": slice(0, 2), "level 1": slice(2, 5), "classes": klprobe.Classes(probs)}
    return klprobe.estimate(posterior, methods=[FAST], parts=parts)


def test_a_part_of_the_latents_says_what_those_latents_say_alone(report, posterior):
    for part, columns in zip(report.parts, (slice(0, 2), slice(2, 5)), strict=False):
        alone = klprobe.estimate(
            DiagonalGaussian(posterior.mean[:, columns], logvar=posterior.spread[:, columns]), methods=[FAST], seed=5
        )
        assert part.average_kl == alone.average_kl
        a, b = part.mutual_information, alone.mutual_information
        assert abs(a.value - b.value) <= 4 * math.hypot(a.std_error, b.std_error)
        for target in ("empirical", "population"):
            a, b = part.brackets[target].upper, alone.brackets[target].upper
            assert abs(a.value - b.value) <= 4 * math.hypot(a.std_error, b.std_error)


def test_average_kls_of_all_parts_add_up_when_the_prior_factorises(report):
    assert sum(part.average_kl.value for part in report.parts[:2]) == pytest.approx(report.average_kl.value, rel=1e-12)


def test_no_part_of_the_latents_is_further_from_its_prior_than_all_of_them(report):
    (check,) = [check for check in report.checks if check.name == "parts-below-whole"]
    assert check.passed


def test_a_prior_with_its_own_means_and_scales_is_cut_as_the_latents_are(posterior):
    prior = Independent(torch.distributions.Normal(torch.arange(5).double(), torch.arange(1, 6).double()), 1)
    found = klprobe.estimate(posterior, prior, methods=["closed-form"], parts={"last": slice(3, 5)})
    alone = klprobe.estimate(
        DiagonalGaussian(posterior.mean[:, 3:], logvar=posterior.spread[:, 3:]),
        Independent(torch.distributions.Normal(torch.tensor([3.0, 4.0]).double(), torch.tensor([4.0, 5.0]).double()), 1),
        methods=["closed-form"],
    )
    assert found.parts[0].average_kl == alone.average_kl


def test_the_marginal_of_a_full_gaussian_has_the_same_block_of_the_covariance():
    tril = torch.randn(N, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).tril()
    tril = tril + 3 * torch.eye(4, dtype=torch.float64)
    whole = MultivariateNormal(torch.zeros(N, 4, dtype=torch.float64), scale_tril=tril)
    part = marginal(as_posterior(whole), slice(1, 3))
    torch.testing.assert_close(part.covariance_matrix, whole.covariance_matrix[:, 1:3, 1:3])


def test_what_cannot_be_had_says_why(posterior, probs):
    laplace = Independent(Laplace(torch.zeros(5).double(), torch.ones(5).double()), 1)
    parts = {"level 0": slice(0, 2), "classes": klprobe.Classes(probs)}
    for q, p, words in (
        (posterior, laplace, "not a diagonal normal"),
        (SampleOnly(posterior.mean), standard_normal(5), "no density"),
    ):
        found = klprobe.estimate(q, p, methods=["gmm"] if words == "no density" else ["closed-form"], parts=parts)
        assert words in found.parts[0].reason
        assert found.parts[1].reason is None
        json.loads(found.to_json())


@pytest.mark.parametrize(
    ("part", "words"),
    [(slice(5, 9), "takes none of the 5 latents"), (slice(0, 4, 2), "takes none"), (None, "class probabilities of 299 points")],
)
def test_parts_of_something_else_are_refused(posterior, probs, part, words):
    with pytest.raises(InputError, match=words):
        klprobe.estimate(posterior, methods=[FAST], parts={"odd": part or klprobe.Classes(probs[1:])})


def test_a_part_that_is_neither_slice_nor_classes_is_refused(posterior):
    with pytest.raises(TypeError, match="give a slice"):
        klprobe.estimate(posterior, methods=[FAST], parts={"odd": [0, 1]})


def test_the_table_is_in_terminal_page_notebook_and_document(report, capsys, tmp_path, posterior, probs):
    for text in (page(report), fragment(report)):
        assert "level 1 (3 latents)" in text
        assert "classes (4 classes)" in text
        assert "ladder VAE" in text
    (told,) = [part for part in report.to_dict()["parts"] if part["name"] == "classes"]
    assert {"average_kl", "mutual_information", "brackets", "estimates", "size", "kind"} <= set(told)
    np.savez(
        tmp_path / "q.npz", mean_0=posterior.mean[:, :2], mean_1=posterior.mean[:, 2:], probs=probs,
        logvar_0=posterior.spread[:, :2], logvar_1=posterior.spread[:, 2:],
    )  # fmt: skip
    assert main(["estimate", "--checkpoint", str(tmp_path / "q.npz"), "--methods", "monte-carlo", "--num-samples", "500"]) == 0
    out, err = capsys.readouterr()
    assert "By part, in nats" in out
    assert "level 1 (3 latents)" in out
    assert "conditional" in err or "ladder" in err


def test_ctrl_c_in_a_part_costs_the_parts_that_need_draws_and_nothing_else(posterior, probs, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("klprobe.estimation.parts.marginal", stop)
    parts = {"level 0": slice(0, 2), "level 1": slice(2, 5), "classes": klprobe.Classes(probs)}
    found = klprobe.estimate(posterior, methods=[FAST], parts=parts)
    assert [part.reason is None for part in found.parts] == [False, False, True]
    assert found.brackets["empirical"].upper.value is not None


def test_a_parts_draws_never_touch_the_file_of_the_whole_runs(posterior, tmp_path):
    whole = MonteCarlo(num_samples=500, partial=tmp_path / "draws.npz", resume=True)
    found = klprobe.estimate(posterior, methods=[whole], parts={"level 0": slice(0, 2)})
    assert found.parts[0].reason is None
    assert [path.name for path in tmp_path.iterdir()] == ["draws.npz"]
    with np.load(tmp_path / "draws.npz") as kept:
        assert len(kept["points"]) == 500
    again = klprobe.estimate(posterior, methods=[whole])  # the file is of the whole posterior, and can be continued from
    assert [e.value for e in again.estimates] == [e.value for e in found.estimates]
