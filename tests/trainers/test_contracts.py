"""What must hold of every system in the registry, on the ring with tiny networks; that it learns says `test_improvement.py`."""

import dataclasses
import os
import signal
from itertools import pairwise

import pytest
import torch
from torch.distributions import Independent, Normal

from klprobe import registry
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.formats import Request
from klprobe.formats.klprobe_checkpoint import KlprobeCheckpoint
from klprobe.training import checkpoint
from klprobe.training.checkpoint import Checkpoint, load_checkpoint
from klprobe.training.data import Batch
from klprobe.training.loop import train
from klprobe.training.trained import POINTS_AT_ONCE, TrainedSystem, load_system
from klprobe.types import CapabilityError

NAMES = [name for name in registry.names("trainers") if name != "classifier"]
"""Generative systems; the classifier has tests of its own."""
SMALL = {"latent_dim": 3, "batch_size": 16, "width": 8, "layers": 1, "code_width": 8, "code_layers": 1, "head_maps": 8}
SMALL |= {"glances": 3, "memory": 8, "classes": 8}
VARIANTS = {
    **{name: (name, {}) for name in NAMES},
    "vae quantized": ("vae", {"visible": "quantized_normal", "output": "sigmoid"}),
    "vae with a marginal KL": ("vae", {"marginal_kl_weight": 1.0}),
    "aae implicit": ("aae", {"posterior": "implicit"}),
    "aae-gan empirical": ("aae-gan", {"kl": "empirical", "posterior": "gaussian"}),
    "aae-gan agan": ("aae-gan", {"preset": "agan", "code_reconstruction_weight": 0.5}),
    "ali deterministic": ("ali", {"posterior": "deterministic"}),
    "adversarial-vb with contrast": ("adversarial-vb", {"adaptive_contrast": True}),
    "wae gan": ("wae", {"divergence": "gan"}),
    "bms-vae implicit": ("bms-vae", {"posterior": "implicit", "draws": 3}),
    "bms-vae-gan alpha-GAN + SN": ("bms-vae-gan", {"draws": 1, "posterior": "deterministic", "sample_weight": 0.5}),
}
VARIANTS |= {
    "infogan": ("infogan", {"classes": 2, "continuous": 1}),
    "iwgan by class": ("iwgan", {"conditional": True}),
    "iwgan without weights": ("iwgan", {"weighted": False}),
    "aavae not activated": ("aavae", {"activated": False}),
    "aavae by class": ("aavae", {"conditional": True}),
    "aavae with few labels": ("aavae", {"labelled": 16}),
}
BY_NETWORK = ("draw",)
"""Systems whose q(z|x) is a density that takes a run of the network for each pair of z and x."""


def make(variant, shape=(2,), **changes):
    name, settings = VARIANTS[variant]
    system = registry.load("trainers", name)
    known = {field.name for field in dataclasses.fields(system)}
    small = {key: value for key, value in SMALL.items() if key in known}
    if "visible" in known and shape == (2,):
        small["visible"] = "laplace"
    algorithm = system(**{**small, **settings, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return algorithm, algorithm.networks(shape)


@pytest.fixture(scope="module")
def ring():
    return registry.load("datasets", "ring")().load("train")


def batch_of(variant, x):
    """Points with labels of every class, the first half hidden where few are told."""
    labels = torch.arange(len(x)) % SMALL["classes"]
    return Batch(x, labels.where(torch.arange(len(x)) >= len(x) // 2, -1) if "few" in variant else labels)


def points(variant, ring, num=17):
    """Points of the ring; in the unit interval where pixels are needed. An odd number: the signs of l1 cannot cancel."""
    return ring.x[:num].clamp(0, 1) if "quantized" in variant else ring.x[:num]


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


def test_every_network_has_one_owner(variant):
    algorithm, networks = make(variant)
    assert sorted(n for p in algorithm.players(networks) for n in p.networks) == sorted(networks)


def test_every_loss_is_finite_and_moves_every_parameter_of_its_player(variant, ring):
    algorithm, networks = make(variant)
    for player in algorithm.players(networks):
        loss, logged = player.loss(batch_of(variant, points(variant, ring)), torch.Generator().manual_seed(0))
        assert loss.shape == ()
        assert all(v.shape == () and not v.requires_grad and v.isfinite() for v in logged.values())
        named = {f"{n}.{k}": p for n in player.networks for k, p in networks[n].named_parameters()}
        for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            assert gradient.isfinite().all(), f"{player.name}: {name}"
            assert gradient.any() or CANCELLED.get(VARIANTS[variant][0]) == name, f"{player.name}: {name}"


CANCELLED = {"wgan-gp": "critic.2.bias", "sngan": "discriminator.2.bias", "bms-vae-gan": "discriminator.2.bias"}
"""A critic's last bias drops out of E f(x) - E f(G(z)), and out of a hinge loss while no point has reached its target."""


def test_a_players_step_moves_its_own_networks_and_nothing_else(variant, ring, tmp_path):
    algorithm, _ = make(variant)
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(type(algorithm)):
        def players(self, networks):
            def watch(player):
                def loss(batch, noise):
                    seen.append((player, {k: v.clone() for k, v in networks.state_dict().items()}))
                    return player.loss(batch, noise)

                return dataclasses.replace(player, loss=loss)

            return tuple(watch(p) for p in super().players(networks))

    data = dataclasses.replace(ring, stored=points(variant, ring, 64), labels=ring.labels[:64])
    train(Watched(**dataclasses.asdict(algorithm)), data, steps=2, out=tmp_path)
    updates = sum(p.updates for p in {p.name: p for p, _ in seen}.values())
    assert len(seen) == 2 * updates
    for (player, before), (_, after) in pairwise(seen):
        moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert moved == set(player.networks), f"in the turn of {player.name}"


def test_an_interrupted_and_resumed_run_writes_the_bits_of_an_uninterrupted_one(variant, ring, tmp_path):
    algorithm, _ = make(variant)
    data = dataclasses.replace(ring, stored=points(variant, ring, 100), labels=ring.labels[:100])

    def stop(done, total, note=""):
        os.kill(os.getpid(), signal.SIGINT)

    whole = train(algorithm, data, steps=5, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(algorithm, data, steps=5, out=tmp_path / "parts", progress=stop)
    part = train(algorithm, data, steps=5, out=tmp_path / "parts", resume=True)
    (first, settings), (second, others) = checkpoint.read(whole), checkpoint.read(part)
    assert settings == others
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_save_load_same_samples_and_from_the_checkpoint_to_a_posterior(variant, ring, tmp_path):
    algorithm, _ = make(variant)
    data = dataclasses.replace(ring, stored=points(variant, ring, 64), labels=ring.labels[:64])
    seen = []
    path = train(algorithm, data, steps=2, out=tmp_path, watch=lambda *now: seen.append(now), watch_every=2)
    assert load_checkpoint(path).algorithm == algorithm
    z = algorithm.prior(5, torch.Generator().manual_seed(1))
    with torch.no_grad():
        loaded, ((step, networks),) = load_system(path), seen
        known = loaded.classes_in_turn(5)
        made = loaded.decode(z, known)
        assert step == 2
        assert torch.equal(made, algorithm.decode(networks.eval(), z, *(() if known is None else (known,))))
    assert made.shape == (5, 2)
    if "encode" not in algorithm.capabilities:
        with pytest.raises(CapabilityError, match=r"no encoder.*klprobe sample --checkpoint"):
            KlprobeCheckpoint().load(path, Request(split="test"))
        return
    encoded = KlprobeCheckpoint().load(path, Request(split="test"))
    assert encoded.posterior.num_points == 10_000 > POINTS_AT_ONCE
    assert encoded.posterior.dim == 3
    if variant in (*BY_NETWORK, "aavae with few labels"):
        assert encoded.posterior.has_log_prob
        return
    kind = getattr(algorithm, "posterior", "deterministic" if "age" in variant else "gaussian")
    assert isinstance(encoded.posterior, DiagonalGaussian if kind == "gaussian" else SampleOnly)
    assert getattr(encoded.posterior, "deterministic", False) == (kind == "deterministic")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "encode" in make(v)[0].capabilities])
def test_encoding_gives_one_distribution_a_point(variant, ring):
    algorithm, networks = make(variant)
    networks.eval()
    known = (ring.labels[:17],) if "labels" in algorithm.capabilities else ()
    q = algorithm.encode(networks, points(variant, ring), torch.Generator().manual_seed(0), *known)
    assert (q.batch_shape, q.event_shape) == ((17,), (3,))
    again = algorithm.encode(networks, points(variant, ring), torch.Generator().manual_seed(1), *known)
    if variant in BY_NETWORK:
        return
    first, second = (d.mean if isinstance(d, Independent) else d.samples for d in (q, again))
    assert torch.equal(first, second) == (getattr(algorithm, "posterior", None) != "implicit")
    assert not isinstance(q, Independent) or isinstance(q.base_dist, Normal)


IMAGES = [*NAMES, "adversarial-vb with contrast", "aae implicit", "vae quantized"]
IMAGES += ["iwgan by class", "aavae by class", "aavae with few labels"]


@pytest.mark.parametrize("variant", IMAGES)
def test_images_train_on_the_papers_networks(variant, tmp_path):
    shape = (3, 28, 28)
    algorithm, networks = make(variant, shape)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        for player in algorithm.players(networks):
            loss, _ = player.loss(batch_of(variant, x), torch.Generator().manual_seed(0))
            assert loss.isfinite()
            parameters = [p for n in player.networks for p in networks[n].parameters()]
            assert all(g.isfinite().all() for g in torch.autograd.grad(loss, parameters))
    made = TrainedSystem(Checkpoint(algorithm, networks.eval(), {"system": variant})).sample(
        3, generator=torch.Generator().manual_seed(0)
    )
    assert made.shape == (3, *shape)
    assert 0 <= made.min() <= made.max() <= 1


def test_every_setting_says_what_it_is():
    """The command line's help comes from these lines."""
    import inspect

    for name in NAMES:
        system = registry.load("trainers", name)
        source = "".join(inspect.getsource(kind) for kind in system.__mro__ if dataclasses.is_dataclass(kind))
        for field in dataclasses.fields(system):
            _, _, after = source.partition(f"\n    {field.name}: ")
            assert after.split("\n")[1].strip().startswith('"""'), f"{name}: {field.name}"
