"""DRAW: an auto-encoder that looks at the data and paints them in several steps, with a code for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import nn

from klprobe.distributions.posteriors import LOG_2PI, ConditionalDistribution
from klprobe.trainers._shared import System
from klprobe.trainers._visible import Visible, log_likelihood, mean, nll, visible_for
from klprobe.training.data import Batch, TrainingData
from klprobe.training.loop import Capability, Loss, Player
from klprobe.training.losses import gaussian_kl
from klprobe.types import InputError

__all__ = ["DRAW"]

PAIRS_AT_ONCE = 4096
"""Data points that are painted together where a density is asked for: bounds memory."""


@dataclass(frozen=True)
class DRAW(System):
    """Deep recurrent attentive writer: T steps, each with a glance at x, a code z_t, and a change to the canvas.

    In step t the encoder sees x and the error x - E[x|canvas], both through the read operation, and what the decoder
    remembers; it gives q(z_t|x, z_<t) = N(mean_t, diag(var_t)). The decoder takes z_t and adds to the canvas through the write
    operation. The loss is -log p(x|last canvas) + sum_t KL[q(z_t|x, z_<t)||N(0, I)], one draw of every z_t.
    z is all z_t side by side, latent_dim numbers; q(z|x) is a product of conditionals, each a run of the network.

    Reference: Gregor et al. (2015), DRAW. The convolutional DRAW of 2016, which DMVI used, is another network and not here.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"encode", "decode", "log_likelihood"})

    latent_dim: int = 100
    """Number of latents in all, the same for every step (ours; Gregor et al. Table 3: 64 steps of 100 on MNIST)."""
    glances: int = 10
    """Steps T, at most 1,000 (Gregor et al. Table 3: 64; Table 1's DRAW without attention: 10)."""
    attention: Literal["none", "both"] = "none"
    """How the image is read and written. none is everything at once; both goes through a movable grid of Gaussian filters, for
    images only (Gregor et al. section 3.2)."""
    read_size: int = 2
    """Side of the grid that is read (Gregor et al. Table 3: 2 x 2 on MNIST)."""
    write_size: int = 5
    """Side of the grid that is written (Gregor et al. Table 3: 5 x 5 on MNIST)."""
    memory: int = 256
    """Number of units of each LSTM (Gregor et al. Table 3: 256)."""
    visible: Visible = "auto"
    """Distribution of a value given the code; auto is bernoulli for data in [0, 1], and laplace for others (Gregor et al.:
    bernoulli)."""
    laplace_scale: float = 0.1
    """Scale of the Laplace distribution, in the units of the data."""
    levels: int = 256
    """Number of values that a pixel can have, for quantized_normal."""
    lr: float = 1e-3
    """Learning rate of Adam (ours; the paper gives none)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.visible == "quantized_normal_shared":
            raise InputError(
                "draw's canvas holds one spread for each pixel, so visible cannot be quantized_normal_shared: choose "
                "quantized_normal, bernoulli or laplace."
            )
        if self.latent_dim % self.glances:
            raise InputError(
                f"draw divides its latents among its steps: {self.latent_dim} are not a multiple of {self.glances}."
            )

    def settled(self, data: TrainingData) -> Self:
        """The same system; its visible distribution is chosen by the data where it is `auto`."""
        return replace(self, visible=visible_for(self.visible, data))

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Encoder (reading, LSTM, mean and log-variance of z_t) and decoder (LSTM, writing)."""
        if self.attention == "both" and len(shape) != 3:
            raise InputError(f"draw's attention moves over images; for points of shape {tuple(shape)} attention must be none.")
        codes = self.latent_dim // self.glances
        copies = 2 if self.visible == "quantized_normal" else 1
        if self.attention == "both":
            read: nn.Module = _Reader(shape, self.memory, self.read_size)
            write: nn.Module = _Writer((copies * shape[0], *shape[1:]), self.memory, self.write_size)
            seen = 2 * shape[0] * self.read_size**2
        else:
            read, write = _ReadAll(), _WriteAll((copies * shape[0], *shape[1:]), self.memory)
            seen = 2 * math.prod(shape)
        encoder = {
            "read": read,
            "cell": nn.LSTMCell(seen + self.memory, self.memory),
            "code": nn.Linear(self.memory, 2 * codes),
        }
        decoder = {"cell": nn.LSTMCell(codes, self.memory), "write": write}
        return nn.ModuleDict({"encoder": nn.ModuleDict(encoder), "decoder": nn.ModuleDict(decoder)})

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """One player, that owns everything."""

        def loss(batch: Batch, rng: torch.Generator) -> Loss:
            epsilon = torch.randn(len(batch.x), self.latent_dim, generator=rng, device=batch.x.device)
            painting = _Painting(self, networks, batch.x)
            kl = batch.x.new_zeros(())
            for part in epsilon.chunk(self.glances, 1):
                center, logvar = painting.look()
                kl = kl + gaussian_kl(center, logvar)
                painting.paint(center + torch.exp(0.5 * logvar) * part)
            reconstruction = nll(self, painting.canvas, batch.x, rng)
            return reconstruction + kl, {"nll": reconstruction.detach(), "kl": kl.detach()}

        return (Player("draw", ("encoder", "decoder"), loss, self.adam(self.lr)),)

    def encode(self, networks: nn.ModuleDict, x: torch.Tensor, noise: torch.Generator | None = None) -> DRAWPosterior:
        """q(z|x), batch shape (batch,), event shape (latent_dim,); put the networks in eval mode first."""
        return DRAWPosterior(self, networks, x)

    def decode(self, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
        """E[x|z], shape (batch, *shape), for codes of shape (batch, latent_dim)."""
        return mean(self, self._canvas(networks, z))

    def log_likelihood(self, networks: nn.ModuleDict, x: torch.Tensor, z: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        """log p(x|z) in nats, shape (batch,), float64, for x of shape (batch, *shape) and z of shape (batch, latent_dim)."""
        return log_likelihood(self, self._canvas(networks, z), x, noise)

    def _canvas(self, networks: nn.ModuleDict, z: torch.Tensor) -> torch.Tensor:
        """The last canvas: the numbers of p(x|z)."""
        painting = _Painting(self, networks, None, z)
        for part in z.chunk(self.glances, 1):
            painting.paint(part)
        return painting.canvas


class DRAWPosterior(ConditionalDistribution):
    """q(z|x_n) = prod_t N(z_t; mean_t(x_n, z_<t), var_t(x_n, z_<t)): each density is a run of the network.

    Args:
        system, networks: Trained system, with networks in eval mode.
        x: Data points, shape (N, *shape), on the networks' device.
    """

    def __init__(self, system: DRAW, networks: nn.ModuleDict, x: torch.Tensor) -> None:
        self.system, self.networks, self.x = system, networks, x
        super().__init__(len(x), system.latent_dim)

    def sample_at(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw z_i ~ q(z|x_{indices_i}); shape (m, D), float64."""
        epsilon = torch.randn(len(indices), self.dim, generator=generator)
        return self._run(indices, epsilon, given=False)[0]

    def log_prob_at(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_{indices_i}) in nats, shape (m,)."""
        return self._run(indices, z, given=True)[1]

    def log_prob_matrix(self, z: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """log q(z_i|x_n) of every pair, shape (len(z), len(indices)).

        The canvas depends on the code alone and the data enter the encoder linearly, so that without attention a pair costs
        a step of the recurrent part only; the products with all pixels are done once for each code and for each point.
        """
        if self.system.attention != "none":
            return super().log_prob_matrix(z, indices)
        x = self.x[indices.to(self.x.device)]
        return torch.cat([self._matrix(codes, x) for codes in z.split(max(1, PAIRS_AT_ONCE // len(x)))])

    @torch.no_grad()
    def _matrix(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Every code with every data point, the gates of the encoder's LSTM as a sum of what either gives."""
        encoder = cast(Any, self.networks["encoder"])
        cell = encoder["cell"]
        pixels = math.prod(x.shape[1:])
        of_data, of_error, of_memory = cell.weight_ih.split([pixels, pixels, self.system.memory], 1)
        from_point = x.flatten(1) @ (of_data + of_error).T + cell.bias_ih + cell.bias_hh
        painting = _Painting(self.system, self.networks, None, z.to(x))
        hidden = kept = x.new_zeros(len(z), len(x), self.system.memory)
        density = torch.zeros(len(z), len(x), dtype=torch.float64)
        for step in z.double().chunk(self.system.glances, 1):
            from_code = painting.made[0] @ of_memory.T - mean(self.system, painting.canvas).flatten(1) @ of_error.T
            gates = from_code[:, None] + from_point + hidden @ cell.weight_hh.T
            take, keep, new, show = gates.chunk(4, 2)
            kept = keep.sigmoid() * kept + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * kept.tanh()
            density += _log_normal(step[:, None], *encoder["code"](hidden).double().cpu().chunk(2, 2))
            painting.paint(step.to(x))
        return density

    def select(self, indices: torch.Tensor) -> DRAWPosterior:
        """The posterior of a subset of the points, in the order of `indices`."""
        return DRAWPosterior(self.system, self.networks, self.x[indices.to(self.x.device)])

    @torch.no_grad()
    def _run(self, indices: torch.Tensor, numbers: torch.Tensor, given: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and their log-densities; `numbers` are the codes, or the noise that makes them."""
        codes, densities = [], []
        for rows, part in zip(indices.split(PAIRS_AT_ONCE), numbers.split(PAIRS_AT_ONCE), strict=True):
            painting = _Painting(self.system, self.networks, self.x[rows.to(self.x.device)])
            steps, density = [], torch.zeros(len(rows), dtype=torch.float64)
            for step in part.double().chunk(self.system.glances, 1):
                center, logvar = (t.double().cpu() for t in painting.look())
                z = step if given else center + torch.exp(0.5 * logvar) * step
                density += _log_normal(z, center, logvar)
                painting.paint(z.to(self.x))
                steps.append(z)
            codes.append(torch.cat(steps, 1))
            densities.append(density)
        return torch.cat(codes), torch.cat(densities)


def _log_normal(z: torch.Tensor, center: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """log N(z; center, diag(exp(logvar))), summed over the last axis."""
    return -0.5 * ((z - center).square() * torch.exp(-logvar) + logvar + LOG_2PI).sum(-1)


class _Painting:
    """The state of the two LSTMs and the canvas, through the steps."""

    def __init__(self, system: DRAW, networks: nn.ModuleDict, x: torch.Tensor | None, like: torch.Tensor | None = None) -> None:
        self.system, self.x = system, x
        self.encoder, self.decoder = cast(Any, networks["encoder"]), cast(Any, networks["decoder"])
        start = x if x is not None else like
        if start is None:
            raise ValueError("a painting needs data points, or codes")
        self.seen = self.made = (start.new_zeros(len(start), system.memory), start.new_zeros(len(start), system.memory))
        self.canvas = self.decoder["write"].blank(len(start)).to(start)

    def look(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of q(z_t|x, z_<t), each of shape (batch, codes)."""
        if self.x is None:
            raise ValueError("there are no data points to look at")
        error = self.x - mean(self.system, self.canvas)
        seen = self.encoder["read"](self.x, error, self.made[0])
        self.seen = self.encoder["cell"](torch.cat([seen, self.made[0]], 1), self.seen)
        center, logvar = self.encoder["code"](self.seen[0]).chunk(2, 1)
        return center, logvar

    def paint(self, z: torch.Tensor) -> None:
        """Take in z_t and change the canvas."""
        self.made = self.decoder["cell"](z, self.made)
        self.canvas = self.canvas + self.decoder["write"](self.made[0])


class _ReadAll(nn.Module):
    """Everything: the data and the error as they are (Gregor et al. eq. 17)."""

    def forward(self, x: torch.Tensor, error: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.flatten(1), error.flatten(1)], 1)


class _WriteAll(nn.Module):
    """A linear map to the whole canvas (Gregor et al. eq. 18)."""

    def __init__(self, shape: tuple[int, ...], memory: int) -> None:
        super().__init__()
        self.shape, self.paint = shape, nn.Linear(memory, math.prod(shape))

    def blank(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, *self.shape)

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        return self.paint(memory).unflatten(1, self.shape)


class _Window(nn.Module):
    """A grid of n x n Gaussian filters over an image, placed by what the decoder remembers (Gregor et al. eq. 19 to 26)."""

    def __init__(self, height: int, width: int, memory: int, n: int) -> None:
        super().__init__()
        self.height, self.width, self.n = height, width, n
        self.place = nn.Linear(memory, 5)

    def forward(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Filters over rows (batch, n, height) and columns (batch, n, width), and the intensity (batch, 1, 1, 1)."""
        across, down, log_variance, log_stride, log_intensity = self.place(memory).chunk(5, 1)
        stride = (max(self.height, self.width) - 1) / max(self.n - 1, 1) * log_stride.exp()
        steps = (torch.arange(self.n).to(memory) - (self.n - 1) / 2) * stride
        variance = log_variance.exp()[:, :, None]
        rows = self._filters(0.5 * (self.height + 1) * (down + 1) - 1 + steps, variance, self.height)
        columns = self._filters(0.5 * (self.width + 1) * (across + 1) - 1 + steps, variance, self.width)
        return rows, columns, log_intensity.exp()[:, :, None, None]

    @staticmethod
    def _filters(centers: torch.Tensor, variance: torch.Tensor, size: int) -> torch.Tensor:
        """Normalised over the pixels, in log-space: a filter beyond the edge takes the edge's pixel, and nothing vanishes."""
        pixels = torch.arange(size).to(centers)
        return torch.softmax(-0.5 * (pixels - centers[:, :, None]).square() / variance, 2)


class _Reader(nn.Module):
    """An n x n glimpse of the data and one of the error (Gregor et al. eq. 27)."""

    def __init__(self, shape: tuple[int, ...], memory: int, n: int) -> None:
        super().__init__()
        self.window = _Window(shape[1], shape[2], memory, n)

    def forward(self, x: torch.Tensor, error: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        rows, columns, intensity = self.window(memory)
        both = torch.cat([x, error], 1)
        return (intensity * (rows[:, None] @ both @ columns[:, None].mT)).flatten(1)


class _Writer(nn.Module):
    """An n x n patch, spread over the canvas by the filters (Gregor et al. eq. 28 and 29)."""

    def __init__(self, shape: tuple[int, ...], memory: int, n: int) -> None:
        super().__init__()
        self.shape, self.window = shape, _Window(shape[1], shape[2], memory, n)
        self.patch = nn.Linear(memory, shape[0] * n * n)

    def blank(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, *self.shape)

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        rows, columns, intensity = self.window(memory)
        patch = self.patch(memory).unflatten(1, (self.shape[0], self.window.n, self.window.n))
        return rows[:, None].mT @ patch @ columns[:, None] / intensity
