import csv

import pytest
import torch
from torch.distributions import kl_divergence

from klprobe import registry
from klprobe.distributions.posteriors import standard_normal
from klprobe.trainers.vae import VAE
from klprobe.training.checkpoint import load_checkpoint
from klprobe.training.data import Batch
from klprobe.training.loop import train
from klprobe.training.losses import bernoulli_nll
from klprobe.types import InputError


@pytest.fixture(scope="module")
def digits():
    return registry.load("datasets", "digits")().load("train")


@pytest.fixture
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(latent_dim=3, width=16).networks((64,))


def test_the_loss_is_the_negative_elbo_of_its_own_encoding_and_draw(networks, digits):
    vae, x = VAE(latent_dim=3, width=16, beta=2.5), digits.x[:10]
    networks.eval()
    loss, logged = vae.players(networks)[0].loss(Batch(x, None), torch.Generator().manual_seed(4))
    q = vae.encode(networks, x)
    z = q.mean + q.stddev * torch.randn(10, 3, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(logged["nll"], bernoulli_nll(networks["generator"](z), x), rtol=1e-6, atol=0)
    torch.testing.assert_close(logged["kl"].double(), kl_divergence(q, standard_normal(3)).mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, logged["nll"] + 2.5 * logged["kl"])


def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(networks, digits):
    (player,) = VAE(latent_dim=3, width=16).players(networks)
    loss, _ = player.loss(Batch(digits.x[:32], None), torch.Generator().manual_seed(0))
    for gradient in torch.autograd.grad(loss, list(networks.parameters())):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_encoding_in_eval_mode_does_not_depend_on_the_company_of_a_point(networks, digits):
    vae = VAE(latent_dim=3, width=16)
    networks.eval()
    together, alone = vae.encode(networks, digits.x[:20]), vae.encode(networks, digits.x[7:8])
    assert (together.batch_shape, together.event_shape) == ((20,), (3,))
    torch.testing.assert_close(together.mean[7:8], alone.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.stddev[7:8], alone.stddev, rtol=1e-5, atol=1e-6)


def test_decoding_gives_grey_levels_of_the_datas_shape(networks):
    x = VAE(latent_dim=3).decode(networks, torch.zeros(5, 3))
    assert x.shape == (5, 64)
    assert 0 <= x.min() <= x.max() <= 1


def trained(folder, digits, **changes):
    train(VAE(latent_dim=3, width=32, **changes), digits, steps=200, out=folder, log_every=50)
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_lowers_the_loss_and_beta_trades_kl_for_reconstruction(digits, tmp_path):
    """Entropy of uniform pixels is 64 log 2 = 44.4 nats; beta = 10 must buy less KL than beta = 0.1."""
    low, high = (trained(tmp_path / str(beta), digits, beta=beta) for beta in (0.1, 10.0))
    for rows in (low, high):
        assert float(rows[-1]["vae.loss"]) < float(rows[0]["vae.loss"])
    assert float(low[-1]["vae.nll"]) < 44.4
    assert float(high[-1]["vae.kl"]) < float(low[-1]["vae.kl"])
    assert float(high[-1]["vae.nll"]) > float(low[-1]["vae.nll"])


def test_images_train_on_the_convolutional_networks(tmp_path):
    from klprobe.training.data import Data

    x = torch.randint(256, (8, 3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path = train(VAE(latent_dim=2, batch_size=4), Data("toy", "train", x), steps=2, out=tmp_path)
    loaded = load_checkpoint(path)
    assert loaded.algorithm.encode(loaded.networks, x.float() / 255).batch_shape == (8,)


@pytest.mark.parametrize(
    "setting", [{"latent_dim": 0}, {"beta": -1.0}, {"beta": float("nan")}, {"lr": 0.0}, {"batch_size": 1}, {"layers": -1}]
)
def test_settings_without_sense_are_named(setting):
    with pytest.raises(InputError, match=f"vae needs .*{next(iter(setting))}"):
        VAE(**setting)
