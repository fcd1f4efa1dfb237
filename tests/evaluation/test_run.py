"""Metrics on small trained systems: what they are handed, what is set beside, and what cannot be."""

import dataclasses
import json
import types

import pytest
import torch

from klprobe import registry
from klprobe.evaluation.evidence import Evidence
from klprobe.evaluation.feature_net import FeatureNet, raw_values
from klprobe.evaluation.judge import own_net
from klprobe.evaluation.run import INTERRUPTED, choose, evaluate
from klprobe.metrics import Score
from klprobe.metrics.c2st import C2ST
from klprobe.metrics.critic import Critic
from klprobe.metrics.elbo import Elbo
from klprobe.metrics.fid import FID
from klprobe.metrics.ivom import Ivom
from klprobe.metrics.ms_ssim import MsSsim
from klprobe.training.data import Data
from klprobe.training.loop import train
from klprobe.training.trained import TrainedSystem, load_system
from klprobe.types import InputError


def data(name, split):
    return registry.load("datasets", name)().load(split)


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    made = {}
    for name, dataset, settings in (
        ("vae", "digits", {}),
        ("dcgan", "ring", {}),
        ("age", "digits", {}),
    ):
        algorithm = registry.load("trainers", name)(latent_dim=3, width=16, layers=1, **settings)
        path = train(algorithm, data(dataset, "train"), steps=20, out=tmp_path_factory.mktemp(name))
        made[name] = load_system(path), dataset
    return made


def evidence_of(systems, name, net=raw_values, **settings):
    trained, dataset = systems[name]
    settings = {"num_samples": 200, **settings}
    return Evidence(
        trained, data(dataset, "test"), data(dataset, "train"), registry.load("datasets", dataset)(), net, **settings
    )


@dataclasses.dataclass(frozen=True)
class Compared:
    """Remembers what it is given."""

    seen: list = dataclasses.field(default_factory=list)

    def measure(self, samples: torch.Tensor, data: torch.Tensor) -> tuple[Score, ...]:
        self.seen.append((samples, data))
        return (Score("same", float(len(self.seen)), 0.0, "neither"),)


@dataclasses.dataclass(frozen=True)
class Alone:
    """Remembers what it is given."""

    seen: list = dataclasses.field(default_factory=list)

    def measure(self, samples: torch.Tensor) -> tuple[Score, ...]:
        self.seen.append(samples)
        return (Score("same", float(len(self.seen)), 0.0, "neither"),)


def test_sets_are_of_equal_size_and_real_data_take_the_models_place(systems):
    compared, alone, evidence = Compared(), Alone(), evidence_of(systems, "vae")
    rows = evaluate({"compared": compared, "alone": alone}, evidence).rows
    (samples, held_out), (training, again) = compared.seen
    assert samples.shape == held_out.shape == training.shape == (200, 64)
    assert torch.equal(held_out, again)
    own, real, noisy = alone.seen
    assert torch.equal(own, samples)
    assert torch.equal(real, held_out)
    assert 0.03 < float((noisy - held_out).std()) < 0.1  # cut off at the ends of [0, 1]
    assert [(r.score.value, r.real.value, r.noisy and r.noisy.value) for r in rows] == [(1, 2, None), (1, 2, 3)]
    for point in training[:5]:
        assert (data("digits", "train").x == point).all(1).any()
    assert evidence_of(systems, "vae", num_samples=10**6).num == 355


def test_all_of_a_vae_on_digits_with_its_own_net_and_the_cache_serves_a_second_run(systems, tmp_path):
    def net():
        return own_net(data("digits", "train"), tmp_path, 60)[0]

    metrics = choose(["all"]) | {"critic": Critic(steps=10, width=8), "ivom": Ivom(steps=5, points=9), "c2st": C2ST(steps=20)}
    found = evaluate(metrics, evidence_of(systems, "vae", net, cache=tmp_path))
    quantities = {row.score.quantity for row in found.rows}
    assert {"fid", "fid-infinity", "inception-score", "ms-ssim-diversity", "elbo", "coverage", "c2st-p-value"} <= quantities
    assert {"ivom", "critic-distance", "latent-radius", "active-units"} <= quantities
    assert {m.method for m in found.not_done} == {"modes", "accuracy", "own-accuracy", "lpips"}
    real = {row.score.quantity: row for row in found.rows}
    assert real["fid"].real.value < real["fid"].score.value
    assert real["latent-variance"].real.value == pytest.approx(1, abs=0.2)  # the prior's
    assert real["fid"].score.net.startswith("classifier of digits (60 steps, 64 features")
    assert any("right about" in note for note in found.notes)
    json.dumps([dataclasses.asdict(row) for row in found.rows], allow_nan=False)
    kept = set(tmp_path.iterdir())
    again = evaluate({"fid": FID()}, evidence_of(systems, "vae", net, cache=tmp_path))
    assert again.rows[0].score == real["fid"].score
    assert set(tmp_path.iterdir()) == kept


def test_what_a_system_cannot_give_is_named_with_its_reason_and_the_rest_stands(systems):
    found = evaluate(choose(["elbo", "modes", "fid", "ms-ssim"]), evidence_of(systems, "dcgan"))
    reasons = {m.method: m.reason for m in found.not_done}
    assert reasons["elbo"] == "dcgan has no encoder"
    assert "fill a square" in reasons["ms-ssim"]
    assert {row.metric for row in found.rows} == {"modes", "fid"}
    deterministic = evaluate({"elbo": Elbo(draws=2)}, evidence_of(systems, "age"))
    assert "no density log q(z|x)" in deterministic.not_done[0].reason


def test_a_metrics_numbers_do_not_depend_on_its_company(systems):
    metrics = {"fid": FID(), "ms-ssim": MsSsim()}
    both = evaluate(metrics, evidence_of(systems, "vae"))
    alone = evaluate({"ms-ssim": MsSsim()}, evidence_of(systems, "vae"))
    assert both.rows[-1] == alone.rows[0]
    assert evaluate({"ms-ssim": MsSsim()}, evidence_of(systems, "vae", seed=1)).rows[0] != alone.rows[0]


def of_images(x, net=raw_values, **settings):
    """What metrics see of images of one's own, without a model."""
    trained = TrainedSystem(types.SimpleNamespace(algorithm=object(), settings={"system": "none"}))
    half = len(x) // 2
    held_out, training = Data("mine", "test", x[:half]), Data("mine", "train", x[half:])
    return Evidence(trained, held_out, training, object(), net, num_samples=half, **settings)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_images_of_another_range_are_brought_to_the_unit_interval_and_said(low, high):
    """Metrics that compare see the data as they are, those of samples alone, and nets, images in [0, 1]; noise scales along."""
    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    plain, other = of_images(x), of_images(low + (high - low) * x)
    for compares, name, role in ((False, "samples", "real"), (False, "samples", "noisy"), (False, "sample_features", "real")):
        expected, found = (evidence.give(name, role, "a metric", compares) for evidence in (plain, other))
        as_points = (expected, found) if name == "samples" else (expected.values, found.values)
        torch.testing.assert_close(*as_points, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other.give("data", "model", "a metric", True), low + (high - low) * plain.data)
    assert list(other.notes) == [f"images were taken to lie in [{low:g}, {high:g}], by their values, and brought to [0, 1]"]
    assert not plain.notes


def test_a_net_trained_on_the_data_sees_them_as_they_are_and_an_unknown_range_is_said():
    seen = []
    net = FeatureNet("own", "a", lambda x: (seen.append(x) or x.flatten(1), None), (1, 6, 6), None, own=True)
    x = 2 * torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) - 1
    of_images(x, lambda: net).give("data_features", "model", "a metric", True)
    assert torch.equal(seen[0], of_images(x).data)
    odd = of_images(3 * x)
    assert torch.equal(odd.unit(odd.data), odd.data)
    assert "not a range that klprobe knows" in next(iter(odd.notes))


def test_a_metric_gets_the_validation_split_where_there_is_one(systems):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Validated:
        def measure(self, data: torch.Tensor, validation: torch.Tensor | None) -> tuple[Score, ...]:
            seen.append(validation)
            return (Score("same", 0.0, 0.0, "neither"),)

    kept = registry.create("datasets", "digits:validation=50").load("validation")
    evaluate({"a": Validated()}, evidence_of(systems, "vae"))
    evaluate({"a": Validated()}, evidence_of(systems, "vae", validation=lambda: kept))
    assert seen[0] is None
    assert torch.equal(seen[1], kept.x)


def test_a_semi_supervised_system_has_the_accuracy_of_its_own_classifier(systems, tmp_path):
    """By hand from `classify`; a system without one has the reason said."""
    kind = registry.load("trainers", "aavae")
    algorithm = kind(latent_dim=3, width=8, layers=1, labelled=100, visible="laplace")
    path = train(algorithm, data("digits", "train"), steps=5, out=tmp_path)
    trained = load_system(path)
    evidence = evidence_of(systems | {"aavae": (trained, "digits")}, "aavae")
    found = evaluate(choose(["own-accuracy"]), evidence)
    with torch.no_grad():
        right = algorithm.classify(trained.checkpoint.networks, evidence.data).argmax(1) == evidence.labels
    assert found.rows[0].score.value == pytest.approx(float(right.double().mean()), rel=1e-12)
    lacking = evaluate(choose(["own-accuracy"]), evidence_of(systems, "vae"))
    assert lacking.not_done[0].reason == "vae learned no classifier from few labels"


def test_codes_are_held_against_other_draws_of_the_prior_than_those_in_their_place(systems):
    evidence = evidence_of(systems, "vae")
    codes, prior = (evidence.give(name, "real", "c2st-latents", False) for name in ("codes", "prior_codes"))
    assert codes.shape == prior.shape == (200, 3)
    assert not (codes == prior).any()
    row = evaluate(choose(["c2st-latents"]), evidence).rows[0]
    assert abs(row.real.value - 0.5) < 4 * row.real.std_error


def test_data_without_two_classes_are_judged_by_their_values():
    digits = data("digits", "train")
    for labels in (None, torch.zeros(len(digits), dtype=torch.int64)):
        net, said = own_net(dataclasses.replace(digits, labels=labels), None, 5)
        assert net.name == "the values themselves"
        assert "no labels of two classes" in said


def test_a_net_that_was_lost_is_trained_again_to_the_same_weights(tmp_path):
    digits = data("digits", "train")
    whole, _ = own_net(digits, tmp_path / "a", 20)
    own_net(digits, tmp_path / "b", 20)
    (folder,) = (tmp_path / "b").iterdir()
    (folder / "checkpoint.safetensors").unlink()
    again, _ = own_net(digits, tmp_path / "b", 20)
    assert again.digest == whole.digest


def test_a_net_is_in_its_place_when_it_is_whole_and_not_before(tmp_path):
    """Two processes that want the same net each train their own draft; what is there is never half-trained."""
    seen = []

    def look(done, total, note=""):
        seen.extend(path for path in tmp_path.glob("net-*/*") if path.is_file())

    own_net(data("digits", "train"), tmp_path, 20, progress=look)
    assert not seen
    assert [path.name for path in tmp_path.glob("net-*/*")] == ["checkpoint.safetensors"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give --cache another folder"):
        own_net(data("digits", "train"), tmp_path / "file", 20)


def test_unknown_metrics_are_refused():
    with pytest.raises(InputError, match="known: "):
        choose(["fud"])
    with pytest.raises(InputError, match="No metric"):
        choose([])
    assert list(choose(["prdc", "ms_ssim"])) == ["prdc", "ms-ssim"]


@dataclasses.dataclass(frozen=True)
class Fails:
    """Raises what it is told to."""

    error: BaseException

    def measure(self) -> tuple[Score, ...]:
        raise self.error


def test_a_fault_costs_one_metric_and_ctrl_c_those_that_remain(systems):
    metrics = {"a": Fails(ZeroDivisionError("by zero")), "b": Alone(), "c": Fails(KeyboardInterrupt()), "d": Alone()}
    found = evaluate(metrics, evidence_of(systems, "vae"))
    assert [row.metric for row in found.rows] == ["b"]
    reasons = {m.method: m.reason for m in found.not_done}
    assert reasons == {"a": "ZeroDivisionError: by zero", "c": INTERRUPTED, "d": INTERRUPTED}


def test_samples_outside_of_the_pixels_range_are_cut_off_and_said(systems):
    evidence = evidence_of(systems, "age")
    assert 0 <= evidence.samples.min() <= evidence.samples.max() <= 1
    assert any("outside of [0, 1]" in note for note in evidence.notes)
    ring = evidence_of(systems, "dcgan")
    assert ring.samples.min() < 0
    assert not ring.notes


@pytest.mark.parametrize("name", [n for n in registry.names("trainers") if n != "classifier"])
def test_every_system_is_evaluated_or_the_reason_said_in_words(name, tmp_path):
    system = registry.load("trainers", name)
    known = {field.name for field in dataclasses.fields(system)}
    small = {"latent_dim": 3, "width": 8, "layers": 1, "code_width": 8, "code_layers": 1, "glances": 3, "memory": 8}
    small |= {"classes": 2, "continuous": 1} if "continuous" in known else {}
    settings = {key: value for key, value in small.items() if key in known} | dict.fromkeys(known & {"visible"}, "laplace")
    path = train(system(**settings), data("ring", "train"), steps=2, out=tmp_path)
    systems = {name: (load_system(path), "ring")}
    metrics = choose(["elbo", "fid", "latents", "modes", "prdc"]) | {"ivom": Ivom(steps=2, points=5), "elbo": Elbo(draws=2)}
    found = evaluate(metrics, evidence_of(systems, name, num_samples=60))
    assert {"fid", "modes", "precision", "ivom"} <= {row.score.quantity for row in found.rows}
    for missing in found.not_done:
        assert missing.method in ("elbo", "latents")
        assert missing.reason.startswith((name, "the encoder of"))
    assert ("elbo" in {row.metric for row in found.rows}) == (name in ("vae", "draw", "aavae"))
