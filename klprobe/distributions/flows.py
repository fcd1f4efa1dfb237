"""Normalised densities with parameters: the Gaussian mixture, the masked autoregressive flow over it, and its file.

This is the only file of klprobe that touches nflows. A flow that maf has fitted is kept as safetensors (no pickle), and is a
torch Distribution when it is read again: a prior like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
from torch import nn
from torch.distributions import Categorical, Distribution, constraints

from klprobe.distributions.posteriors import LOG_2PI
from klprobe.distributions.whitening import Whitening
from klprobe.files import tensor_file
from klprobe.files.tensor_file import opened
from klprobe.types import InputError

KIND = "flow"
"""Value of `klprobe.kind` in the header of a flow's file."""
SMALL = 0.01
"""Factor on the last layer's initial weights, so that the flow starts near the identity and its density near the base."""
SCALE_FLOOR = 1e-3
"""Smallest scale in nflows, which scales by softplus(a) + 0.001; the bias makes the scale 1 at the start."""
ROWS = 4096
"""Number of codes in one pass through the networks, which limits memory and changes no result."""


class Mixture(nn.Module):
    """sum_k weight_k N(u; mean_k, diag(std_k^2)).

    It has to be kept in float64, because the quadratic form is a difference of numbers of size 1 / variance.

    Args:
        weights: Weights of the components, shape (K,), positive, with sum 1.
        means, variances: Moments of the components, shape (K, D).
    """

    def __init__(self, weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(weights.log())
        self.means = nn.Parameter(means)
        self.log_stds = nn.Parameter(0.5 * variances.log())

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """log t(u) in nats, shape (m,), for u of shape (m, D)."""
        precisions = torch.exp(-2 * self.log_stds)
        scaled = self.means * precisions
        squares = u.square() @ precisions.T - 2 * u @ scaled.T + (self.means * scaled).sum(1)
        log_normal = -0.5 * squares - self.log_stds.sum(1) - 0.5 * u.shape[1] * LOG_2PI
        return torch.logsumexp(self.logits.log_softmax(0) + log_normal, 1)

    def sample(self, num_samples: int) -> torch.Tensor:
        """Draws, shape (m, D), from torch's global generator."""
        chosen = Categorical(logits=self.logits).sample(torch.Size([num_samples]))
        return self.means[chosen] + self.log_stds[chosen].exp() * torch.randn_like(self.means[chosen])


class Flow(nn.Module):
    """log base(f(u)) + log|det df/du| with f a chain of affine autoregressive maps.

    With a standard normal base this is DMVI's MAF. A mixture lets it have separate groups, which continuous maps of one
    normal cannot tear apart: on FactorVAE's MNIST posteriors (D = 10) 0.71 against 0.67 nats.

    Reference: Papamakarios, Pavlakou, Murray (2017), Masked autoregressive flow for density estimation.
    """

    def __init__(self, base: Mixture, dim: int, flows: int, width: int, layers: int) -> None:
        super().__init__()
        self.base = base
        self.maps = nn.ModuleList(
            MaskedAffineAutoregressiveTransform(dim, width, num_blocks=layers, use_residual_blocks=False) for _ in range(flows)
        )
        with torch.no_grad():
            for transform in self.maps:
                last: Any = transform.get_submodule("autoregressive_net.final_layer")
                last.weight.mul_(SMALL)
                last.bias.view(dim, 2).copy_(torch.tensor([math.log(math.expm1(1 - SCALE_FLOOR)), 0.0]))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """log t(u) in nats, shape (m,), for u of shape (m, D)."""
        log_det = torch.zeros_like(u[:, 0])
        for transform in self.maps:
            u, added = transform(u)
            log_det, u = log_det + added, u.flip(1)
        return log_det + self.base(u)

    def sample(self, num_samples: int) -> torch.Tensor:
        """Draws, shape (m, D), from torch's global generator; each costs D passes through every map."""
        u = self.base.sample(num_samples)
        for transform in reversed(self.maps):
            inverse: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = transform.inverse  # type: ignore[assignment]
            u, _ = inverse(u.flip(1))
        return u


class FlowPrior(Distribution):
    """A fitted flow on whitened codes as a density of z; event shape (D,), float64."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, flow: Flow, whitening: Whitening, name: str = "") -> None:
        self.flow, self.whitening, self.name = flow.double().eval().requires_grad_(False), whitening, name
        super().__init__(torch.Size(), torch.Size([len(whitening.mean)]), validate_args=False)

    def __repr__(self) -> str:
        return f"FlowPrior({self.name or 'D = ' + str(self.event_shape[0])})"

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """log p(z) in nats of z with shape (..., D); shape (...)."""
        rows = self.whitening.white(value.double().reshape(-1, self.event_shape[0]))
        found = torch.cat([self.flow(part) for part in rows.split(ROWS)]) if len(rows) else rows[:, 0]
        return (found + self.whitening.log_det).reshape(value.shape[:-1])

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, shape sample_shape + (D,), float64, from torch's global generator."""
        shape = torch.Size(sample_shape)
        left, found = math.prod(shape), []
        with torch.no_grad():
            while left > 0:
                found.append(self.whitening.undo(self.flow.sample(min(ROWS, left))))
                left -= len(found[-1])
        return torch.cat(found).reshape(*shape, *self.event_shape) if found else torch.empty(*shape, *self.event_shape).double()


def save_flow(path: Path, flow: Flow, whitening: Whitening, settings: Mapping[str, Any]) -> None:
    """Write a flow to `path`, whole or not at all; `settings` says where it came from, in strict JSON.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = dict(flow.named_parameters())
    tensors |= {f"whitening.{name}": getattr(whitening, name) for name in ("mean", "std", "rotation")}
    tensor_file.write(path, tensors, settings, kind=KIND)


def load_flow(path: Path) -> FlowPrior:
    """Read the flow in a file of `save_flow`; all sizes are those of the tensors, and none is taken from the header.

    Raises:
        InputError: the file is missing, damaged or of another kind, or its tensors do not make a flow with a density.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the file that --maf.save wrote.")
    with opened(path) as file:
        kind = file.kind
        tensors = {name: tensor.double() for name, tensor in file.tensors().items()} if kind == KIND else {}
    if kind != KIND:
        raise InputError(f"{path} holds no flow (its klprobe.kind is {str(kind)[:40]!r}): give the file that --maf.save wrote.")
    try:
        return FlowPrior(*_rebuilt(tensors), name=path.name)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} holds tensors that do not make a flow ({said}): save it again with --maf.save.") from error


def _rebuilt(tensors: Mapping[str, torch.Tensor]) -> tuple[Flow, Whitening]:
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{bad[0]} is not finite")
    mean, std, rotation = (tensors[f"whitening.{name}"] for name in ("mean", "std", "rotation"))
    dim, components = len(mean), len(tensors["base.logits"])
    if mean.shape != (dim,) or std.shape != (dim,) or rotation.shape != (dim, dim):
        raise ValueError("its whitening has tensors of different sizes")
    sign, log_volume = torch.linalg.slogdet(rotation)
    if not (std > 0).all() or sign == 0:
        raise ValueError("its whitening cannot be undone")
    flows = _count(tensors, r"maps\.(\d+)\.")
    layers = _count(tensors, r"maps\.0\.autoregressive_net\.blocks\.(\d+)\.")
    width = len(tensors["maps.0.autoregressive_net.initial_layer.weight"]) if flows else 1

    def build() -> Flow:
        base = Mixture(torch.ones(components), torch.zeros(components, dim), torch.ones(components, dim))
        return Flow(base, dim, flows, width, layers)

    with torch.device("meta"):  # sizes without memory, so that missing tensors take none
        needed = {name: parameter.shape for name, parameter in build().named_parameters()}
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith("whitening.")}
    if bad := sorted(name for name in given.keys() | needed if name not in given or given[name].shape != needed.get(name)):
        raise ValueError(f"{bad[0]} is missing, too much or of another shape")
    with torch.random.fork_rng():
        flow = build().double()
    flow.load_state_dict(given, strict=False)  # the masks are not in the file, because they follow from the sizes
    return flow, Whitening(mean, std, rotation, float(log_volume - std.log().sum()), math.nan)


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
