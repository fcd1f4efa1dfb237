"""The adversary-activated VAE: it learns from its own samples too, as far as they pass for data; by class, with few labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from klprobe.distributions.posteriors import TorchPosterior, as_double
from klprobe.trainers._classes import FewLabels, beside, check_labels, few_labels
from klprobe.trainers._shared import System
from klprobe.trainers._visible import Visible, log_likelihood, make_generator, mean, nll, visible_for
from klprobe.training.data import Batch, TrainingData
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import fake_loss, gaussian_kl, real_loss
from klprobe.training.networks import discriminator, encoder
from klprobe.types import InputError

__all__ = ["AAVAE"]

POINTS_AT_ONCE = 500
"""Data points that are encoded together under every class: bounds memory."""


@dataclass(frozen=True)
class AAVAE(System):
    """Adversary-activated VAE; by class AA-CVAE, with few labels AA-SVAE. `--no-activated`: VAE, CVAE, SVAE (M2).

    A step: the discriminator lowers -E log D(x) - E log(1 - D(x')), x' = E[x|z, ...] for z ~ p(z), as many as data (eq. 46);
    then the VAE lowers the sum over data and fresh x' of D(x) (E_q[-log p(x|z)] + KL[q(z|x)||p(z)]), divided by the number of
    data (eq. 17, 44). x' and D(x) are numbers held fixed, and D(x) is the sigmoid of logit / `temperature`, in this place
    alone (a reading of ours: in training, logits would grow to undo it). D = 1 on data and 0 on x' is the plain VAE, which
    `--no-activated` gives. D never sees a class. Eq. 45 is intractable, and not used.

    By class (`conditional`): q(z|x, y) and p(x|z, y), a one-hot label joined to x and z; x' have the labels of the mini-batch.
    With few labels (`labelled`; Kingma et al. 2014): a mini-batch is `batch_size` points without labels and as many with,
    which pay -log p(x, y)'s bound and `alpha` times the classifier's cross-entropy; those without pay its mean over q(y|x)
    minus the entropy of q(y|x), -log p(x)'s bound. x' stand beside both, with and without the label that they were made of, but
    the cross-entropy is of data alone (the paper does not say). Without labels z ~ q(z|x) = sum_y q(y|x) q(z|x, y). Data
    and x' go through encoder and generator as one batch, so batch statistics are those of both together, in training as in
    encoding (making x' moves those of the generator too); a network's move in its own turns only.

    Reference: UNIFY (Hu et al. 2018), eqs. 17, 44, 46 and appendix H; Kingma et al. (2014), eqs. 6, 7, 9.
    """

    activated: bool = True
    """Learn the discriminator D; otherwise D is perfect and gives every generated point the weight 0."""
    temperature: float = 1.5
    """Temperature of the sigmoid in the weights D(x) (UNIFY appendix I.2: 1, 1.5, 3 or 5, by cross-validation)."""
    conditional: bool = False
    """Give the class of each data point to encoder and generator."""
    labelled: int | None = None
    """Number of data points whose label is used, for semi-supervised learning; by default none is used
    (UNIFY Table 3: 1 %, 10 % of the data)."""
    classes: int = 10
    """Number of classes, where classes are used; labels count from 0."""
    alpha: float = 0.1
    """Weight of the classifier's cross-entropy on labelled points (Kingma et al. 2014, section 4: 0.1 N beside sums over N)."""
    visible: Visible = "auto"
    """Distribution of a value given the code; auto is bernoulli for data in [0, 1], and laplace for others. bernoulli takes
    grey levels as probabilities (UNIFY appendix I.2), quantized_normal learns a spread for each pixel,
    quantized_normal_shared learns one for all, and laplace has one scale and also takes data outside [0, 1]."""
    laplace_scale: float = 0.1
    """Scale of the Laplace distribution, in the units of the data."""
    levels: int = 256
    """Number of values that a pixel can have, for quantized_normal."""
    lr: float = 1e-3
    """Learning rate of Adam for encoder and generator (that of vae; UNIFY gives none)."""
    discriminator_lr: float = 2e-4
    """Learning rate of Adam for the discriminator (that of UNIFY's GANs: Radford et al. 2016)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InputError(f"aavae needs temperature above 0; got {self.temperature}.")
        if self.labelled is not None and (self.conditional or self.labelled < self.classes):
            raise InputError(
                f"aavae needs labelled of at least {self.classes}, a point of each class, and not with conditional; got "
                f"labelled {self.labelled}, conditional {self.conditional}."
            )

    @property
    def by_class(self) -> bool:
        """Whether codes are decoded to points of a class."""
        return self.conditional or self.labelled is not None

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Labels where it is told classes; it classifies where it learned that from few labels."""
        known: set[Capability] = {"encode", "decode", "log_likelihood"}
        known |= {"labels"} if self.by_class else set()
        return frozenset(known | ({"classify"} if self.labelled is not None else set()))

    def settled(self, data: TrainingData) -> Self:
        """The same system; its visible distribution is chosen by the data where it is `auto`."""
        return replace(self, visible=visible_for(self.visible, data))

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder, generator, and the discriminator and the classifier where there is one."""
        width, layers, batch_norm, extra = self.width, self.layers, self.batch_norm, self.classes if self.by_class else 0
        networks: dict[str, nn.Module] = {
            "encoder": encoder(shape, 2 * self.latent_dim, width=width, layers=layers, extra=extra, batch_norm=batch_norm),
            "generator": make_generator(self, shape, extra),
        }
        if self.labelled is not None:
            networks["classifier"] = encoder(shape, self.classes, width=width, layers=layers, batch_norm=batch_norm)
        if self.activated:
            networks["discriminator"] = discriminator(shape, width=width, layers=layers)
        return nn.ModuleDict(networks)

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The discriminator where there is one, then the VAE."""

        def discriminator_loss(batch: Batch, rng: torch.Generator) -> Loss:
            judge, labels = networks["discriminator"], self._labels(batch)
            return real_loss(judge(batch.x)) + fake_loss(judge(self.generate(networks, batch.x, labels, rng))), {}

        def vae_loss(batch: Batch, rng: torch.Generator) -> Loss:
            x, labels, weights = batch.x, self._labels(batch), batch.x.new_ones(len(batch.x))
            logged = {}
            if self.activated:
                fake = self.generate(networks, x, labels, rng)
                with torch.no_grad():
                    passed = [(networks["discriminator"](some) / self.temperature).sigmoid().flatten() for some in (x, fake)]
                logged = {"weight_of_data": passed[0].mean(), "weight_of_fakes": passed[1].mean()}
                x, weights = torch.cat([x, fake]), torch.cat(passed)
                labels = labels if labels is None else torch.cat([labels, labels])
            loss, parts = self.weighted_bound(networks, x, labels, weights / len(batch.x), rng, len(batch.x))
            return loss, {**logged, **parts}

        owned = tuple(name for name in networks if name != "discriminator")
        vae = Player("vae", owned, vae_loss, self.adam(self.lr))
        if not self.activated:
            return (vae,)
        return (Player("discriminator", ("discriminator",), discriminator_loss, self.adam(self.discriminator_lr)), vae)

    def weighted_bound(
        self,
        networks: nn.ModuleDict,
        x: torch.Tensor,
        labels: torch.Tensor | None,
        weights: torch.Tensor,
        noise: torch.Generator,
        num_data: int,
    ) -> Loss:
        """sum_i w_i times the negative bound of point i, in nats, shape (), and its parts; the classifier's loss as well.

        Args:
            x: Shape (batch, *shape); the first `num_data` are data.
            labels: Shape (batch,), -1 where not known; None without classes.
            weights: w, shape (batch,).
        """
        extra = x.new_zeros(())
        if self.labelled is not None and labels is not None:
            logits = networks["classifier"](x).log_softmax(1)
            told, entropy = labels[:num_data] >= 0, -(logits.exp() * logits).sum(1)
            surprise = F.cross_entropy(logits[:num_data][told], labels[:num_data][told], reduction="sum")
            extra = self.alpha * surprise / num_data - (weights * entropy)[labels < 0].sum()
            extra = extra + math.log(self.classes) * weights.sum()
            x, labels, weights = self._every_class(x, labels, weights, logits.exp())
        z, center, logvar = self._draw(networks, x, labels, noise)
        reconstruction = nll(self, networks["generator"](beside(self, z, labels)), x, noise, weights)
        kl = gaussian_kl(center, logvar, weights)
        return reconstruction + kl + extra, {"nll": reconstruction.detach(), "kl": kl.detach()}

    def _every_class(
        self, x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Points with labels once, those without once for every class, weighted by its probability as well."""
        known, unknown = labels >= 0, labels < 0
        every = torch.arange(self.classes, device=x.device).repeat(int(unknown.sum()))
        shares = (weights[unknown, None] * probs[unknown]).flatten()
        x = torch.cat([x[known], x[unknown].repeat_interleave(self.classes, 0)])
        return x, torch.cat([labels[known], every]), torch.cat([weights[known], shares])

    @torch.no_grad()
    def generate(
        self, networks: nn.ModuleDict, x: torch.Tensor, labels: torch.Tensor | None, noise: torch.Generator
    ) -> torch.Tensor:
        """Generate as many points E[x|z, y] as x has, with its labels and without gradient; an unknown class is drawn."""
        if labels is not None:
            drawn = torch.randint(self.classes, labels.shape, generator=noise, device=x.device)
            labels = torch.where(labels < 0, drawn, labels)
        return self.decode(networks, self.prior(len(x), noise), labels)

    def view(self, data: TrainingData, seed: int) -> TrainingData | FewLabels:
        """Data that training uses, with few labels where `labelled` says so."""
        return data if self.labelled is None else few_labels(data, self, self.labelled, seed, "aavae")

    def encode(
        self,
        networks: nn.ModuleDict,
        x: torch.Tensor,
        noise: torch.Generator | None = None,
        labels: torch.Tensor | None = None,
    ) -> Distribution:
        """q(z|x), or q(z|x, y) of `labels`, batch shape (batch,), event shape (latent_dim,); networks in eval mode.

        Raises:
            CapabilityError: `conditional`, without labels.
        """
        if self.labelled is not None and labels is None:
            return self._mixture(networks, x)
        center, logvar = networks["encoder"](beside(self, x, labels)).chunk(2, dim=-1)
        return Independent(Normal(center, torch.exp(0.5 * logvar), validate_args=False), 1)

    @torch.no_grad()
    def _mixture(self, networks: nn.ModuleDict, x: torch.Tensor) -> TorchPosterior:
        """sum_y q(y|x) q(z|x, y)."""
        logits, codes = [], []
        for block in x.split(POINTS_AT_ONCE):
            every = torch.arange(self.classes, device=x.device).repeat(len(block))
            rows = beside(self, block.repeat_interleave(self.classes, 0), every)
            codes.append(networks["encoder"](rows).reshape(len(block), self.classes, -1))
            logits.append(networks["classifier"](block))
        center, logvar = torch.cat(codes).chunk(2, dim=-1)
        normals = Independent(Normal(center, torch.exp(0.5 * logvar), validate_args=False), 1)
        mixture = MixtureSameFamily(Categorical(logits=torch.cat(logits)), normals, validate_args=False)
        return TorchPosterior(as_double(mixture))

    def classify(self, networks: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        """Logits of q(y|x), shape (batch, classes); needs `labelled`, and networks in eval mode."""
        return networks["classifier"](x)

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """E[x|z], or E[x|z, y] of `labels`, shape (batch, *shape), for codes of shape (batch, latent_dim)."""
        return mean(self, networks["generator"](beside(self, z, labels)))

    def log_likelihood(
        self,
        networks: nn.ModuleDict,
        x: torch.Tensor,
        z: torch.Tensor,
        noise: torch.Generator,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """log p(x|z), or log p(x|z, y) of `labels`, in nats, shape (batch,), float64; with few labels, p(y) is uniform."""
        if self.labelled is None or labels is not None:
            return log_likelihood(self, networks["generator"](beside(self, z, labels)), x, noise)
        each = [
            log_likelihood(self, networks["generator"](beside(self, z, torch.full_like(z[:, 0], c).long())), x, noise)
            for c in range(self.classes)
        ]
        return torch.logsumexp(torch.stack(each), 0) - math.log(self.classes)

    def _draw(
        self, networks: nn.ModuleDict, x: torch.Tensor, labels: torch.Tensor | None, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw one z ~ q for each point, with mean and log-variance of q; shape (batch, latent_dim) each."""
        center, logvar = networks["encoder"](beside(self, x, labels)).chunk(2, dim=-1)
        z = center + torch.exp(0.5 * logvar) * torch.randn(center.shape, generator=rng, device=center.device)
        return z, center, logvar

    def _labels(self, batch: Batch) -> torch.Tensor | None:
        """Labels of a mini-batch, where there are classes."""
        return check_labels(self, batch.labels, "aavae", least=-1 if self.labelled else 0) if self.by_class else None
