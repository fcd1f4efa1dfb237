"""torch Distributions that an encoder returns: one for all points made of those of each block, and the prior among them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    TransformedDistribution,
)

from klprobe.distributions.families import as_double, take

CLOSE = 1e-4
"""Densities agree when they differ by less than this, relative to 1 and to their size: float32."""
Change = Callable[[list[torch.Tensor]], torch.Tensor]


def flat(distribution: Distribution, rows: int) -> Distribution | None:
    """The same distribution with batch shape (rows,) and event shape (D,), if its density survives that; else None."""
    try:
        flattened = _flattened(distribution, rows)
        return flattened if flattened is not None and _is_faithful(distribution, flattened, rows) else None
    except (ValueError, RuntimeError, TypeError, AttributeError, NotImplementedError, IndexError, KeyError):
        return None  # a class of the user's own, which is made in another way


def joined(blocks: Sequence[Distribution]) -> Distribution:
    """One distribution over the points of all blocks, each as `flat` gave it."""
    return _rebuilt(blocks, torch.cat)


def is_constant(distribution: Distribution, rows: int) -> bool:
    """Whether all points have the same distribution, by its density at one of its draws."""
    if not distribution.batch_shape or distribution.batch_shape[0] != rows:
        return True
    if rows < 2:
        return False
    try:
        z = distribution.sample()
        density = distribution.log_prob(z[:1].expand(z.shape)).reshape(rows, -1).sum(1).double()
        other = distribution.log_prob(z[-1:].expand(z.shape)).reshape(rows, -1).sum(1).double()
    except (ValueError, RuntimeError, NotImplementedError):
        return False
    return _agree(density, density[:1].expand(rows)) and _agree(other, other[:1].expand(rows))


def as_prior(distribution: Distribution, rows: int, dim: int) -> Distribution | None:
    """A distribution that does not depend on the point as a prior of event shape (D,), in float64; None where it is none."""
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    if batch == () and event == (dim,):
        return as_double(distribution)
    if batch == (dim,) and event == () and (dim != rows or not batch):
        return as_double(Independent(distribution, 1))
    if not batch or batch[0] not in (1, rows):
        return None
    whole = flat(distribution, batch[0])
    if whole is None or tuple(whole.event_shape) != (dim,):
        return None
    return as_double(_rebuilt([whole], lambda tensors: tensors[0][0]))


def kind_of(law: Distribution) -> str:
    """The name of a Distribution, as a user typed it."""
    while isinstance(law, Independent):
        law = law.base_dist
    return type(law).__name__


def _flattened(distribution: Distribution, rows: int) -> Distribution | None:
    base: Any = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    batch, event = tuple(base.batch_shape), tuple(base.event_shape)
    if not batch or batch[0] != rows:
        return None
    if len(event) == 1 and len(batch) == 1:
        return base
    if event or (isinstance(base, MixtureSameFamily) and len(batch) != 2):
        return None
    if len(batch) != 2:
        base = _rebuilt([base.expand(batch)], lambda tensors: tensors[0].reshape(rows, -1))
    return Independent(base, 1, validate_args=False)


def _is_faithful(given: Distribution, flattened: Distribution, rows: int) -> bool:
    """Whether the density of the distribution, put together anew, is that of the one that was given, at its own draws."""
    z = flattened.sample()
    other_way = torch.arange(rows - 1, -1, -1)
    told = given.log_prob(z.reshape(*given.batch_shape, *given.event_shape)).reshape(rows, -1).sum(1)
    found = take(joined([flattened, flattened]), other_way).log_prob(z[other_way])
    return _agree(found.double(), told[other_way].double())


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a - b).abs() <= CLOSE * (1 + b.abs())).all())


def _rebuilt(blocks: Sequence[Any], change: Change) -> Any:
    """A distribution of the blocks' kind, whose parameters `change` makes of theirs."""
    first = blocks[0]
    kind: Any = type(first)
    if isinstance(first, Independent):
        inner = _rebuilt([block.base_dist for block in blocks], change)
        return Independent(inner, first.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(first, MixtureSameFamily):
        weights = _rebuilt([block.mixture_distribution for block in blocks], change)
        components = _rebuilt([block.component_distribution for block in blocks], change)
        return kind(weights, components, validate_args=False)
    if isinstance(first, TransformedDistribution) and not first.arg_constraints:
        return kind(_rebuilt([block.base_dist for block in blocks], change), first.transforms, validate_args=False)
    if isinstance(first, MultivariateNormal):
        loc, scale_tril = (change([getattr(block, name) for block in blocks]) for name in ("loc", "scale_tril"))
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    signature = inspect.signature(kind.__init__).parameters
    names = [name for name in signature if name in first.arg_constraints]
    if {"probs", "logits"} <= set(names):  # the constructor takes one only
        names.remove("probs")
    return kind(**{name: change([getattr(block, name) for block in blocks]) for name in names}, validate_args=False)
