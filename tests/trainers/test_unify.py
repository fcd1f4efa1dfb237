"""IWGAN, AAVAE and InfoGAN against the formulas of their papers, written out with probabilities, in float64."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from klprobe import registry
from klprobe.cli import main
from klprobe.evaluation.evidence import Evidence
from klprobe.evaluation.feature_net import raw_values
from klprobe.rendering.pictures import sampled_rows
from klprobe.trainers._classes import UNKNOWN, beside, few_labels
from klprobe.trainers.aavae import AAVAE
from klprobe.trainers.infogan import InfoGAN
from klprobe.trainers.iwgan import IWGAN
from klprobe.training.checkpoint import Checkpoint
from klprobe.training.data import Batch, Data
from klprobe.training.loop import Algorithm
from klprobe.training.losses import gaussian_nll, importance_weights, real_loss
from klprobe.training.trained import TrainedSystem
from klprobe.types import CapabilityError, InputError

N, DIM, CLASSES = 13, 3, 4
SMALL = {"latent_dim": DIM, "batch_size": 4, "width": 6, "layers": 1, "classes": CLASSES}
LAPLACE = {"visible": "laplace", "laplace_scale": 0.5}


@pytest.fixture(autouse=True)
def double_codes(monkeypatch):
    """Draws of N(0, I) in float64, so that the float64 networks take them; the values are those of float32."""
    plain = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **how: plain(*shape, **how).double())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(N, 2, generator=generator, dtype=torch.float64), torch.arange(N) % CLASSES)


def made(system):
    """Its networks in eval mode and float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return system.networks((2,)).double().eval()


def loss_of(system, networks, player, batch):
    (found,) = (p for p in system.players(networks) if p.name == player)
    return found.loss(batch, torch.Generator().manual_seed(2))


def close(a, b):
    torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-9)


def one_hot(labels):
    return torch.eye(CLASSES).double()[labels]


@pytest.mark.parametrize("conditional", [False, True])
def test_iwgan_is_eq_16_and_without_weights_the_plain_gan(conditional, batch):
    system = IWGAN(**SMALL, conditional=conditional)
    networks = made(system)
    p = torch.randn(N, DIM, generator=torch.Generator().manual_seed(2))
    known = one_hot(batch.labels) if conditional else batch.x[:, :0]
    fake = networks["generator"](torch.cat([p, known], 1))
    d = networks["discriminator"](torch.cat([fake, known], 1)).sigmoid()[:, 0]
    real = networks["discriminator"](torch.cat([batch.x, known], 1)).sigmoid()[:, 0]
    close(loss_of(system, networks, "discriminator", batch)[0], -real.log().mean() - (1 - d).log().mean())
    w = d / (1 - d)
    loss, logged = loss_of(system, networks, "generator", batch)
    close(loss, -(w / w.sum() * d.log()).sum())
    close(logged["effective_share"], w.sum() ** 2 / (w**2).sum() / N)
    plain = IWGAN(**SMALL, conditional=conditional, weighted=False)
    close(loss_of(plain, networks, "generator", batch)[0], -d.log().mean())


def test_importance_weights_pass_no_gradient_on():
    logits = torch.tensor([[0.0], [math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    weights = importance_weights(logits)
    close(weights, torch.tensor([0.25, 0.75], dtype=torch.float64))  # D = 1/2 and 3/4, D/(1 - D) = 1 and 3
    (slope,) = torch.autograd.grad(real_loss(logits, weights), logits)
    close(slope, torch.tensor([[-0.25 * 0.5], [-0.75 * 0.25]], dtype=torch.float64))  # -w (1 - D)


def terms(networks, x, eps, labels=None):
    """-log p(x|z) and KL of each point, Laplace of scale 0.5 in two dimensions."""
    known = x[:, :0] if labels is None else one_hot(labels)
    mean, logvar = networks["encoder"](torch.cat([x, known], 1)).chunk(2, 1)
    q = Independent(Normal(mean, (0.5 * logvar).exp()), 1)
    kl = torch.distributions.kl_divergence(q, Independent(Normal(torch.zeros(DIM).double(), 1.0), 1))
    again = networks["generator"](torch.cat([mean + (0.5 * logvar).exp() * eps, known], 1))
    return (x - again).abs().sum(1) / 0.5 + 2 * math.log(2 * 0.5) + kl


@pytest.mark.parametrize("conditional", [False, True])
def test_aavae_weighs_data_and_generated_points_by_d_and_trains_d_by_eq_46(conditional, batch):
    system = AAVAE(**SMALL, **LAPLACE, conditional=conditional, temperature=3.0)
    networks, labels, noise = made(system), batch.labels if conditional else None, torch.Generator().manual_seed(2)
    if conditional:
        torch.randint(CLASSES, (N,), generator=noise)  # classes for points of which they are not known
    p, eps = torch.randn(N, DIM, generator=noise), torch.randn(2 * N, DIM, generator=noise)
    fake = networks["generator"](p if labels is None else beside(system, p, labels))
    both, logits = torch.cat([batch.x, fake]), networks["discriminator"](torch.cat([batch.x, fake]))[:, 0]
    each = terms(networks, both, eps, labels if labels is None else labels.repeat(2))
    loss, logged = loss_of(system, networks, "vae", batch)
    close(loss, ((logits / 3).sigmoid() * each).sum() / N)
    close(logged["weight_of_data"], (logits[:N] / 3).sigmoid().mean())
    close(logged["weight_of_fakes"], (logits[N:] / 3).sigmoid().mean())
    d = logits.sigmoid()
    close(loss_of(system, networks, "discriminator", batch)[0], -d[:N].log().mean() - (1 - d[N:]).log().mean())


class Perfect(torch.nn.Module):
    """A discriminator that knows the data."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def forward(self, x):
        return torch.where((x[:, None] == self.data).all(2).any(1), torch.inf, -torch.inf).double()[:, None]


def test_a_perfect_discriminator_and_none_at_all_give_the_plain_vae(batch):
    system = AAVAE(**SMALL, **LAPLACE)
    networks = made(system)
    networks["discriminator"] = Perfect(batch.x)
    noise = torch.Generator().manual_seed(2)
    torch.randn(N, DIM, generator=noise)
    eps = torch.randn(2 * N, DIM, generator=noise)[:N]
    close(loss_of(system, networks, "vae", batch)[0], terms(networks, batch.x, eps).mean())
    del networks["discriminator"]
    plain = AAVAE(**SMALL, **LAPLACE, activated=False)
    vae = registry.load("trainers", "vae")(**{k: v for k, v in SMALL.items() if k != "classes"}, **LAPLACE)
    assert [p.name for p in plain.players(networks)] == ["vae"]
    close(loss_of(plain, networks, "vae", batch)[0], loss_of(vae, networks, "vae", batch)[0])


def test_few_labels_pay_the_bounds_of_m2(batch):
    """-log p(x, y) <= L(x, y); -log p(x) <= sum_y q(y|x) (L(x, y) + log q(y|x)); and the classifier's cross-entropy."""
    system = AAVAE(**SMALL, **LAPLACE, labelled=CLASSES, activated=False, alpha=0.7)
    networks, labels = made(system), batch.labels.where(torch.arange(N) >= 5, UNKNOWN)
    known = N - 5
    eps = torch.randn(known + 5 * CLASSES, DIM, generator=torch.Generator().manual_seed(2))
    log_q = networks["classifier"](batch.x).softmax(1).log()
    told = terms(networks, batch.x[5:], eps[:known], labels[5:]) + math.log(CLASSES)
    surprise = -log_q[torch.arange(5, N), labels[5:]]
    total = (told + 0.7 * surprise).sum()
    for i in range(5):
        for c in range(CLASSES):
            of_class = terms(networks, batch.x[i : i + 1], eps[known + i * CLASSES + c], torch.tensor([c])) + math.log(CLASSES)
            total = total + log_q[i, c].exp() * (of_class[0] + log_q[i, c])
    close(loss_of(system, networks, "vae", Batch(batch.x, labels))[0], total / N)


def test_the_classifier_pays_for_labelled_data_and_not_for_generated_points(batch):
    labels = batch.labels.where(torch.arange(N) >= 5, UNKNOWN)
    losses = []
    for alpha in (0.0, 2.0):
        system = AAVAE(**SMALL, **LAPLACE, labelled=CLASSES, alpha=alpha)
        networks = made(system)
        losses.append(loss_of(system, networks, "vae", Batch(batch.x, labels))[0])
    log_q = networks["classifier"](batch.x).softmax(1).log()
    close(losses[1] - losses[0], -2 * log_q[torch.arange(5, N), labels[5:]].sum() / N)


def test_with_few_labels_the_posterior_and_the_likelihood_are_sums_over_classes(batch):
    system = AAVAE(**SMALL, **LAPLACE, labelled=CLASSES)
    networks, z = made(system), torch.randn(N, DIM, generator=torch.Generator().manual_seed(3))
    each = [system.encode(networks, batch.x, None, torch.full((N,), c)) for c in range(CLASSES)]
    mean, std = (torch.stack([getattr(q, name) for q in each], 1) for name in ("mean", "stddev"))
    truth = MixtureSameFamily(
        Categorical(logits=system.classify(networks, batch.x)), Independent(Normal(mean, std), 1), validate_args=False
    )
    close(system.encode(networks, batch.x).log_prob(z), truth.log_prob(z))
    by_class = [system.log_likelihood(networks, batch.x, z, None, torch.full((N,), c)).exp() for c in range(CLASSES)]
    close(system.log_likelihood(networks, batch.x, z, None), torch.stack(by_class).mean(0).log())


def test_infogan_pays_for_codes_that_cannot_be_read(batch):
    system = InfoGAN(**SMALL | {"latent_dim": 9}, continuous=2, class_weight=0.5, continuous_weight=0.3)
    networks, z = made(system), system.prior(N, torch.Generator().manual_seed(2))
    assert z.shape == (N, 9)
    assert ((z[:, 3:7] == 0) | (z[:, 3:7] == 1)).all()
    assert (z[:, 3:7].sum(1) == 1).all()
    assert z[:, 7:].abs().max() <= 1
    fake = networks["generator"](z)
    features = networks["discriminator"][:-1](fake)
    read, c, u = networks["head"](features), z[:, 3:7], z[:, 7:]
    log_q = (read[:, :4].softmax(1).log() * c).sum(1).mean()
    log_u = Independent(Normal(read[:, 4:6], (0.5 * read[:, 6:]).exp()), 1).log_prob(u).mean()
    d, real = networks["discriminator"](fake).sigmoid(), networks["discriminator"](batch.x).sigmoid()
    unread = -0.5 * log_q - 0.3 * log_u
    loss, logged = loss_of(system, networks, "generator", batch)
    close(loss, -d.log().mean() + unread)
    close(logged["information"], math.log(4) + 2 * math.log(2) + log_q + log_u)
    close(loss_of(system, networks, "discriminator", batch)[0], -real.log().mean() - (1 - d).log().mean() + unread)
    close(gaussian_nll(read[:, 4:6], read[:, 6:], u), -log_u)


def test_one_hot_labels_are_numbers_of_a_vector_and_channels_of_an_image():
    system, labels = IWGAN(**SMALL, conditional=True), torch.tensor([2, 0])
    vector = beside(system, torch.ones(2, 3), labels)
    assert vector.tolist() == [[1, 1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 0, 0, 0]]
    image = beside(system, torch.ones(2, 1, 2, 2), labels)
    assert image.shape == (2, 1 + CLASSES, 2, 2)
    assert image[0, :, 1, 1].tolist() == [1, 0, 0, 1, 0]


def test_of_few_labels_every_class_has_its_share_and_a_batch_says_which_are_told():
    labels = torch.arange(40) % CLASSES
    data = Data("toy", "train", torch.arange(40.0)[:, None], labels)
    few = few_labels(data, AAVAE(**SMALL), 10, 0, "aavae")
    assert labels[few.chosen].bincount().tolist() == [3, 3, 2, 2]
    assert not torch.equal(few.chosen, few_labels(data, AAVAE(**SMALL), 10, 1, "aavae").chosen)
    batch = few.batch(torch.arange(40))
    assert batch.labels[:40].tolist() == [UNKNOWN] * 40
    assert torch.equal(batch.labels[40:], labels[batch.x[40:, 0].long()])
    assert torch.equal(batch.x[40:, 0].long().bincount(minlength=40) > 0, torch.isin(torch.arange(40), few.chosen))
    with pytest.raises(InputError, match="11 labelled points of class 0, and toy has 10"):
        few_labels(data, AAVAE(**SMALL), 44, 0, "aavae")


def test_what_cannot_be_is_said(batch):
    system = IWGAN(**SMALL, conditional=True)
    networks = made(system)
    with pytest.raises(InputError, match="none: choose a data set with labels"):
        loss_of(system, networks, "generator", Batch(batch.x, None))
    with pytest.raises(InputError, match="4 classes, but there are labels from 0 to 12"):
        loss_of(system, networks, "generator", Batch(batch.x, torch.arange(N)))
    with pytest.raises(InputError, match="a point of each class"):
        AAVAE(labelled=9)
    with pytest.raises(InputError, match="temperature above 0"):
        AAVAE(temperature=0.0)
    with pytest.raises(InputError, match="at least 12; got 11"):
        InfoGAN(latent_dim=11)
    with pytest.raises(CapabilityError, match="needs the label of every point"):
        system.decode(networks, torch.zeros(2, DIM).double())


FLAGS = ["--dataset", "digits", "--steps", "4", "--latent-dim", "2", "--width", "8", "--device", "cpu"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [("iwgan", ["--conditional"]), ("aavae", ["--conditional"]), ("aavae", ["--labelled", "20"]), ("infogan", [])],
)
def test_checkpoints_go_through_sample_reconstruct_estimate_and_evaluate(name, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    size = ["--latent-dim", "14"] if name == "infogan" else []
    out = ["--pictures-every", "2", "--out", str(tmp_path)]
    assert main(["train", name, *FLAGS, *size, *flags, *out]) == 0
    path = str(tmp_path / "checkpoint.safetensors")
    assert main(["sample", "--checkpoint", path, "--num", "20"]) == 0
    capsys.readouterr()
    judging = ["--metrics", "accuracy", "elbo", "ivom", "--net-steps", "2", "--num-samples", "40", "--cache", str(tmp_path)]
    status = main(["evaluate", "--checkpoint", path, *judging, "--elbo.draws", "2", "--ivom.steps", "2"])
    said = capsys.readouterr().out
    if name == "aavae":
        assert main(["reconstruct", "--checkpoint", path, "--num", "4"]) == 0
        methods = ["--methods", "monte-carlo", "--num-samples", "50"]
        assert main(["estimate", "--checkpoint", path, "--split", "test", *methods]) == 0
        assert "importance-weighted" in said
    assert status == 0
    if flags:
        assert "\naccuracy" in said
        assert "codes of known class only" in said  # ivom
    else:
        assert "makes no samples of a class" in said


class Named(Algorithm):
    """A system whose samples are their class."""

    capabilities = frozenset({"decode", "labels"})
    conditional, classes, latent_dim = True, 7, 2

    def prior(self, num, noise):
        return torch.zeros(num, 2)

    def decode(self, networks, z, labels):
        return labels[:, None].float()


def test_samples_and_the_classes_they_are_judged_by_agree_over_several_blocks():
    data = Data("toy", "test", torch.arange(1234.0)[:, None] % 7, torch.arange(1234) % 7)
    trained = TrainedSystem(Checkpoint(Named(), torch.nn.ModuleDict(), {"system": "named"}))
    evidence = Evidence(trained, data, data, None, raw_values, num_samples=1234)
    assert torch.equal(evidence.samples[:, 0].long(), evidence.give("sample_labels", "model", "accuracy", False))
    assert torch.equal(evidence.data[:, 0].long(), evidence.give("sample_labels", "real", "accuracy", False))
    assert torch.equal(evidence.data[:, 0].long(), evidence.give("data_labels", "model", "elbo", True))
    rows = sampled_rows(trained, 20, torch.Generator())
    assert {name: set(points[:, 0].tolist()) for name, points in rows.items()} == {f"class {c}": {c} for c in range(7)}
    assert {len(points) for points in rows.values()} == {2}
