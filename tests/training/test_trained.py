"""A trained system as one class: what it declares exists and works, what it does not declare raises CapabilityError."""

import dataclasses

import pytest
import torch

import klprobe
from klprobe import registry
from klprobe.distributions.posteriors import sample_with
from klprobe.training.checkpoint import Checkpoint, save_checkpoint
from klprobe.training.trained import LACKS, TrainedSystem
from klprobe.types import CapabilityError

SMALL = {"latent_dim": 4, "batch_size": 8, "width": 8, "layers": 1, "code_width": 8, "code_layers": 1, "head_maps": 8}
SMALL |= {"features": 4, "glances": 2, "memory": 8, "classes": 3, "visible": "laplace"}
NUM, SHAPE = 6, (2,)
MORE = {
    "aavae by class": ("aavae", {"conditional": True}),
    "aavae with few labels": ("aavae", {"labelled": 6}),
    "iwgan by class": ("iwgan", {"conditional": True}),
    "infogan": ("infogan", {"classes": 2, "continuous": 1}),
    "aae implicit": ("aae", {"posterior": "implicit"}),
}
VARIANTS = {**{name: (name, {}) for name in registry.names("trainers")}, **MORE}
METHODS = {
    "encode": lambda system, labels: system.encode(points(), labels),
    "decode": lambda system, labels: system.decode(codes(), labels),
    "log_likelihood": lambda system, labels: system.log_likelihood(points(), codes(), labels, rng()),
    "classify": lambda system, labels: system.classify(points()),
    "look": lambda system, labels: system.look(points()),
    "labels": lambda system, labels: system.classes,
}
"""What calls upon each capability."""


def made(variant):
    name, settings = VARIANTS[variant]
    kind = registry.load("trainers", name)
    known = {field.name for field in dataclasses.fields(kind)}
    algorithm = kind(**{**{key: value for key, value in SMALL.items() if key in known}, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = algorithm.networks(SHAPE).eval()
    settings = {"system": name, "settings": dataclasses.asdict(algorithm), "dataset": "ring", "split": "train"}
    return TrainedSystem(Checkpoint(algorithm, networks, {**settings, "input_shape": list(SHAPE), "steps": 0}))


@pytest.fixture(params=VARIANTS)
def system(request):
    return made(request.param)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def points():
    return torch.rand(NUM, *SHAPE, generator=rng())


def codes():
    return torch.randn(NUM, SMALL["latent_dim"], generator=rng(1))


def labels_of(system):
    return torch.arange(NUM) % system.classes if "labels" in system.capabilities else None


def test_the_capabilities_are_the_methods_that_the_algorithm_has(system):
    """`decode` with `prior`; `classify` and `labels` depend on settings, so for them only one way holds."""
    algorithm, declared = system.checkpoint.algorithm, system.capabilities
    assert declared <= LACKS.keys()
    for name in ("encode", "decode", "log_likelihood", "look"):
        assert (name in declared) == hasattr(algorithm, name), name
    assert "classify" not in declared or hasattr(algorithm, "classify")
    assert "labels" not in declared or algorithm.classes > 1
    assert "decode" not in declared or hasattr(algorithm, "prior")


@pytest.mark.parametrize("capability", METHODS)
def test_what_is_declared_works_and_what_is_not_raises(system, capability):
    labels = labels_of(system)
    if capability in system.capabilities:
        METHODS[capability](system, labels)
        return
    with pytest.raises(CapabilityError, match=system.name):
        METHODS[capability](system, labels)


def test_results_have_the_shapes_of_the_contract_and_no_gradients(system):
    labels, able = labels_of(system), system.capabilities
    if "encode" in able:
        q = system.encode(points(), labels)
        assert (q.num_points, q.dim) == (NUM, system.latent_dim)
    if "decode" in able:
        found = [system.decode(codes(), labels), system.sample(NUM, generator=rng())]
        assert all(x.shape == (NUM, *SHAPE) and not x.requires_grad for x in found)
        assert system.sample_prior(NUM, rng()).shape == (NUM, system.latent_dim)
        assert system.prior.event_shape == (system.latent_dim,)
    if {"encode", "decode"} <= able:
        again = system.reconstruct(points(), labels, rng())
        assert again.shape == (NUM, *SHAPE)
        assert not again.requires_grad
    if "log_likelihood" in able:
        found = system.log_likelihood(points(), codes(), labels, rng())
        assert (found.shape, found.dtype, found.requires_grad) == ((NUM,), torch.float64, False)


def test_the_prior_is_the_law_of_the_codes_that_samples_are_made_of(system):
    """Means and squares of every latent, of 4,000 draws each way; both lie within 5 standard errors of each other."""
    if "decode" not in system.capabilities:
        return
    num = 4000
    ours, theirs = system.sample_prior(num, rng()).double(), sample_with(system.prior, num, rng(1)).double()
    for power in (1, 2):
        error = ((ours**power).var(0) / num + (theirs**power).var(0) / num).sqrt()
        assert ((ours**power).mean(0) - (theirs**power).mean(0)).abs().le(5 * error + 1e-12).all()


def test_decode_is_differentiable_where_that_is_asked_for(system):
    if "decode" not in system.capabilities:
        return
    z = codes().requires_grad_()
    system.decode(z, labels_of(system), grad=True).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad.any()


def test_labels_are_taken_by_those_who_declare_them_alone(system):
    labels = torch.arange(NUM) % 2
    calls = {
        "encode": lambda labels: system.encode(points(), labels),
        "decode": lambda labels: system.decode(codes(), labels),
        "log_likelihood": lambda labels: system.log_likelihood(points(), codes(), labels, rng()),
        "sample": lambda labels: system.sample(NUM, labels, rng()),
        "reconstruct": lambda labels: system.reconstruct(points(), labels, rng()),
    }
    needs = {"sample": {"decode"}, "reconstruct": {"encode", "decode"}}
    for name, call in calls.items():
        if needs.get(name, {name}) <= system.capabilities and "labels" in system.capabilities:
            call(labels)
        else:
            with pytest.raises(CapabilityError):
                call(labels)


def test_a_system_that_decodes_by_class_says_so_without_labels_and_samples_every_class_in_turn():
    for variant in ("aavae by class", "aavae with few labels", "iwgan by class"):
        system = made(variant)
        with pytest.raises(CapabilityError, match="known class only"):
            system.decode(codes())
        in_turn = system.sample(NUM, labels=torch.tensor([0, 1, 2, 0, 1, 2]), generator=rng())
        assert torch.equal(system.sample(NUM, generator=rng()), in_turn)
        of_one = system.sample(NUM, labels=torch.ones(NUM).long(), generator=rng())
        assert torch.equal(of_one[1], in_turn[1])
        assert not torch.equal(of_one[0], in_turn[0])
    with pytest.raises(CapabilityError, match="encodes data of known class"):
        made("aavae by class").encode(points())
    with pytest.raises(CapabilityError, match="reconstructs data of known class"):
        made("aavae with few labels").reconstruct(points())


def test_a_saved_system_comes_back_as_one_object(tmp_path):
    system = made("vae")
    save_checkpoint(tmp_path / "vae.safetensors", system.checkpoint)
    again = klprobe.load_system(str(tmp_path / "vae.safetensors"))
    assert isinstance(again, klprobe.TrainedSystem)
    assert (again.name, again.shape, again.latent_dim, again.settings) == ("vae", SHAPE, 4, system.settings)
    assert again.capabilities == {"encode", "decode", "log_likelihood"}
    assert torch.equal(again.sample(NUM, generator=rng(3)), system.sample(NUM, generator=rng(3)))
    assert torch.equal(again.encode(points()).mean, system.encode(points()).mean)


def test_randomness_is_the_generators_and_else_torchs_own():
    system = made("aae implicit")
    fixed, same = system.encode(points()), system.encode(points())
    assert torch.equal(fixed.samples, same.samples)
    other, again = (system.encode(points(), generator=rng(7)).samples for _ in range(2))
    assert torch.equal(other, again)
    assert not torch.equal(other, fixed.samples)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = system.sample(NUM), system.sample(NUM)
        torch.manual_seed(5)
        assert torch.equal(system.sample(NUM), first)
    assert not torch.equal(first, second)
