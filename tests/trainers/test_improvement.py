"""Every player of every system gets better at its part of the game while the others stand still; with the wrong sign, worse.

What a player must get better at is measured by a criterion of ours on fresh points, never by its loss. Where a loss is a sum,
rows with other weights leave one term at a time, so that a term with the wrong sign is seen too.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch.distributions import Independent

from klprobe import registry
from klprobe.distributions.posteriors import SampleOnly
from klprobe.training.data import Batch

NAMES = registry.names("trainers")
SMALL = {"latent_dim": 3, "batch_size": 64, "width": 16, "layers": 1, "code_width": 16, "code_layers": 1, "head_maps": 8}
SMALL |= {"glances": 3, "memory": 16, "classes": 4, "features": 8, "visible": "laplace"}
RATE = 0.01
STEPS, POINTS, BLOCKS = 50, 1024, 64
CERTAIN = 4
"""Standard errors by which the share of scores that rise must lie above a half; one set of points and noise for all."""

# ---- what players get better at: each gives independent scores, more is better


class Scene(NamedTuple):
    """A system with its networks, fresh data points with labels, and noise."""

    system: object
    networks: torch.nn.ModuleDict
    x: torch.Tensor
    labels: torch.Tensor
    noise: torch.Generator

    def prior(self) -> torch.Tensor:
        return self.system.prior(len(self.x), self.noise)

    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        known = (self.labels,) if "labels" in self.system.capabilities else ()
        return self.system.decode(self.networks, z, *known)

    def posterior(self, x: torch.Tensor):
        known = (self.labels,) if "labels" in self.system.capabilities else ()
        return self.system.encode(self.networks, x, self.noise, *known)

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        q = self.posterior(x)
        if isinstance(q, SampleOnly):
            return q.samples
        if isinstance(q, Independent):
            return q.mean + q.stddev * torch.randn(q.mean.shape, generator=self.noise)
        return q.sample_at(torch.arange(len(x)), self.noise).float()

    def judged(self, x: torch.Tensor, judge: str = "discriminator") -> torch.Tensor:
        if judge not in self.networks:
            judge = "critic"
        if self.system.conditional and "encode" not in self.system.capabilities:  # its judge is told the class
            x = torch.cat([x, torch.nn.functional.one_hot(self.labels, self.system.classes)], 1)
        return self.networks[judge](x).flatten()

    def paired(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.networks["discriminator"](x, z).flatten()


def _off_unit(codes: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """How far mean and variance of each block of codes are from 0 and 1, shape (BLOCKS,)."""
    blocks = (scale * codes).unflatten(0, (BLOCKS, -1))
    return blocks.mean(1).square().sum(1) + (blocks.var(1) - 1).square().sum(1)


def reconstructs(s: Scene) -> torch.Tensor:
    """Data come back from their codes."""
    return -(s.x - s.decoded(s.codes(s.x))).abs().sum(1)


def reads_codes(s: Scene) -> torch.Tensor:
    """Codes come back from their samples."""
    p = s.prior()
    return -(p - s.codes(s.decoded(p))).abs().sum(1)


def points_the_same_way(s: Scene) -> torch.Tensor:
    """The cosine of a code and of what is read off its sample."""
    p = s.prior()
    return torch.cosine_similarity(p, s.codes(s.decoded(p)))


def codes_near_prior(s: Scene) -> torch.Tensor:
    """Each q(z|x) is nearer to N(0, I)."""
    q = s.posterior(s.x)
    return -(q.mean.square() + (q.stddev - 1).square()).sum(1)


def code_moments(s: Scene) -> torch.Tensor:
    """The moments of the data's codes are nearer to N(0, I)'s."""
    return -_off_unit(s.codes(s.x))


def moments_of_read_codes(s: Scene) -> torch.Tensor:
    """The moments of the samples' codes on the sphere are nearer to the uniform law's."""
    return -_off_unit(s.codes(s.decoded(s.prior())), s.system.latent_dim**0.5)


def moments_of_data_against_samples(s: Scene) -> torch.Tensor:
    """The codes of data are nearer to the prior, those of samples farther."""
    scale = s.system.latent_dim**0.5
    return _off_unit(s.codes(s.decoded(s.prior())), scale) - _off_unit(s.codes(s.x), scale)


def passes_for_prior(s: Scene) -> torch.Tensor:
    """The code discriminator takes codes of data for the prior's."""
    return s.judged(s.codes(s.x), "code_discriminator")


def samples_pass(s: Scene) -> torch.Tensor:
    """The discriminator takes samples for data."""
    return s.judged(s.decoded(s.prior()))


def reconstructions_pass(s: Scene) -> torch.Tensor:
    """The discriminator takes reconstructions for data."""
    return s.judged(s.decoded(s.codes(s.x)))


def _right(of_real: torch.Tensor, of_fake: torch.Tensor) -> torch.Tensor:
    """Probabilities of the right answers, logits given: each lies in [0, 1], so that no wild logit counts for others."""
    return torch.cat([of_real.sigmoid(), (-of_fake).sigmoid()])


def tells_samples(s: Scene) -> torch.Tensor:
    """Data are taken for data, samples for samples."""
    return _right(s.judged(s.x), s.judged(s.decoded(s.prior())))


def ranks_samples_lower(s: Scene) -> torch.Tensor:
    """A critic values data above samples; its values have no zero of their own."""
    return s.judged(s.x) - s.judged(s.decoded(s.prior()))


def values_data_more(s: Scene) -> torch.Tensor:
    """The same by a tenth of the slope that a critic may have, 1 or 0: no tiny value counts."""
    return (ranks_samples_lower(s) > 0.1).float()


def tells_reconstructions(s: Scene) -> torch.Tensor:
    """Data are taken for data, reconstructions for reconstructions."""
    return _right(s.judged(s.x), reconstructions_pass(s))


def tells_codes(s: Scene) -> torch.Tensor:
    """Codes of the prior are taken for the prior's, codes of data for data's."""
    return _right(s.judged(s.prior(), "code_discriminator"), passes_for_prior(s))


def tells_pairs_of_data(s: Scene) -> torch.Tensor:
    """Pairs of data and their codes have label 1, pairs of samples and theirs label 0."""
    p = s.prior()
    return _right(s.paired(s.x, s.codes(s.x)), s.paired(s.decoded(p), p))


def tells_pairs_of_samples(s: Scene) -> torch.Tensor:
    """The other way round."""
    p = s.prior()
    return _right(s.paired(s.decoded(p), p), s.paired(s.x, s.codes(s.x)))


def tells_own_codes(s: Scene) -> torch.Tensor:
    """A point with its own code has label 1, with one of the prior's label 0."""
    return _right(s.paired(s.x, s.codes(s.x)), s.paired(s.x, s.prior()))


def sample_pairs_low(s: Scene) -> torch.Tensor:
    """Pairs of samples and their codes rank low."""
    p = s.prior()
    return -s.paired(s.decoded(p), p)


def data_pairs_low(s: Scene) -> torch.Tensor:
    """Pairs of data and their codes rank low."""
    return -s.paired(s.x, s.codes(s.x))


def pairs_are_confused(s: Scene) -> torch.Tensor:
    """Pairs of data rank low, those of samples high."""
    return torch.cat([data_pairs_low(s), -sample_pairs_low(s)])


def _probability(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def classifies(s: Scene) -> torch.Tensor:
    """Probability of the right class."""
    return _probability(s.system.look(s.networks, s.x)[1], s.labels)


def classifies_with_few(s: Scene) -> torch.Tensor:
    """The same of a system that learned from few labels."""
    return _probability(s.system.classify(s.networks, s.x), s.labels)


def reads_classes(s: Scene) -> torch.Tensor:
    """Probability of the class that a sample was made of, as the head reads it off the sample."""
    p, classes = s.prior(), s.system.classes
    read = s.networks["head"](s.networks["discriminator"][:-1](s.decoded(p)))
    start = s.system.latent_dim - classes - s.system.continuous
    return _probability(read[:, :classes], p[:, start : start + classes].argmax(1))


def features_come_back(s: Scene) -> torch.Tensor:
    """What the discriminator's hidden layer sees of a reconstruction is what it sees of the point."""
    hidden = s.networks["discriminator"][:-1]
    return -(hidden(s.x) - hidden(s.decoded(s.codes(s.x)))).abs().sum(1)


class Row(NamedTuple):
    """A player of a system, with settings, and what it must get better at."""

    system: str
    player: str
    improves: Callable[[Scene], torch.Tensor]
    settings: Mapping[str, object] = MappingProxyType({})
    prepare: Callable[[torch.nn.ModuleDict], None] = lambda networks: None

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.settings.items())
        return "-".join(part for part in (self.system, self.player, self.improves.__name__, settings) if part)


def _last_layer(network: torch.nn.Module) -> torch.nn.Linear:
    return [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]


@torch.no_grad()
def far_codes(networks: torch.nn.ModuleDict) -> None:
    """A fresh encoder's codes are nearly the prior's; these are not."""
    _last_layer(networks["encoder"]).bias.add_(1.5)


@torch.no_grad()
def wide_samples(networks: torch.nn.ModuleDict) -> None:
    """A fresh generator's samples lie together, far from the data; here they lie around them."""
    layer = _last_layer(networks["generator"])
    layer.weight.mul_(5)
    layer.bias.copy_(torch.tensor([2.0, 1.0]))


@torch.no_grad()
def blank_critic(networks: torch.nn.ModuleDict) -> None:
    """A critic that values all alike."""
    _last_layer(networks["critic"]).weight.zero_()


@torch.no_grad()
def loud_judge(networks: torch.nn.ModuleDict) -> None:
    """Logits thirty times as large: they outweigh what stands beside them in a loss."""
    _last_layer(networks["discriminator"]).weight.mul_(30)


@torch.no_grad()
def loud_features(networks: torch.nn.ModuleDict) -> None:
    """The discriminator's features ten times as large: their distance outweighs the KL beside it; and wide samples."""
    wide_samples(networks)
    for parameter in networks["discriminator"].parameters():
        parameter.mul_(10)


EMPIRICAL = {"kl": "empirical", "posterior": "gaussian"}
ONE_DRAW = {"posterior": "deterministic", "draws": 1}
PLAIN = {"batch_norm": False}
"""A frozen generator that normalises its batch leaves its encoder little to gain."""
INFOGAN = {"latent_dim": 6, "continuous": 1, "classes": 4}
TABLE = [
    Row("aae", "autoencoder", reconstructs),
    Row("aae", "autoencoder", passes_for_prior, {"reconstruction_weight": 0.0}, prepare=far_codes),
    Row("aae", "code_discriminator", tells_codes, prepare=far_codes),
    Row("aae-plus", "encoder", reconstructs, {"encoder_weight": 50.0, **PLAIN}, wide_samples),
    Row("aae-plus", "encoder", passes_for_prior, {"encoder_weight": 0.0}, prepare=far_codes),
    Row("aae-plus", "generator", reconstructs, {"generator_weight": 50.0}),
    Row("aae-plus", "generator", reconstructions_pass, {"generator_weight": 0.0}),
    Row("aae-plus", "discriminator", tells_reconstructions),
    Row("aae-plus", "code_discriminator", tells_codes, prepare=far_codes),
    Row("aae-gan", "encoder", reconstructs, {"encoder_weight": 50.0, **PLAIN}, wide_samples),
    Row("aae-gan", "encoder", passes_for_prior, {"encoder_weight": 0.0}, prepare=far_codes),
    Row("aae-gan", "encoder", code_moments, {"encoder_weight": 0.0, **EMPIRICAL}, prepare=far_codes),
    Row("aae-gan", "encoder", reads_codes, {"code_reconstruction_weight": 50.0}),
    Row("aae-gan", "generator", reconstructs, {"generator_weight": 50.0}),
    Row("aae-gan", "generator", samples_pass, {"generator_weight": 0.0}),
    Row("aae-gan", "generator", reads_codes, {"code_reconstruction_weight": 50.0}),
    Row("aae-gan", "discriminator", tells_samples),
    Row("aae-gan", "discriminator", tells_reconstructions),
    Row("aae-gan", "code_discriminator", tells_codes, prepare=far_codes),
    Row("aavae", "vae", reconstructs),
    Row("aavae", "vae", reconstructs, {"activated": False}),
    Row("aavae", "vae", reconstructs, {"conditional": True}),
    Row("aavae", "vae", reconstructs, {"labelled": 16}),
    Row("aavae", "vae", classifies_with_few, {"labelled": 16, "alpha": 100.0}),
    Row("aavae", "vae", codes_near_prior, {"activated": False, "laplace_scale": 100.0}),
    Row("aavae", "discriminator", tells_samples),
    Row("adversarial-vb", "model", reconstructs),
    Row("adversarial-vb", "model", data_pairs_low, {"laplace_scale": 100.0}),
    Row("adversarial-vb", "discriminator", tells_own_codes),
    Row("age", "encoder", reconstructs, PLAIN, prepare=wide_samples),
    Row("age", "encoder", moments_of_data_against_samples, {"reconstruction_weight": 0.0}),
    Row("age", "generator", points_the_same_way),
    Row("age", "generator", moments_of_read_codes, {"code_reconstruction_weight": 0.0}),
    Row("ali", "discriminator", tells_pairs_of_data),
    Row("ali", "pair", pairs_are_confused),
    Row("bms-vae", "autoencoder", reconstructs, {"reconstruction_weight": 50.0}),
    Row("bms-vae", "autoencoder", passes_for_prior, {"reconstruction_weight": 0.0, **ONE_DRAW}, prepare=far_codes),
    Row("bms-vae", "code_discriminator", tells_codes, prepare=far_codes),
    Row("bms-vae-gan", "autoencoder", reconstructs, {"reconstruction_weight": 50.0}),
    Row(
        "bms-vae-gan",
        "autoencoder",
        passes_for_prior,
        {"reconstruction_weight": 0.0, "adversarial_weight": 0.0, **ONE_DRAW},
        prepare=far_codes,
    ),
    Row("bms-vae-gan", "autoencoder", reconstructions_pass, {"reconstruction_weight": 0.0, "adversarial_weight": 50.0}),
    Row("bms-vae-gan", "autoencoder", samples_pass, {"reconstruction_weight": 0.0, "sample_weight": 50.0}),
    Row("bms-vae-gan", "discriminator", ranks_samples_lower),
    Row("bms-vae-gan", "code_discriminator", tells_codes, prepare=far_codes),
    Row("classifier", "classifier", classifies),
    Row("dcgan", "discriminator", tells_samples),
    Row("dcgan", "generator", samples_pass),
    Row("draw", "draw", reconstructs),
    Row("infogan", "discriminator", tells_samples, INFOGAN),
    Row("infogan", "discriminator", reads_classes, INFOGAN),
    Row("infogan", "generator", samples_pass, {**INFOGAN, "class_weight": 0.0, "continuous_weight": 0.0}),
    Row("infogan", "generator", reads_classes, {**INFOGAN, "class_weight": 50.0}),
    Row("iwgan", "discriminator", tells_samples),
    Row("iwgan", "discriminator", tells_samples, {"conditional": True}),
    Row("iwgan", "generator", samples_pass),
    Row("iwgan", "generator", samples_pass, {"weighted": False}),
    Row("iwgan", "generator", samples_pass, {"conditional": True}),
    Row("sngan", "discriminator", ranks_samples_lower),
    Row("sngan", "generator", samples_pass),
    Row("vae", "vae", reconstructs),
    Row("vae", "vae", codes_near_prior, {"beta": 1000.0}),
    Row("vae", "vae", passes_for_prior, {"marginal_kl_weight": 1000.0}, prepare=far_codes),
    Row("vae", "code_discriminator", tells_codes, {"marginal_kl_weight": 1.0}, prepare=far_codes),
    Row("vae-gan", "encoder", codes_near_prior, prepare=far_codes),
    Row("vae-gan", "encoder", features_come_back, PLAIN, prepare=loud_features),
    Row("vae-gan", "generator", reconstructs, {"gamma": 50.0}),
    Row("vae-gan", "generator", samples_pass, {"gamma": 0.0}),
    Row("vae-gan", "discriminator", tells_samples),
    Row("vae-gan", "discriminator", tells_reconstructions),
    Row("veegan", "discriminator", tells_pairs_of_samples),
    Row("veegan", "generator", sample_pairs_low, prepare=loud_judge),
    Row("veegan", "generator", reads_codes),
    Row("veegan", "reconstructor", reads_codes),
    Row("veegan", "reconstructor", reads_codes, {"posterior": "gaussian"}),
    Row("wae", "autoencoder", reconstructs, {"divergence_weight": 0.1}),
    Row("wae", "autoencoder", code_moments, {"divergence_weight": 1000.0}, prepare=far_codes),
    Row("wae", "autoencoder", passes_for_prior, {"divergence": "gan", "divergence_weight": 1000.0}, prepare=far_codes),
    Row("wae", "code_discriminator", tells_codes, {"divergence": "gan"}, prepare=far_codes),
    Row("wgan-gp", "critic", values_data_more, prepare=blank_critic),
    Row("wgan-gp", "generator", samples_pass),
]
"""Complete: `test_the_table_names_every_player` says what to add for a new one."""


# ---- the contract


def build(row: Row, seed: int = 0):
    """The system with tiny networks, freshly drawn, and the same learning rate for all."""
    kind = registry.load("trainers", row.system)
    known = {field.name for field in dataclasses.fields(kind)}
    small = {name: value for name, value in SMALL.items() if name in known}
    small |= {name: RATE for name in known if name.endswith("lr")}
    system = kind(**{**small, **row.settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = system.networks((2,)).train()
    row.prepare(networks)
    return system, networks


def draw_data(num: int, noise: torch.Generator, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups on a circle of radius 1 about (2, 1): far from where fresh networks put samples."""
    labels = torch.randint(classes, (num,), generator=noise)
    angle = 2 * math.pi * labels / classes
    x = torch.stack([2 + angle.cos(), 1 + angle.sin()], 1) + 0.2 * torch.randn(num, 2, generator=noise)
    return x, labels


def scores(row: Row, system, networks) -> torch.Tensor:
    """On the same fresh points and noise every time, with batch statistics of these points; the networks stay as they are."""
    noise = torch.Generator().manual_seed(1)
    x, labels = draw_data(POINTS, noise)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        return row.improves(Scene(system, copy.deepcopy(networks), x, labels, noise))


def play(row: Row, system, networks, sign: float) -> None:
    """So many updates of one player alone; one that plays on the batch of the player before hears that one's loss first."""
    players = system.players(networks)
    turn = [player.name for player in players].index(row.player)
    player, before = players[turn], players[turn - 1]
    parameters = [p for name in player.networks for p in networks[name].parameters()]
    optimizer, noise = player.optimizer(parameters), torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        x, labels = draw_data(system.batch_size, noise)
        if "classify" in system.capabilities:
            labels = labels.where(torch.arange(len(x)) >= len(x) // 2, -1)
        if not player.fresh:
            before.loss(Batch(x, labels), noise)
        loss, _ = player.loss(Batch(x, labels), noise)
        for parameter, gradient in zip(parameters, torch.autograd.grad(sign * loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()


def gets_better(row: Row, sign: float = 1.0, seed: int = 0) -> None:
    """Raise AssertionError unless more scores rise than chance would have it."""
    system, networks = build(row, seed)
    others = {name: copy.deepcopy(net.state_dict()) for name, net in networks.items()}
    before = scores(row, system, networks)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        play(row, system, networks, sign)
    rises = (scores(row, system, networks) > before).double()
    least = 0.5 + CERTAIN * 0.5 / len(rises) ** 0.5
    assert float(rises.mean()) > least, f"{row}: {float(rises.mean()):.0%} of the scores rise, and {least:.0%} must"
    owned = next(p.networks for p in system.players(networks) if p.name == row.player)
    for name in set(networks) - set(owned):
        assert all(torch.equal(p, others[name][key]) for key, p in networks[name].named_parameters()), name


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_player_gets_better_at_its_part_while_the_others_stand_still(row):
    gets_better(row)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_loss_with_the_wrong_sign_is_caught(row):
    with pytest.raises(AssertionError, match="of the scores rise"):
        gets_better(row, sign=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_both_hold_from_ten_other_starts(row):
    for seed in range(1, 11):
        gets_better(row, seed=seed)
        with pytest.raises(AssertionError, match="of the scores rise"):
            gets_better(row, sign=-1.0, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_names_every_player(name):
    rows = [row for row in TABLE if row.system == name] or [Row(name, "", reconstructs)]
    known = {row.player for row in rows}
    for row in rows:
        system, networks = build(row)
        for player in system.players(networks):
            assert player.name in known, (
                f"{name}: player {player.name!r} has no row in TABLE. Add Row({name!r}, {player.name!r}, criterion), the "
                "criterion a function of ours that says, without its loss, what it gets better at."
            )
