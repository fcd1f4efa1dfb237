import json

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from klprobe.distributions.problems import affine_weights
from klprobe.synthetic.players import GENERATOR_LOSSES
from klprobe.synthetic.run import Diverged, estimate, minimize
from klprobe.synthetic.settings import PRESETS, Settings, is_cell
from klprobe.types import InputError

SMALL = Settings(
    classifier_layers=1, classifier_width=16, steps=300, logged=4, log_draws=200, report_draws=4000, classifier_lr=3e-3
)


def changed(**settings):
    return Settings(**{**{f: getattr(SMALL, f) for f in SMALL.__dataclass_fields__}, **settings})


@pytest.mark.parametrize("run", [estimate, minimize])
def test_a_record_is_strict_json_with_a_curve_a_truth_and_everything_that_made_it(run):
    record = run(SMALL, 2, seed=1)
    again = json.loads(json.dumps(record, allow_nan=False))
    assert (again["dim"], again["seed"], again["preset"], again["diverged"]) == (2, 1, "quick", None)
    assert again["curve"]["step"] == [0, 100, 200, 300]
    assert all(len(values) == 4 for values in again["curve"].values())
    assert again["settings"]["steps"] == 300
    assert again["truth"] > 0
    assert {"versions", "commit", "device", "cpu_seconds"} <= set(again)


def test_the_scale_of_both_gaussians_leaves_their_kl_and_changes_their_draws():
    plain, large = (minimize(changed(steps=5, scale=scale), 2, seed=0) for scale in (1.0, 3.0))
    assert large["truth"] == pytest.approx(plain["truth"], rel=1e-9)
    assert large["curve"]["estimate"][0] != plain["curve"]["estimate"][0]


def test_the_losses_of_the_generator_have_their_formulas():
    """Of D = 1 / (1 + e^logit), the probability of the first Gaussian."""
    logit = torch.linspace(-3, 3, 7, dtype=torch.float64)
    d = 1 / (1 + logit.exp())
    torch.testing.assert_close(GENERATOR_LOSSES["reverse-kl"](logit), -(d / (1 - d)).log().mean())
    torch.testing.assert_close(GENERATOR_LOSSES["non-saturating"](logit), -d.log().mean())
    curves = [minimize(changed(steps=30, generator_loss=name), 2, seed=0)["curve"]["true_kl"] for name in GENERATOR_LOSSES]
    assert curves[0][0] == curves[1][0]
    assert curves[0][-1] != curves[1][-1]


@pytest.mark.parametrize("run", [estimate, minimize])
def test_a_record_of_before_a_setting_was_there_is_of_its_default(run):
    record = run(changed(steps=2), 2, seed=0)
    for name in ("scale", "generator_loss"):
        record["settings"].pop(name, None)
    assert is_cell(record, record["experiment"], 2, 0, changed(steps=2))
    assert not is_cell(record, record["experiment"], 2, 0, changed(steps=2, scale=2.0))


def test_a_scale_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"scale is a standard deviation and must be above 0; got 0"):
        changed(scale=0.0)


def test_the_truth_is_torchs_and_the_same_for_both_experiments_and_every_seed():
    truths = {run(changed(steps=1, logged=2), 3, seed)["truth"] for run in (estimate, minimize) for seed in (0, 1)}
    assert len(truths) == 1
    generator = torch.Generator().manual_seed(SMALL.pair_seed)
    gaussians = []
    for _ in range(2):
        weight, shift = affine_weights(3, generator=generator)
        gaussians.append(MultivariateNormal(shift.double(), weight.double().T @ weight.double()))
    fixed, learned = gaussians
    assert truths.pop() == pytest.approx(float(kl_divergence(learned, fixed)), rel=1e-6)


def test_the_same_seed_gives_the_same_record_and_another_seed_another():
    curves = [estimate(SMALL, 1, seed)["curve"]["estimate"] for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]


def test_learning_by_what_the_classifier_says_lowers_the_true_kl():
    record = minimize(changed(steps=800, generator_lr=1e-2), 2, seed=0)
    assert record["curve"]["true_kl"][0] == pytest.approx(record["truth"], rel=1e-5)
    assert record["curve"]["true_kl"][-1] < 0.5 * record["truth"]


def test_a_diverged_estimation_names_its_step_and_a_diverged_minimisation_is_a_result():
    wild = changed(classifier_lr=1e38, steps=50)
    with pytest.raises(Diverged, match=r"diverged at step \d+ of 50 \(d = 2, seed 0\).*--classifier-lr below 1e\+38"):
        estimate(wild, 2, seed=0)
    record = minimize(wild, 2, seed=0)
    assert record["diverged"]["step"] <= 50
    assert record["diverged"]["reason"]
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "dim", "said"), [({}, 0, "d = 0"), ({"features": 2}, 3, "k = 2"), ({"features": 0}, 1, "k = 0")]
)
def test_dimensions_that_make_no_gaussian_are_refused(settings, dim, said):
    with pytest.raises(InputError, match=said):
        estimate(changed(**settings), dim, seed=0)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"classifier_lr": 0.0}, {"betas": (1.0, 0.9)}, {"logged": 1}])
def test_settings_that_cannot_run_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).replace("_", "-")):
        changed(**wrong)


def test_the_papers_preset_has_a_hundred_million_parameters():
    settings = Settings(**PRESETS["paper"])
    width, layers = settings.classifier_width, settings.classifier_layers
    assert 0.9e8 < (layers - 1) * width**2 + 100 * width < 1.1e8
    assert settings.steps == 1_000_000
