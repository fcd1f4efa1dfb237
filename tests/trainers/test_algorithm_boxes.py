"""Every player's loss against the formula in its paper's box, written out with probabilities, in float64."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal

from klprobe import registry
from klprobe.training.data import Batch
from klprobe.training.losses import imq_mmd
from klprobe.types import InputError

N, DIM = 13, 3
SMALL = {"latent_dim": DIM, "batch_size": 4, "width": 6, "layers": 1, "code_width": 6, "code_layers": 1}


class Box:
    """A system in eval mode and float64, its players' losses at a fixed seed, and the draws that they make there."""

    def __init__(self, name, **settings):
        system = registry.load("trainers", name)
        known = {field.name for field in dataclasses.fields(system)}
        self.system = system(**{key: value for key, value in SMALL.items() if key in known} | settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.networks = self.system.networks((2,)).double().eval()
        self.x = torch.randn(N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.players = {player.name: player for player in self.system.players(self.networks)}

    def loss(self, player):
        return self.players[player].loss(Batch(self.x, None), torch.Generator().manual_seed(2))

    def normals(self, count):
        """The first draws of N(0, I) in a turn, float32 as the systems make them."""
        noise = torch.Generator().manual_seed(2)
        return [torch.randn(N, DIM, generator=noise).double() for _ in range(count)]

    def __getattr__(self, name):
        return self.networks[name]


@pytest.fixture(autouse=True)
def double_codes(monkeypatch):
    """Draws of N(0, I) in float64, so that the float64 networks take them; the values are those of float32."""
    plain = torch.randn

    def doubled(*shape, **how):
        return plain(*shape, **how).double()

    monkeypatch.setattr(torch, "randn", doubled)


def log_d(logits):
    return logits.sigmoid().log().mean()


def log_not_d(logits):
    return (1 - logits.sigmoid()).log().mean()


def reverse(logits):
    return -log_d(logits) + log_not_d(logits)


def norm1(a, b):
    return sum((a[i] - b[i]).abs().sum() for i in range(N)) / N


def close(loss, truth):
    torch.testing.assert_close(loss.detach(), truth.detach(), rtol=1e-9, atol=1e-9)


def test_dcgan():
    box = Box("dcgan")
    (p,) = box.normals(1)
    close(box.loss("discriminator")[0], -log_d(box.discriminator(box.x)) - log_not_d(box.discriminator(box.generator(p))))
    close(box.loss("generator")[0], -log_d(box.discriminator(box.generator(p))))


def test_wgan_gp_moves_the_critic_apart_and_the_generator_up():
    box = Box("wgan-gp", penalty_weight=0.0)
    (p,) = box.normals(1)
    fake = box.critic(box.generator(p)).mean()
    loss, logged = box.loss("critic")
    close(loss, fake - box.critic(box.x).mean())
    close(logged["distance"], -loss)
    close(box.loss("generator")[0], -fake)
    heavier = Box("wgan-gp", penalty_weight=7.0).loss("critic")
    close(heavier[0], loss + 7 * heavier[1]["penalty"])


def test_aae_whose_two_players_share_mini_batch_and_codes():
    box = Box("aae", reconstruction_weight=3.0)
    assert [player.fresh for player in box.players.values()] == [True, False]
    z, (p,) = box.encoder(box.x), box.normals(1)
    close(box.loss("autoencoder")[0], 3 * norm1(box.x, box.generator(z)) + reverse(box.code_discriminator(z)))
    close(box.loss("code_discriminator")[0], -log_d(box.code_discriminator(p)) - log_not_d(box.code_discriminator(z)))


@pytest.mark.parametrize("name", ["aae-plus", "aae-gan"])
def test_aae_plus_and_aae_gan(name):
    box = Box(name, encoder_weight=3.0, generator_weight=5.0)
    z, (p,) = box.encoder(box.x), box.normals(1)
    again, sample = box.generator(z), box.generator(p)
    close(box.loss("encoder")[0], 3 * norm1(box.x, again) + reverse(box.code_discriminator(z)))
    close(box.loss("code_discriminator")[0], -log_not_d(box.code_discriminator(z)) - log_d(box.code_discriminator(p)))
    judge, distance = box.discriminator, 5 * norm1(box.x, again)
    if name == "aae-plus":
        close(box.loss("generator")[0], distance + reverse(judge(again)))
        close(box.loss("discriminator")[0], -log_d(judge(box.x)) - log_not_d(judge(again)))
    else:
        close(box.loss("generator")[0], distance + reverse(judge(again)) + reverse(judge(sample)))
        close(box.loss("discriminator")[0], -2 * log_d(judge(box.x)) - log_not_d(judge(again)) - log_not_d(judge(sample)))


def test_aae_gan_with_the_empirical_kl_and_code_reconstruction():
    box = Box("aae-gan", kl="empirical", code_reconstruction_weight=4.0)
    z, (p,) = box.encoder(box.x), box.normals(1)
    m, s = z.mean(0), z.std(0, correction=0)
    kl = (-DIM / 2 + ((s**2 + m**2) / 2 - s.log()).sum()) / DIM
    close(box.loss("encoder")[0], norm1(box.x, box.generator(z)) + kl + 4 * norm1(p, box.encoder(box.generator(p))))
    assert set(box.players) == {"encoder", "generator", "discriminator"}


def test_aae_gan_presets_are_the_two_papers_and_give_way_to_what_is_asked():
    system = registry.load("trainers", "aae-gan")
    assert (system().updates, system().code_width) == (1, 1000)
    assert (system(preset="agan").updates, system(preset="agan").code_width) == (2, 750)
    assert (system(preset="agan", updates=1).updates, system(code_width=5).code_width) == (1, 5)
    assert system(**dataclasses.asdict(system(preset="agan"))) == system(preset="agan")


def test_vae_gan():
    box = Box("vae-gan", gamma=3.0)
    mean, logvar = box.encoder(box.x).chunk(2, 1)
    eps, p = box.normals(2)
    q = Independent(Normal(mean, (0.5 * logvar).exp()), 1)
    kl = torch.distributions.kl_divergence(q, Independent(Normal(torch.zeros(DIM).double(), 1.0), 1)).mean()
    again, sample = box.generator(mean + (0.5 * logvar).exp() * eps), box.generator(p)
    distance = (box.discriminator[:-1](box.x) - box.discriminator[:-1](again)).square().sum() / 2 / N
    close(box.loss("encoder")[0], kl + distance)
    judge = box.discriminator
    close(box.loss("generator")[0], 3 * distance - log_d(judge(again)) - log_d(judge(sample)))
    close(box.loss("discriminator")[0], -log_d(judge(box.x)) - log_not_d(judge(again)) - log_not_d(judge(sample)))


def test_ali():
    box = Box("ali", posterior="deterministic")
    (p,) = box.normals(1)
    real, fake = box.discriminator(box.x, box.encoder(box.x)), box.discriminator(box.generator(p), p)
    close(box.loss("discriminator")[0], -log_d(real) - log_not_d(fake))
    close(box.loss("pair")[0], -log_d(fake) - log_not_d(real))


def test_veegan_and_its_bound():
    box = Box("veegan")
    (p,) = box.normals(1)
    sample = box.generator(p)
    generated, reconstructed = box.discriminator(sample, p), box.discriminator(box.x, box.encoder(box.x))
    distance, kl = norm1(p, box.encoder(sample)), log_d(generated) - log_not_d(generated)
    close(box.loss("discriminator")[0], -log_d(generated) - log_not_d(reconstructed))
    loss, logged = box.loss("generator")
    close(loss, kl + distance)
    close(box.loss("reconstructor")[0], distance)
    log_prior = Independent(Normal(torch.zeros(DIM).double(), 1.0), 1).log_prob(p).mean()
    close(logged["bound"], -(kl - log_prior + distance))


def test_veegan_scores_codes_by_the_density_of_a_gaussian_reconstructor():
    box = Box("veegan", posterior="gaussian")
    (p,) = box.normals(1)
    mean, logvar = box.encoder(box.generator(p)).chunk(2, dim=1)
    density = Independent(Normal(mean, (0.5 * logvar).exp()), 1).log_prob(p).mean()
    close(box.loss("reconstructor")[0], -density)


def test_age():
    box = Box("age", reconstruction_weight=3.0, code_reconstruction_weight=5.0)
    p = F.normalize(box.normals(1)[0])

    def code(x):
        z = box.encoder(x)
        return z / z.norm(dim=1, keepdim=True)

    def divergence(z):
        m, s = z.mean(0) * math.sqrt(DIM), z.std(0, correction=0) * math.sqrt(DIM)
        return -1 / 2 + ((s**2 + m**2) / 2 - s.log()).sum() / DIM

    data, fake = code(box.x), code(box.generator(p))
    mean_l1 = norm1(box.x, box.generator(data)) / 2
    close(box.loss("encoder")[0], divergence(data) - divergence(fake) + 3 * mean_l1)
    close(box.loss("generator")[0], divergence(fake) + 5 * (1 - (p * fake).sum(1)).mean())


def test_adversarial_vb():
    box = Box("adversarial-vb", visible="laplace", laplace_scale=0.5, posterior="gaussian")
    mean, logvar = box.encoder(box.x).chunk(2, 1)
    eps, p = box.normals(2)
    z = mean + (0.5 * logvar).exp() * eps
    nll = 2 * norm1(box.x, box.generator(z)) + 2 * math.log(2 * 0.5)
    close(box.loss("model")[0], nll + box.discriminator(box.x, z).mean())
    close(box.loss("discriminator")[0], -log_d(box.discriminator(box.x, z)) - log_not_d(box.discriminator(box.x, p)))


def test_adaptive_contrast_adds_up_to_the_kl_when_the_discriminator_is_perfect():
    """T = log q(z|x) - log r(z|x) plus what `contrast` gives must be log q(z|x) - log p(z), for any draws and any r."""
    box = Box("adversarial-vb", visible="laplace", posterior="gaussian", adaptive_contrast=True, contrast_samples=5)
    noise = torch.Generator().manual_seed(5)
    mean, logvar = box.encoder(box.x).chunk(2, 1)
    z = mean + (0.5 * logvar).exp() * torch.randn(N, DIM, generator=noise)
    standardised, log_ratio = box.system.contrast(box.encoder, box.x, z, noise)
    q = Independent(Normal(mean, (0.5 * logvar).exp()), 1)
    torch.randn(N, DIM, generator=noise.manual_seed(5))  # z's own
    draws = mean + (0.5 * logvar).exp() * torch.randn(5 * N, DIM, generator=noise).reshape(5, N, DIM)
    m, s = draws.mean(0), draws.std(0, correction=0)
    close(standardised, (z - m) / s)
    r, p = Independent(Normal(m, s), 1), Independent(Normal(torch.zeros(DIM).double(), 1.0), 1)
    perfect = (q.log_prob(z) - r.log_prob(z)).mean()
    close(perfect + log_ratio, (q.log_prob(z) - p.log_prob(z)).mean())


def test_vae_with_a_marginal_kl():
    box = Box("vae", visible="laplace", laplace_scale=0.5, beta=2.0, marginal_kl_weight=3.0)
    mean, logvar = box.encoder(box.x).chunk(2, 1)
    eps, p = box.normals(2)
    z = mean + (0.5 * logvar).exp() * eps
    q = Independent(Normal(mean, (0.5 * logvar).exp()), 1)
    kl = torch.distributions.kl_divergence(q, Independent(Normal(torch.zeros(DIM).double(), 1.0), 1)).mean()
    judge = box.code_discriminator
    close(box.loss("vae")[0], 2 * norm1(box.x, box.generator(z)) + 2 * kl + 3 * reverse(judge(z)))
    close(box.loss("code_discriminator")[0], -log_d(judge(p)) - log_not_d(judge(z)))


def test_vae_with_a_quantized_normal_decodes_to_the_means_of_the_levels():
    system = registry.load("trainers", "vae")(**SMALL, visible="quantized_normal")
    numbers = torch.tensor([[100.5 / 256, 7.0, 0.0, 0.0], [-1.0, 2.0, 0.0, 0.0]])
    networks = {"generator": lambda z: numbers}
    torch.testing.assert_close(system.decode(networks, None), torch.tensor([[100 / 255, 1.0], [0.0, 1.0]]))


def test_sngan():
    box = Box("sngan", margin=0.2)
    (p,) = box.normals(1)
    real, fake = box.discriminator(box.x), box.discriminator(box.generator(p))
    hinge = (0.2 - real).clamp(min=0).mean() + (0.2 + fake).clamp(min=0).mean()
    close(box.loss("discriminator")[0], hinge)
    close(box.loss("generator")[0], -fake.mean())


@pytest.mark.parametrize("divergence", ["mmd", "gan"])
def test_wae(divergence):
    box = Box("wae", divergence=divergence, divergence_weight=3.0)
    z, (p,) = box.encoder(box.x), box.normals(1)
    distance = (box.x - box.generator(z)).square().sum() / N
    if divergence == "gan":
        judge = box.code_discriminator
        close(box.loss("autoencoder")[0], distance - 3 * log_d(judge(z)))
        close(box.loss("code_discriminator")[0], -log_d(judge(p)) - log_not_d(judge(z)))
    else:
        close(box.loss("autoencoder")[0], distance + 3 * imq_mmd(z, p))


def best_of_four(box):
    """Four draws of a Gaussian encoder, their reconstructions, and the loss of the code discriminator with one draw."""
    mean, logvar = box.encoder(box.x).chunk(2, 1)
    std, (eps, p) = (0.5 * logvar).exp(), box.normals(2)
    z = [mean + std * each for each in torch.randn(4, N, DIM, generator=torch.Generator().manual_seed(2)).double()]
    code_loss = -log_d(box.code_discriminator(p)) - log_not_d(box.code_discriminator(mean + std * eps))
    return z, torch.stack([box.generator(one) for one in z]), code_loss


def nearest(box, again):
    return sum(min((box.x[n] - one[n]).abs().sum() for one in again) for n in range(N)) / N


def test_bms_vae():
    box = Box("bms-vae", draws=4, reconstruction_weight=3.0)
    z, again, code_loss = best_of_four(box)
    kl = sum(reverse(box.code_discriminator(one)) for one in z) / 4
    close(box.loss("autoencoder")[0], 3 * nearest(box, again) + kl)
    close(box.loss("code_discriminator")[0], code_loss)


def test_bms_vae_gan():
    box = Box("bms-vae-gan", draws=4, adversarial_weight=2.0, reconstruction_weight=3.0, data_target=0.3, sample_target=0.1)
    z, again, code_loss = best_of_four(box)
    least_real = sum(min(box.discriminator(one[n : n + 1]).squeeze() for one in again) for n in range(N)) / N
    kl = sum(reverse(box.code_discriminator(one)) for one in z) / 4
    close(box.loss("autoencoder")[0], -2 * least_real + 3 * nearest(box, again) + kl)
    (p,) = box.normals(1)
    real, fake = box.discriminator(box.x), box.discriminator(box.generator(p))
    close(box.loss("discriminator")[0], (0.3 - real).clamp(min=0).mean() + (0.1 + fake).clamp(min=0).mean())
    close(box.loss("code_discriminator")[0], code_loss)


def test_bms_vae_gan_of_one_draw_is_alpha_gan_with_a_direct_ratio_and_its_samples_where_asked():
    box = Box("bms-vae-gan", draws=1, posterior="deterministic", sample_weight=5.0)
    z, (p,) = box.encoder(box.x), box.normals(1)
    again, sample = box.generator(z), box.generator(p)
    ratio = -box.discriminator(again).mean() - 5 * box.discriminator(sample).mean()
    close(box.loss("autoencoder")[0], norm1(box.x, again) / math.sqrt(2) + ratio + reverse(box.code_discriminator(z)))


@pytest.mark.parametrize("name", ["bms-vae", "bms-vae-gan"])
def test_a_reconstruction_weight_below_zero_is_refused(name):
    with pytest.raises(InputError, match="finite reconstruction_weight of at least 0; got -1"):
        registry.load("trainers", name)(reconstruction_weight=-1.0)


@pytest.mark.parametrize("name", ["bms-vae", "bms-vae-gan"])
def test_many_draws_of_a_deterministic_posterior_are_refused(name):
    with pytest.raises(InputError, match=r"draws that differ.*10 times the same one\. Take posterior = gaussian"):
        registry.load("trainers", name)(posterior="deterministic")
