"""Invertible maps of codes: a Gaussian posterior behind them is a flow whose density is known at every z.

Each is a torch Transform over vectors (..., D), in float64, so that `TransformedDistribution` of the encoder's Gaussian with
a chain of them is a posterior like any other. A mixture over N points takes one inversion a z, whatever N is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from klprobe.types import InputError

HALVINGS = 200
"""Steps of bisection at most: float64 has no numbers left between the ends after fewer."""


class VectorMap(Transform):
    """What the maps here share: vectors to vectors, one to one."""

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector
    bijective = True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Planar(VectorMap):
    """f(x) = x + u tanh(w x + b), one to one where w u > -1.

    Args:
        w, u: Shape (D,).
        b: Shape ().
    Raises:
        InputError: w u <= -1, where several x have one image, so that what is trained as a density is none.

    Reference: Rezende and Mohamed (2015), Variational inference with normalizing flows, section 4.1 and appendix A.1.
    """

    def __init__(self, w: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.w, self.u, self.b = w.double(), u.double(), b.double()
        self.slope = self.w @ self.u
        if not float(self.slope) > -1:
            raise InputError(f"a planar map with w u = {float(self.slope):.4g}, which is not above -1, is not one to one")

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.u * torch.tanh(x @ self.w + self.b)[..., None]

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        """Along w, a + (w u) tanh(a) = w y + b has one root, which lies within |w u| of the right-hand side: halve that."""
        target = y @ self.w + self.b
        low, high = target - self.slope.abs(), target + self.slope.abs()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if not bool(((middle > low) & (middle < high)).any()):
                break
            below = middle + self.slope * torch.tanh(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return y - self.u * torch.tanh((low + high) / 2)[..., None]

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """log |det df/dx| in nats, shape (...)."""
        return torch.log1p(self.slope * (1 - torch.tanh(x @ self.w + self.b).square()))


class Radial(VectorMap):
    """f(x) = x + beta (x - centre) / (alpha + |x - centre|), one to one where beta > -alpha.

    Args:
        centre: Shape (D,).
        alpha, beta: Shape (); alpha is positive.
    Raises:
        InputError: beta <= -alpha.

    Reference: Rezende and Mohamed (2015), Variational inference with normalizing flows, section 4.1 and appendix A.2.
    """

    def __init__(self, centre: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> None:
        super().__init__()
        self.centre, self.alpha, self.beta = centre.double(), alpha.double(), beta.double()
        if not (float(self.alpha) > 0 and float(self.beta) > -float(self.alpha)):
            raise InputError(
                f"a radial map with alpha = {float(self.alpha):.4g} and beta = {float(self.beta):.4g}, which is not above "
                "-alpha, is not one to one"
            )

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        away = x - self.centre
        return x + self.beta * away / (self.alpha + away.norm(dim=-1, keepdim=True))

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        """The radius r solves r^2 + (alpha + beta - s) r = alpha s, with s that of y."""
        away = y - self.centre
        s = away.norm(dim=-1, keepdim=True)
        half = (self.alpha + self.beta - s) / 2
        root = (half.square() + self.alpha * s).sqrt()
        r = torch.where(half > 0, self.alpha * s / (half + root), root - half)
        return self.centre + away / (1 + self.beta / (self.alpha + r))

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """log |det df/dx| in nats, shape (...)."""
        r = (x - self.centre).norm(dim=-1)
        across = torch.log1p(self.beta / (self.alpha + r))
        return (x.shape[-1] - 1) * across + torch.log1p(self.alpha * self.beta / (self.alpha + r).square())


class InverseAutoregressive(VectorMap):
    """f(x)_d = x_d exp(s_d) + m_d, where m_d and s_d depend on x_1, ..., x_(d-1) alone, of x with its order turned first.

    Args:
        shift_and_log_scale: From x, shape (m, D), to m and s, both (m, D), in float64.

    Reference: Kingma et al. (2016), Improved variational inference with inverse autoregressive flow.
    """

    def __init__(self, shift_and_log_scale: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.shift_and_log_scale = shift_and_log_scale

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        turned = x.flip(-1)
        shift, log_scale = self._parts(turned)
        return turned * log_scale.exp() + shift

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        """One latent after another, D passes through the network."""
        x = torch.zeros_like(y)
        for d in range(y.shape[-1]):
            shift, log_scale = self._parts(x)
            x[..., d] = (y[..., d] - shift[..., d]) * (-log_scale[..., d]).exp()
        return x.flip(-1)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """log |det df/dx| in nats, shape (...)."""
        return self._parts(x.flip(-1))[1].sum(-1)

    def _parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            shift, log_scale = self.shift_and_log_scale(x.reshape(-1, x.shape[-1]))
        return shift.reshape(x.shape), log_scale.reshape(x.shape)
