"""Torch's own distributions, all of them alike: some of a batch, in float64, their densities and draws in blocks.

Torch leaves to its caller what these functions do: a density outside of the support is whatever the formula says there,
float32 parameters meet no float64 codes, and ten thousand draws of a mixture of full covariances are made at once.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    Multinomial,
    MultivariateNormal,
    OneHotCategorical,
    TransformedDistribution,
    Uniform,
    VonMises,
    constraints,
    transforms,
)

from klprobe.runtime.randomness import seeded
from klprobe.types import InputError

Change = Callable[[torch.Tensor], torch.Tensor]
Measure = Literal["space", "simplex", "atoms"]
"""What a density is taken with respect to: volume, volume on the simplex, or the number of points."""

NUMBERS = 1 << 24
"""Numbers computed together, 128 MB of float64: bounds memory, not results."""
PLAIN = (constraints.real, constraints.real_vector)


def take(distribution: Distribution, indices: torch.Tensor) -> Distribution:
    """The same distribution restricted to some entries of its first batch dimension.

    Raises:
        InputError: a distribution whose parameters cannot be indexed; give it to `klprobe.estimate` as samples, or
            subclass `ConditionalDistribution` with `sample_at` and `log_prob_at`.
    """
    return _rebuild(distribution, lambda t: t[indices])


def as_double(distribution: Distribution) -> Distribution:
    """The same distribution with float64 parameters; unchanged where its parameters are not known."""
    if not _is_torchs(distribution):  # one of the user's own may hold more than its parameters
        return distribution
    try:
        return _rebuild(distribution, lambda t: t.detach().double() if t.is_floating_point() else t)
    except InputError:
        return distribution


def row_parameters(distribution: Distribution) -> list[torch.Tensor]:
    """The tensors that make a torch distribution, which say all of each row; none where they are not known."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    with contextlib.suppress(InputError):
        _rebuild(distribution, note)
        return found
    return []


def _is_torchs(distribution: Distribution) -> bool:
    return type(distribution).__module__.startswith("torch.")


def _rebuild(distribution: Distribution, change: Change) -> Distribution:
    """The same distribution with its parameters changed; transforms of one batch with it."""
    kind: Any = type(distribution)
    if isinstance(distribution, Independent):
        return Independent(_rebuild(distribution.base_dist, change), distribution.reinterpreted_batch_ndims, False)
    if isinstance(distribution, MixtureSameFamily):
        weights, components = distribution.mixture_distribution, distribution.component_distribution
        if len(weights.batch_shape) < len(components.batch_shape) - 1:  # weights that all of the batch share
            weights = weights.expand(components.batch_shape[:-1])
        return kind(_rebuild(weights, change), _rebuild(components, change), False)
    if isinstance(distribution, MultivariateNormal):
        return MultivariateNormal(change(distribution.loc), scale_tril=change(distribution.scale_tril), validate_args=False)
    if isinstance(distribution, TransformedDistribution) and kind is TransformedDistribution:
        shape = distribution.batch_shape + distribution.event_shape
        changed = [_rebuild_transform(t, change, shape) for t in distribution.transforms]
        return TransformedDistribution(_rebuild(distribution.base_dist, change), changed, validate_args=False)
    try:
        return kind(**_arguments(distribution, change), validate_args=False)
    except (TypeError, AttributeError, ValueError) as error:
        raise _unknown(distribution) from error


def _arguments(distribution: Distribution, change: Change) -> dict[str, Any]:
    """The arguments that make this distribution, changed."""
    held: dict[str, Any] = {}
    if type(distribution).__name__ == "GeneralizedPareto":  # torch compares its parameters with a float32 number
        of_64, change = change, lambda t: of_64(t).float()
    signature = inspect.signature(type(distribution).__init__).parameters
    for name, parameter in list(signature.items())[1:]:
        if name in ("validate_args", "probs", "logits") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if hasattr(distribution, name):
            value = getattr(distribution, name)
            held[name] = change(value) if isinstance(value, torch.Tensor) and value.dim() else _plain(value)
        elif parameter.default is parameter.empty:
            raise _unknown(distribution)
    if {"probs", "logits"} <= set(signature):
        held |= _odds(distribution, change)
    if not held:
        raise _unknown(distribution)
    return held


def _plain(value: Any) -> Any:
    """A scalar tensor, such as a temperature that all share, in float64."""
    return value.detach().double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _odds(distribution: Any, change: Change) -> dict[str, torch.Tensor]:
    """`probs` or `logits`, as the distribution was made; classes as logits, which keep a probability of 0 as it is."""
    inner = distribution
    while "_categorical" not in inner.__dict__ and "base_dist" in inner.__dict__:
        inner = inner.base_dist
    inner = inner.__dict__.get("_categorical", inner)
    held = inner.__dict__  # torch keeps the second of them too, once it was asked for
    given = "probs" if "probs" in held and held.get("_param", held["probs"]) is held["probs"] else "logits"
    value = getattr(inner, given)
    if given == "probs" and isinstance(inner, Categorical):
        return {"logits": change(value.double()).log()}
    return {given: change(value)}


def _rebuild_transform(transform: Any, change: Change, shape: torch.Size) -> Any:
    """The same transform for the changed batch; what all data points share stays, in float64.

    Args:
        transform: One of torch's own, or of the user's.
        change: What is done to parameters of the whole batch.
        shape: Batch and event shape, of which the first is N.
    Raises:
        InputError: one that may depend on the data point in a way that is not known.
    """

    def part(value: Any) -> Any:
        batched = isinstance(value, torch.Tensor) and value.dim() == len(shape) and value.shape[0] == shape[0]
        return change(value) if batched else _plain(value)

    if isinstance(transform, transforms.ComposeTransform):
        return transforms.ComposeTransform([_rebuild_transform(t, change, shape) for t in transform.parts])
    if isinstance(transform, transforms.IndependentTransform):
        base = _rebuild_transform(transform.base_transform, change, shape)
        return transforms.IndependentTransform(base, transform.reinterpreted_batch_ndims)
    if isinstance(transform, transforms.AffineTransform):
        return transforms.AffineTransform(part(transform.loc), part(transform.scale), transform.event_dim)
    if isinstance(transform, transforms.PowerTransform):
        return transforms.PowerTransform(part(transform.exponent))
    for value in vars(transform).values():
        held: Any = value.batch_shape if isinstance(value, Distribution) else getattr(value, "shape", ())
        if len(held) and held[0] == shape[0]:
            raise InputError(
                f"klprobe does not know which entries of a {type(transform).__name__} belong to which data point: give the "
                "posterior as samples (klprobe.SampleOnly), or subclass ConditionalDistribution with sample_at and log_prob_at."
            )
    return transform


def _unknown(distribution: Distribution) -> InputError:
    return InputError(
        f"klprobe does not know the parameters of {type(distribution).__name__}: subclass ConditionalDistribution with "
        "sample_at and log_prob_at, or hand over samples (klprobe.SampleOnly)."
    )


def check_parameters(distribution: Any) -> None:
    """Raise InputError where a parameter is no number, or not what the distribution can have; torch's own check can be off."""
    for name in ("base_dist", "mixture_distribution", "component_distribution"):
        if isinstance(inner := getattr(distribution, name, None), Distribution):
            check_parameters(inner)
    if isinstance(distribution, Independent | MixtureSameFamily | TransformedDistribution):
        return
    for name, constraint in distribution.arg_constraints.items():
        value = distribution.__dict__.get(name)
        if not isinstance(value, torch.Tensor) or name in ("covariance_matrix", "precision_matrix"):
            continue
        bad = ~constraint.check(value) if not constraint.is_discrete else torch.zeros(())
        odd = value.isnan() | (value.isinf() & (name != "logits"))
        first = (odd if odd.any() else bad.bool()).nonzero()
        if len(first):
            raise InputError(
                f"{type(distribution).__name__} holds values that {name} cannot have ({constraint}), NaN or infinity among "
                f"them: {len(first):,} of {odd.numel():,}, the first at index {tuple(first[0].tolist())}."
            )


def measure(distribution: Any) -> Measure | None:
    """What the density is taken with respect to; None where there is no density, or no saying."""
    if not getattr(distribution, "has_log_prob", True):
        return None
    if isinstance(distribution, Independent):
        return measure(distribution.base_dist)
    if isinstance(distribution, MixtureSameFamily):
        return measure(distribution.component_distribution)
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    if isinstance(distribution, TransformedDistribution) and measure(distribution.base_dist) == "atoms":
        return "atoms"
    if support is None:
        return None
    if support.is_discrete:
        return "atoms"
    return "simplex" if support is constraints.simplex else "space"


def log_density(distribution: Distribution, z: torch.Tensor) -> torch.Tensor:
    """log p(z) in nats, float64: -infinity outside of the support, in blocks where all at once would take much memory.

    Args:
        distribution: Any, with batch shape () or one that broadcasts; its parameters should be float64.
        z: Shape (..., D), float64.
    Returns:
        Shape of z's batch dimensions, broadcast with the distribution's.
    Raises:
        InputError: a density that is NaN, or that cannot be computed.
    """
    rows = max(1, NUMBERS // numbers(distribution))
    each = z.dim() > len(distribution.batch_shape) + len(distribution.event_shape)  # a row of z for all of the batch
    with torch.no_grad():
        if not each or len(z) <= rows:
            return _checked(distribution, z)
        return torch.cat([_checked(distribution, part) for part in z.split(rows)])


def bare(distribution: Any) -> Any:
    """What an Independent, or several, are around."""
    return bare(distribution.base_dist) if isinstance(distribution, Independent) else distribution


def _checked(distribution: Distribution, z: torch.Tensor) -> torch.Tensor:
    name = type(bare(distribution)).__name__
    try:
        found = _log_density(distribution, z).double()
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(
            f"{name} has no density that torch can compute: it does not say one, or one of its transforms cannot be undone. "
            "Hand over samples (klprobe.SampleOnly, or a cloud of the prior's)."
        ) from error
    except Exception as error:
        try:  # networks in float32 take no float64 codes
            found = _log_density(distribution, z.float()).double()
        except Exception:
            first = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"The density of {name} failed at codes of shape {tuple(z.shape)} ({type(error).__name__}: {first}): "
                "log_prob(z) has to take codes of shape (n, D) in float64."
            ) from error
    leading = z.shape[: z.dim() - len(distribution.event_shape)]
    if found.shape != (wanted := torch.broadcast_shapes(leading, distribution.batch_shape)):
        raise InputError(
            f"log_prob of {name} gives shape {tuple(found.shape)} for codes of shape {tuple(z.shape)}: it has to give one "
            f"number for each code, shape {tuple(wanted)}."
        )
    if bool(found.isnan().any()):
        raise InputError(
            f"The log-density of {name} is NaN at {int(found.isnan().sum()):,} of {found.numel():,} codes: its parameters, or "
            "codes at the edge of its support, leave the range of a float64."
        )
    return found


def _log_density(distribution: Any, z: torch.Tensor) -> torch.Tensor:
    """log p(z) with the support seen to, of parts of a distribution as of the whole."""
    if isinstance(distribution, Independent):
        found = _log_density(distribution.base_dist, z)
        return (
            found.flatten(-distribution.reinterpreted_batch_ndims).sum(-1) if distribution.reinterpreted_batch_ndims else found
        )
    if isinstance(distribution, MixtureSameFamily):
        weights = distribution.mixture_distribution.logits.log_softmax(-1)
        inner = _log_density(distribution.component_distribution, z.unsqueeze(-1 - len(distribution.event_shape)))
        return torch.logsumexp(inner + weights, -1)
    inside = _inside(distribution, z)
    if isinstance(distribution, TransformedDistribution) and type(distribution).log_prob is TransformedDistribution.log_prob:
        found = _of_transformed(distribution, z)
    elif isinstance(distribution, Categorical):
        found = distribution.log_prob(z.clamp(0, distribution.logits.shape[-1] - 1))
    elif isinstance(distribution, Bernoulli) and "probs" in distribution.__dict__:
        probs = distribution.probs  # log_prob takes 0 and 1 for something between
        found = torch.special.xlogy(z, probs) + torch.special.xlog1py(1 - z, -probs)
    elif isinstance(distribution, Uniform):  # log_prob leaves out the upper end, which rounding can reach
        found = -(distribution.high - distribution.low).log() + torch.zeros_like(z)
    else:
        found = distribution.log_prob(z)
    return found if inside is None else torch.where(inside, found, -math.inf)


def _of_transformed(distribution: TransformedDistribution, z: torch.Tensor) -> torch.Tensor:
    """What torch does for a transformed distribution, with the support of its base seen to."""
    event_dim, found = len(distribution.event_shape), torch.zeros((), dtype=z.dtype)
    for transform in reversed(distribution.transforms):
        x = transform.inv(z)
        event_dim += transform.domain.event_dim - transform.codomain.event_dim
        found = found - _sum_last(transform.log_abs_det_jacobian(x, z), event_dim - transform.domain.event_dim)
        z = x
    base = distribution.base_dist
    return found + _sum_last(_log_density(base, z), event_dim - len(base.event_shape))


def _sum_last(value: torch.Tensor, dims: int) -> torch.Tensor:
    return value.flatten(-dims).sum(-1) if dims > 0 else value


def _inside(distribution: Any, z: torch.Tensor) -> torch.Tensor | None:
    """Whether each code lies in the support; None where all do, or where no one says."""
    if isinstance(distribution, VonMises):  # an angle is drawn from one turn, and its density is that of one turn
        return (z >= -math.pi) & (z <= math.pi)
    if isinstance(distribution, Multinomial):
        return ((z >= 0) & (z == z.floor())).all(-1) & (z.sum(-1) == distribution.total_count)
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    if support is None or any(support is plain for plain in PLAIN) or not _is_torchs(distribution):
        return None
    inside: torch.Tensor = support.check(z)
    return inside


def numbers(distribution: Any) -> int:
    """About how many numbers one draw, or one density, of all its batch takes."""
    if isinstance(distribution, Independent | TransformedDistribution):
        return max(numbers(distribution.base_dist), math.prod(distribution.batch_shape + distribution.event_shape), 1)
    if isinstance(distribution, MixtureSameFamily):
        return numbers(distribution.component_distribution)
    shape = distribution.batch_shape + distribution.event_shape
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        shape += distribution.event_shape
    if isinstance(distribution, Categorical):
        shape += distribution.logits.shape[-1:]
    return max(1, math.prod(shape))


def sample_with(distribution: Distribution, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """`distribution.sample((num_samples,))` driven by `generator`, in blocks; torch's global generators stay as they were."""
    rows = max(1, NUMBERS // numbers(distribution))
    with seeded(generator), torch.no_grad():
        sizes = [min(rows, num_samples - start) for start in range(0, num_samples, rows)] or [0]
        return torch.cat([distribution.sample(torch.Size([size])) for size in sizes])


def class_probs(distribution: Any) -> torch.Tensor | None:
    """Probabilities of the classes where z is one class, a vector with a single 1; else None."""
    return distribution.probs.detach().double() if isinstance(distribution, OneHotCategorical) else None
