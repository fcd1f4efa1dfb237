"""Telescoping density ratio: a chain of waymarks between q and p, one easy ratio for each link, and their sum."""

from __future__ import annotations

import dataclasses
import math
import time
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn import functional

from klprobe.distributions.posteriors import need_volume
from klprobe.distributions.statistics import mean_error
from klprobe.distributions.whitening import Whitening
from klprobe.estimators._descent import Fitted, Schedule, descend
from klprobe.estimators._ratio import CHUNK, MOMENT_DRAWS, hidden_layers, logistic
from klprobe.estimators._ratio_report import FIT_LEFT_OUT, calibration, clip, evaluate, nwj
from klprobe.estimators._sides import POOLED_SHARES, Moments, Sides, moments, quadratic_ratio
from klprobe.types import Estimate, Estimator, InputError, Progress, no_progress

__all__ = ["Telescoping"]

METHOD = "telescoping"
STOP_DRAWS = 8_000
"""Number of validation codes of each side, which choose the number of links and the weights."""
EASY_LOSS = 0.4
"""Log-loss of the hardest link above which a chain is long enough: about 1.3 nats, or 4 of 5 codes classified correctly."""

LEAST_GAIN = 2e-4
"""Smallest gain of a stronger shrinkage in the mean log-loss, in nats; a smaller one is chance."""


class Start(NamedTuple):
    """The start of the fit."""

    whitening: Whitening
    of_q: Moments
    of_p: Moments
    stop_q: torch.Tensor
    stop_p: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Telescoping(Estimator):
    """Density ratio as a sum over a chain of waymarks between q and p, each link certified, for KL beyond log n."""

    links: int = 0
    """Number of links of the chain. 0 doubles it until the hardest link is easy, up to `most_links`."""
    most_links: int = 32
    """Largest number of links where `links` is 0."""
    layers: int = 3
    """Number of hidden layers of the trunk that all links share."""
    width: int = 128
    """Number of units in each hidden layer."""
    steps: int = 4000
    """Largest number of steps of Adam."""
    batch_size: int = 256
    """Number of fresh codes of q, and of p, in a step; each is seen at every waymark."""
    lr: float = 3e-3
    """Learning rate of Adam at the start of the fit."""
    average: float = 0.998
    """Decay rate, for each step, of the running average of the weights, which is what the report uses."""
    check_every: int = 200
    """Number of steps between two checks on the validation codes."""
    patience: int = 3
    """Number of checks without an improvement after which the learning rate falls; the third time, the fit stops."""
    num_samples: int = 100_000
    """Number of codes of q for each reported expectation."""
    num_prior_samples: int = 1_000_000
    """Number n of codes of p for each reported expectation. It is four times that where log-ratios reach log n - 5, and at most
    10^8 / D beyond 100 latents."""
    moment_samples: int = 0
    """Number of codes of q, and of p, that mean and covariance are computed from. 0 takes 400 for each weight of a quadratic
    form, between 20,000 and 400,000 of them, and 200,000 in a thousand latents."""

    requires: ClassVar[frozenset[str]] = frozenset({"volume"})
    takes: ClassVar[frozenset[str]] = frozenset({"groups"})

    def __post_init__(self) -> None:
        """Raise InputError for settings that give no answer."""
        least = {"most_links": 1, "layers": 1, "width": 1, "steps": 0, "batch_size": 1, "check_every": 1, "num_samples": 4}
        for name, number in (least | {"links": 0, "num_prior_samples": 1000, "moment_samples": 0}).items():
            if getattr(self, name) < number:
                raise InputError(f"{METHOD} needs {name} to be at least {number}; got {getattr(self, name)}.")
        if not self.lr > 0 or not 0 <= self.average < 1:
            raise InputError(f"{METHOD} needs lr > 0 and average in [0, 1); got {self.lr:g} and {self.average:g}.")

    def estimate(
        self, posterior: Distribution, prior: Distribution, *, generator: torch.Generator, progress: Progress = no_progress
    ) -> tuple[Estimate, ...]:
        """Estimate the mean of the summed log-ratio (no bound), and its NWJ and Donsker-Varadhan bounds, for both targets.

        Waymarks are mixtures cos(a) z_q + sin(a) z_p of independent draws. Each link's classifier separates one waymark from
        the next, which works even where q and p do not overlap. The sum of all links is log q/p, evaluated at draws of q,
        which are rare codes for the links near p, so that the mean is no bound. NWJ and Donsker-Varadhan of the sum are
        lower bounds, up to log n. `details` has a lower bound of KL[waymark || next waymark] for each link.

        Returns:
            Five estimates for each target, as for `classifier`.
        Raises:
            InputError: there are fewer than 20 points or prior samples, or the fit diverged.
        Reference: Rhodes, Xu and Gutmann (2020), Telescoping density-ratio estimation.
        """
        started = time.perf_counter()
        sides = Sides.of(posterior, prior, generator, method=METHOD)
        need_volume(sides.q, prior, METHOD)
        begin = _begin(sides, self.moment_samples)
        chain = self._long_enough(begin, sides)
        fitted = self._fit(chain, begin, sides, progress)
        log_ratio = fitted.network.log_ratio
        on_stop = log_ratio(sides.once_q(sides.points.stop, STOP_DRAWS))
        logits = evaluate(sides, log_ratio, on_stop, self.num_samples, self.num_prior_samples)
        found = logits.estimates(METHOD)
        details: dict[str, Any] = {
            "curves": fitted.curves,
            "chosen_step": fitted.best_step,
            "steps_done": fitted.steps_done,
            "start_loss": fitted.start_loss,
            "links": _certificates(fitted.network, sides),
            "error": FIT_LEFT_OUT,
            "calibration": calibration(logits.on_q[0].log_ratio, logits.on_p),
            "settings": dataclasses.asdict(self),
        }
        found[0] = dataclasses.replace(found[0], details=details)
        progress(self.steps, self.steps, f"about {found[0].value:.3g} nats")
        seconds = time.perf_counter() - started
        return tuple(dataclasses.replace(e, seconds=seconds) for e in found)

    def _long_enough(self, begin: Start, sides: Sides) -> Chain:
        """Find the shortest chain of 1, 2, 4, ... links whose hardest link is easy for its quadratic part, or use `links`."""
        links = self.links or 1
        while True:
            chain = Chain(begin.whitening, links, self.width, self.layers, sides.generator)
            _start(chain, begin)
            hardest = min(_link_losses(chain, begin.stop_q, begin.stop_p).tolist())
            if self.links or hardest > EASY_LOSS or 2 * links > self.most_links:
                return chain
            links *= 2

    def _fit(self, chain: Chain, begin: Start, sides: Sides, progress: Progress) -> Fitted[Chain]:
        """Fit all links together, each with the logistic loss of its two waymarks."""

        def batch_loss(network: Chain) -> torch.Tensor:
            u_q, u_p = (begin.whitening(draw(self.batch_size)) for draw in (sides.fit_q, sides.fit_p))
            return logistic(*network(waymarks(u_q, u_p, network.links)))

        def stop_loss(network: Chain) -> float:
            return float(_link_losses(network, begin.stop_q, begin.stop_p).mean())

        schedule = Schedule(self.steps, self.lr, (0.9, 0.99), self.average, self.check_every, self.patience)
        return descend(chain, batch_loss, stop_loss, schedule, progress, method=METHOD)


def _begin(sides: Sides, codes: int) -> Start:
    stop = sides.once_q(sides.points.stop, STOP_DRAWS), sides.prior.stop(STOP_DRAWS)
    whitening = Whitening.of(torch.cat([sides.fit_q(MOMENT_DRAWS), sides.fit_p(MOMENT_DRAWS)]))
    count = min(len(codes) for codes in stop)
    stop_q, stop_p = (whitening(codes[:count]) for codes in stop)
    of_q, of_p = (moments(draw, whitening, codes) for draw in (sides.fit_q, sides.fit_p))
    return Start(whitening, of_q, of_p, stop_q, stop_p)


def _start(chain: Chain, begin: Start) -> None:
    """Make quadratic parts from the waymarks' moments, with the shrinkage that does best on the validation codes, or none."""
    best, kept = float(_link_losses(chain, begin.stop_q, begin.stop_p).mean()), None
    for share in POOLED_SHARES:
        of_q, of_p = begin.of_q.towards(begin.of_p, share), begin.of_p.towards(begin.of_q, share)
        marks = waymark_moments(of_q, of_p, chain.links)
        chain.set_quadratic(marks)
        loss = float(_link_losses(chain, begin.stop_q, begin.stop_p).mean())
        if loss < best - LEAST_GAIN:
            best, kept = loss, marks
    if kept is None:
        kept = [Moments(begin.of_q.mean, begin.of_q.covariance)] * (chain.links + 1)  # no link learned anything
    chain.set_quadratic(kept)


@torch.no_grad()
def _link_losses(chain: Chain, u_q: torch.Tensor, u_p: torch.Tensor) -> torch.Tensor:
    """Log-loss of every link at waymarks of these codes, shape (links,), float64."""
    total = torch.zeros(chain.links, dtype=torch.float64)
    size = max(CHUNK // (chain.links + 1), 1)
    for part_q, part_p in zip(u_q.split(size), u_p.split(size), strict=True):
        near, far = chain(waymarks(part_q, part_p, chain.links))
        for k in range(chain.links):
            total[k] += logistic(near[k], far[k]).double() * len(part_q) / len(u_q)
    return total


@torch.no_grad()
def _certificates(chain: Chain, sides: Sides) -> list[dict[str, float]]:
    """For each link, compute NWJ's lower bound of the KL between its waymarks, at codes that nothing was fitted on."""
    z_q = sides.once_q(sides.points.report, STOP_DRAWS)
    z_p = sides.prior.check(len(z_q))
    count = min(len(z_q), len(z_p))
    near, far = chain(waymarks(chain.whitening(z_q[:count]), chain.whitening(z_p[:count]), chain.links))
    found = []
    for on_near, on_far in zip(near.double(), far.double(), strict=True):
        bound = nwj(mean_error(clip(on_near, count)), clip(on_far, count))
        accuracy = 0.5 * float((on_near > 0).double().mean() + (on_far < 0).double().mean())
        found.append({"lower": bound.value, "std_error": bound.std_error, "accuracy": accuracy, "ceiling": math.log(count) - 5})
    return found


def waymarks(u_q: torch.Tensor, u_p: torch.Tensor, links: int) -> torch.Tensor:
    """Compute cos(a) u_q + sin(a) u_p at links + 1 even angles a from 0 (q) to pi/2 (p); (links + 1, m, D) from two (m, D).

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
        self.hidden = hidden_layers(dim, width, layers, generator)
        self.head = nn.Parameter(torch.zeros(links, width))
        self.form, self.linear = nn.Parameter(torch.zeros(links, dim, dim)), nn.Parameter(torch.zeros(links, dim))
        self.constant = nn.Parameter(torch.zeros(links))
        self.to(whitening.mean.device)

    @torch.no_grad()
    def set_quadratic(self, marks: list[Moments]) -> None:
        """Set the quadratic parts from the waymarks' moments."""
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
        """Sum over all links, log q/p, at codes z, which are not whitened; shape (m,), float64."""
        form, linear, head, constant = self.form.sum(0), self.linear.sum(0), self.head.sum(0), self.constant.sum()

        def at(u: torch.Tensor) -> torch.Tensor:
            return ((u @ form) * u).sum(-1) / u.shape[1] + u @ linear + self.trunk(u) @ head + constant

        return torch.cat([at(self.whitening(rows)).double() for rows in z.split(CHUNK)])
