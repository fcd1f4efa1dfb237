"""A chain of log-ratios between waymarks from q to p: one trunk, one head and one quadratic form for each link."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from klprobe.estimators._moments import Moments, quadratic_ratio
from klprobe.estimators._ratio import CHUNK
from klprobe.estimators._whitening import Whitening


def waymarks(u_q: torch.Tensor, u_p: torch.Tensor, links: int) -> torch.Tensor:
    """cos(a) u_q + sin(a) u_p at links + 1 even angles a from 0 (q) to pi/2 (p); shape (links + 1, m, D) from two of (m, D).

    The squares of the two weights add up to 1, so that moments move evenly from q's to p's.
    """
    angle = torch.linspace(0, math.pi / 2, links + 1, dtype=u_q.dtype, device=u_q.device)[:, None, None]
    mixed = angle.cos() * u_q + angle.sin() * u_p
    mixed[-1] = u_p  # the cosine of pi/2 is not quite zero
    return mixed


def waymark_moments(q: Moments, p: Moments, links: int) -> list[Moments]:
    """Moments of the waymarks of independent draws."""
    angles = torch.linspace(0, math.pi / 2, links + 1, dtype=torch.float64).tolist()
    return [
        Moments(math.cos(a) * q.mean + math.sin(a) * p.mean, math.cos(a) ** 2 * q.covariance + math.sin(a) ** 2 * p.covariance)
        for a in angles
    ]


class Chain(nn.Module):
    """logit_k(u) = h(u) . head_k + u'A_k u / D + b_k'u + c_k, the log-ratio of waymark k to waymark k + 1."""

    def __init__(self, whitening: Whitening, links: int, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.whitening, self.links = whitening, links
        dim = len(whitening.mean)
        sizes = [dim, *[width] * layers]
        hidden = [nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes)]
        for layer in hidden:
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.hidden = nn.ModuleList(hidden)
        self.head = nn.Parameter(torch.zeros(links, width))
        self.form, self.linear = nn.Parameter(torch.zeros(links, dim, dim)), nn.Parameter(torch.zeros(links, dim))
        self.constant = nn.Parameter(torch.zeros(links))
        self.to(whitening.mean.device)

    @torch.no_grad()
    def set_quadratic(self, marks: list[Moments]) -> None:
        """The quadratic parts from the waymarks' moments."""
        for k, (near, far) in enumerate(pairwise(marks)):
            for parameter, value in zip((self.form, self.linear, self.constant), quadratic_ratio(near, far), strict=True):
                parameter[k].copy_(value)

    def trunk(self, u: torch.Tensor) -> torch.Tensor:
        """Hidden units, shape (..., width)."""
        for layer in self.hidden:
            u = functional.silu(layer(u))
        return u

    def forward(self, marks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each link's logit at its near and at its far waymark, shapes (links, m), from waymarks (links + 1, m, D)."""
        h, dim = self.trunk(marks), marks.shape[-1]

        def logits(at: slice) -> torch.Tensor:
            u = marks[at]
            quadratic = (torch.bmm(u, self.form) * u).sum(-1) / dim + (u @ self.linear[:, :, None]).squeeze(-1)
            return (h[at] @ self.head[:, :, None]).squeeze(-1) + quadratic + self.constant[:, None]

        return logits(slice(0, -1)), logits(slice(1, None))

    @torch.no_grad()
    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """The sum over all links, log q/p, at codes z as they come; shape (m,), float64."""
        form, linear, head, constant = self.form.sum(0), self.linear.sum(0), self.head.sum(0), self.constant.sum()

        def at(u: torch.Tensor) -> torch.Tensor:
            return ((u @ form) * u).sum(-1) / u.shape[1] + u @ linear + self.trunk(u) @ head + constant

        return torch.cat([at(self.whitening(rows)).double() for rows in z.split(CHUNK)])
