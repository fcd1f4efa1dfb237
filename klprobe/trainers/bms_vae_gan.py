"""The "best-of-many-samples" hybrid of variational auto-encoder and adversarial network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.trainers._best_of_many import check_draws, draw_many, weight
from klprobe.trainers._shared import PosteriorKind, System, draw_fixed, encode, make_encoder
from klprobe.trainers._spectral import Activation, Architecture, make_generator, make_judge
from klprobe.training.data import Batch
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import best_match, fake_loss, hinge_fake, hinge_real, real_loss, reverse_kl
from klprobe.training.networks import code_discriminator

__all__ = ["BMSVAEGAN"]


@dataclass(frozen=True)
class BMSVAEGAN(System):
    """Best-of-many-samples VAE-GAN: of T reconstructions only the nearest one and the least real one count.

    With z_i ~ q(z|x), x_i = G(z_i), i = 1..T = `draws`, p ~ p(z), and f = log D_I a spectrally normalised network, a direct
    estimate of the log-ratio that is no classifier, a step, each turn on a fresh mini-batch:
    1. encoder and generator together lower -alpha min_i f(x_i) + w min_i |x - x_i|_1 - mean_i logit C(z_i);
    2. D_I lowers E max(0, a - f(x)) + E max(0, b + f(G(p))): data go to f >= a, samples of the prior to f <= -b;
    3. the code discriminator C takes p(z) as real and one z a point as fake.
    T = 1 is alpha-GAN + SN. The third term of 1 is the KL of eq. 7 by a classifier, averaged over the draws (the paper does
    not say); the running text swaps the names of alpha and beta. In the paper samples of the prior are D_I's fakes and yet no
    part of the generator's loss; `sample_weight` adds them, as alpha-GAN does. The norm is a sum over values; f sees pixels
    moved to [-1, 1]. Batch statistics and power iterations move in their own network's turns only.

    Reference: BMS ("Best-of-Many-Samples" Distribution Matching, 2020), eq. 7 and Algorithm 1; values are those for CIFAR-10
    (section 4.2).
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode"})

    latent_dim: int = 100
    """Number of latents (BMS section 4.2: 100; 32 on 2-D toys)."""
    adam_beta1: float = 0.0
    """Decay rate of Adam's running mean of the gradient (BMS section 4.2)."""
    draws: int = 10
    """Number T of draws of q(z|x), of which the best and the worst one count (BMS Tables 1 and 6: 1, 10, 30)."""
    posterior: PosteriorKind = "gaussian"
    """Kind of posterior q(z|x) (ours: BMS does not say). Draws must differ, so deterministic needs draws = 1."""
    architecture: Architecture = "auto"
    """Networks for images. standard is the CNN of SN-GAN; dcgan has the networks of the other systems, of DMVI for 28 pixels
    and of DCGAN for 32 and 64; auto is standard where the side is a multiple of 8 (BMS Table 6 has both, its CelebA the
    latter)."""
    activation: Activation = "rectifier"
    """Hidden units of generator and discriminator, for data that are vectors: rectifier has ReLUs and leaky ones; tanh has tanh
    units, and orthogonal initial weights (as on the 2-D toys of Metz et al. 2017, appendix A)."""
    orthogonal_gain: float = 1.4
    """Gain of the orthogonal initial weights that come with tanh units (ours: Metz et al. give none)."""
    adversarial_weight: float = 1.0
    """Weight alpha of the least real reconstruction (ours: BMS gives no value)."""
    reconstruction_weight: float | None = None
    """Weight w of the reconstruction error, which is beta times lambda of BMS, against a KL of weight 1. By default it is 1 /
    sqrt(D) for points of D values, so that the term has a slope of 1 for any number of pixels (ours: BMS gives no value;
    alpha-GAN sweeps 1, 5, 10, 50)."""
    sample_weight: float = 0.0
    """Weight of -f(G(p)), the score of samples, in the generator's loss (0 is eq. 7; alpha-GAN has 1)."""
    data_target: float = 2.0
    """Target a: a data point with log D_I of at least a costs D_I nothing (BMS section 4.2: 2 on CIFAR-10, section 4.3: 0.5 on
    CelebA)."""
    sample_target: float = 0.0
    """Target b: a sample with log D_I of at most -b costs D_I nothing (BMS: 0 on CIFAR-10, 0.5 on CelebA)."""
    lr: float = 2e-4
    """Learning rate of Adam for encoder and generator (BMS section 4.2; CelebA 1e-4)."""
    discriminator_lr: float = 2e-4
    """Learning rate of D_I (BMS section 4.2; CelebA 4e-4)."""
    code_lr: float = 2e-4
    """Learning rate of the code discriminator (BMS section 4.2)."""
    code_width: int = 750
    """Number of units in each hidden layer of the code discriminator (BMS section 4.2)."""
    code_layers: int = 3
    """Number of hidden layers of the code discriminator (BMS section 4.2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_draws(self, self.draws)

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator, D_I as `discriminator`, and code discriminator."""
        return nn.ModuleDict(
            {
                "encoder": make_encoder(self, shape),
                "generator": make_generator(self, shape),
                "discriminator": make_judge(self, shape),
                "code_discriminator": code_discriminator(self.latent_dim, width=self.code_width, layers=self.code_layers),
            }
        )

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """Encoder with generator, D_I, code discriminator."""
        encoder, generate = networks["encoder"], networks["generator"]
        log_ratio, judge_code = networks["discriminator"], networks["code_discriminator"]

        def autoencoder_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw_many(self, encoder, batch.x, self.draws, rng)
            flat = generate(z.flatten(0, 1))
            least_real = log_ratio(flat).unflatten(0, z.shape[:2]).amin(0).mean()
            reconstruction = best_match(batch.x, flat.unflatten(0, z.shape[:2]))
            marginal = reverse_kl(judge_code(z))
            pull = weight(self.reconstruction_weight, batch.x)
            total = pull * reconstruction - self.adversarial_weight * least_real + marginal
            if self.sample_weight:
                total = total - self.sample_weight * log_ratio(generate(self.prior(len(batch.x), rng))).mean()
            logged = {"reconstruction": reconstruction, "least_real": least_real, "marginal_kl": marginal}
            return total, {name: value.detach() for name, value in logged.items()}

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            with torch.no_grad():
                sample = generate(self.prior(len(batch.x), rng))
            real = hinge_real(log_ratio(batch.x), self.data_target)
            return real + hinge_fake(log_ratio(sample), self.sample_target), {}

        def code_loss(batch: Batch, rng: torch.Generator) -> Loss:
            z = draw_fixed(self, encoder, batch.x, rng)
            return real_loss(judge_code(self.prior(len(z), rng))) + fake_loss(judge_code(z)), {}

        return (
            Player("autoencoder", ("encoder", "generator"), autoencoder_loss, self.adam(self.lr)),
            Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.discriminator_lr)),
            Player("code_discriminator", ("code_discriminator",), code_loss, self.adam(self.code_lr)),
        )

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> Distribution:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return encode(self, networks["encoder"], x, noise)
