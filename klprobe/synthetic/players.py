"""The players of the experiments: a classifier, a fixed Gaussian, and one that learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch.distributions import kl_divergence

from klprobe.distributions.problems import Gaussian, affine_gaussian
from klprobe.estimators._ratio import logistic
from klprobe.synthetic.settings import Settings
from klprobe.training.networks import code_discriminator
from klprobe.types import InputError

Weights = tuple[torch.Tensor, torch.Tensor]
"""W, shape (k, d), and b, shape (d,)."""
Draw = Callable[[int], torch.Tensor]
"""A function from a number to that many draws, shape (num, d), float32."""
CHUNK = 4096
"""Draws that go through the classifier together where no gradient is kept."""


class Stop(Exception):
    """A run cannot go on."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.at = {"step": step, "reason": reason}


class Classifier:
    """MLP with leaky units between draws of q, label 1, and draws of p, label 0: its logit stands for log q/p."""

    def __init__(self, dim: int, settings: Settings, seed: int, device: str) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = code_discriminator(dim, width=settings.classifier_width, layers=settings.classifier_layers)
        self.network = network.to(device)
        self.parameters: list[torch.Tensor] = list(self.network.parameters())
        self.optimiser = _adam(self.parameters, settings.classifier_lr, settings)

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (m,), float32."""
        return self.network(x).squeeze(-1)

    def learn(self, x_q: torch.Tensor, x_p: torch.Tensor, step: int) -> None:
        """One step on draws of both; not taken where the loss is not finite: Stop."""
        loss = logistic(*self.logit(torch.cat([x_q, x_p])).split(len(x_q)))
        _check_finite(loss.item(), "classifier's", step)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    @torch.no_grad()
    def log_ratio(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (m,), float64, on the CPU."""
        return torch.cat([self.logit(rows) for rows in x.split(CHUNK)]).double().cpu()

    def mean_log_ratio(self, draw_q: Draw, num: int) -> float:
        """E_q log q/p at fresh draws, in nats."""
        return float(self.log_ratio(draw_q(num)).mean())


class Sampler:
    """Draws of a fixed Gaussian through the Cholesky factor of its covariance, x = b + L z."""

    def __init__(self, law: Gaussian, noise: torch.Generator) -> None:
        self.mean, self.factor = (t.float().to(noise.device) for t in (law.loc, law.scale_tril))
        self.noise = noise

    def __call__(self, num: int) -> torch.Tensor:
        """Draw that many points, shape (num, d), float32."""
        return self.mean + torch.randn(num, len(self.mean), generator=self.noise, device=self.noise.device) @ self.factor.T


class Learned:
    """The second Gaussian, x = W^T z + b with W and b as parameters."""

    def __init__(self, weights: Weights, settings: Settings, noise: torch.Generator) -> None:
        self.weights, self.mean = (t.float().to(noise.device).requires_grad_() for t in weights)
        self.parameters, self.loss = [self.weights, self.mean], settings.generator_loss
        self.optimiser = _adam(self.parameters, settings.generator_lr, settings)
        self.noise = noise

    def draw(self, num: int) -> torch.Tensor:
        """Draws that carry a gradient, shape (num, d); through W as in eq. 8, whose factor would change with every step."""
        z = torch.randn(num, len(self.weights), generator=self.noise, device=self.noise.device)
        return z @ self.weights + self.mean

    @torch.no_grad()
    def fixed(self, num: int) -> torch.Tensor:
        """Draws without a gradient."""
        return self.draw(num)

    def learn(self, classifier: Classifier, num: int, step: int) -> None:
        """One step down the generator's loss; not taken where the loss is not finite: Stop."""
        loss = GENERATOR_LOSSES[self.loss](classifier.logit(self.draw(num)))
        _check_finite(loss.item(), "generator's", step)
        self.optimiser.zero_grad()
        loss.backward(inputs=self.parameters)
        self.optimiser.step()

    def kl_to(self, p: Gaussian, step: int) -> float:
        """KL[q||p] in closed form, float64; Stop where W^T W is singular."""
        try:
            return float(kl_divergence(affine_gaussian(self.weights.detach().cpu(), self.mean.detach().cpu()), p))
        except InputError as error:
            raise Stop(step, str(error)) from error


def reverse_kl_generator_loss(logit: torch.Tensor) -> torch.Tensor:
    """E_q[-log D/(1 - D)], D = P(fixed | x), which is E_q log q/p of a perfect classifier, shape ().

    Args:
        logit: Estimate of log q/p by the classifier at draws of q, which is minus the logit of D.
    Reference: DMVI section 5, after Mohamed and Lakshminarayanan (2016).
    """
    return logit.mean()


def non_saturating_generator_loss(logit: torch.Tensor) -> torch.Tensor:
    """E_q[-log D], D = P(fixed | x), shape (); argument and reference as of `reverse_kl_generator_loss`."""
    return torch.nn.functional.softplus(logit).mean()


GENERATOR_LOSSES = {"reverse-kl": reverse_kl_generator_loss, "non-saturating": non_saturating_generator_loss}


def _adam(parameters: Iterable[torch.Tensor], lr: float, settings: Settings) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=lr, betas=settings.betas)


def _check_finite(loss: float, whose: str, step: int) -> None:
    if not math.isfinite(loss):
        raise Stop(step, f"the {whose} loss is {loss}")
