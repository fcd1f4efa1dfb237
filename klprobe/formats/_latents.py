"""Make one joint posterior of the continuous latents, and its parts, from named tensors.

Names are those of the arrays that klprobe reads. `mean` with `logvar`, `var` or `std` is a diagonal Gaussian, with
`scale_tril` or `covariance` a full one; `mean_0, logvar_0, mean_1, ...` are levels of a hierarchy whose posteriors factorise
given x, joined in that order; `probs` or `logits` (`probs_0`, ...) are categorical latents beside them, `prior_probs` their
prior, else uniform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.distributions import Distribution, MultivariateNormal, OneHotCategorical

from klprobe.distributions.categorical import Classes
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.formats._names import CATEGORICAL
from klprobe.formats._tensors import SPREADS, check_tensors, posterior_of, some_rows
from klprobe.types import InputError

FULL = ("scale_tril", "covariance")
CONTINUOUS = ("mean", *SPREADS, *FULL, "samples")
NAME = re.compile(rf"({'|'.join((*CONTINUOUS, *CATEGORICAL))})(?:_(0|[1-9][0-9]{{0,3}}))?")
CONTENT = (
    "either mean and exactly one of logvar, var, std, or samples alone, or mean alone, each of shape (N, D); "
    "or mean and one of scale_tril, covariance (N, D, D); or mean_0, logvar_0, mean_1, ... for the levels of a hierarchy"
)
HIERARCHY = (
    "{levels} levels, taken together against the prior; by level, each is taken against its own part of the prior. Where the "
    "model's prior of a level depends on the other levels (ladder VAEs), neither is KL to the model's own prior"
)
ASYMMETRY = 1e-4
"""Largest difference between a covariance and its transpose, relative to its largest entry; float32 needs this much."""

MOST_CHANNELS = 16
"""Largest number of channels of spatial latents that are reported one by one, because each is estimated separately."""

Part = slice | Classes
Groups = dict[int | None, dict[str, str]]


class Latents(NamedTuple):
    """What the tensors make: the continuous latents' posterior, its parts, and what to say about them.

    Where a categorical latent is all there is, it is the posterior, and `prior` its prior.
    """

    posterior: Distribution
    parts: dict[str, Part]
    notes: tuple[str, ...]
    prior: Distribution | None = None


def known(names: Iterable[str]) -> list[str]:
    """The names among these that say what a tensor is."""
    return [name for name in names if NAME.fullmatch(name)]


def check_names(label: str, found: Iterable[str], remedy: str = "Rename, add or remove tensors.") -> None:
    """Raise InputError unless the known ones among the names make exactly one posterior."""
    found = list(found)
    groups = _groups(found)
    listed = ", ".join(repr(name[:60]) for name in found[:8]) + (", ..." if len(found) > 8 else "")
    for roles in groups.values():
        spreads = [role for role in (*SPREADS, *FULL) if role in roles]
        if len(spreads) > 1:
            names = " and ".join(roles[role] for role in spreads)
            raise InputError(f"{label} holds {names} at once: keep exactly one of logvar, var, std.")
        if "prior_probs" in roles and not {"probs", "logits"} & set(roles):
            raise InputError(f"{label} holds {roles['prior_probs']}, but no probs or logits: add one of them, or remove it.")
    continuous = {key: [role for role in CONTINUOUS if role in roles] for key, roles in groups.items()}
    continuous = {key: roles for key, roles in continuous.items() if roles}
    spread_of = {tuple(roles[1:]) for roles in continuous.values()}
    flat = set(continuous) == {None} and continuous[None] in (
        ["samples"],
        ["mean"],
        *(["mean", spread] for spread in (*SPREADS, *FULL)),
    )
    if not continuous and groups:
        if len(groups) > 1:
            raise InputError(
                f"{label} holds {len(groups)} categorical latents ({listed}) and no mean: give one of them alone, or all as "
                "one, with a class for each combination."
            )
        return
    levels = set(continuous) == set(range(len(continuous))) and spread_of in [{(spread,)} for spread in SPREADS]
    if not (flat or (continuous and levels and all(roles[0] == "mean" for roles in continuous.values()))):
        raise InputError(f"{label} holds {listed or 'nothing'}; klprobe needs {CONTENT} (from 0, one kind of spread). {remedy}")


def latents_of(label: str, tensors: Mapping[str, torch.Tensor]) -> Latents:
    """Make the posterior and its parts from tensors whose names have passed `check_names`.

    Raises:
        InputError: shapes disagree, or values are not valid for their name; the message names tensor and row.
    """
    groups = _groups(tensors)
    continuous = {
        key: {role: tensors[name] for role, name in roles.items() if role in CONTINUOUS} for key, roles in groups.items()
    }
    continuous = {key: held for key, held in continuous.items() if held}
    parts: dict[str, Part] = {}
    notes: tuple[str, ...] = ()
    posterior: Distribution
    if not continuous:
        return _one_code(label, groups, tensors)
    if None not in continuous:
        posterior, parts = _join(label, list(continuous.values()))
        if len(parts) > 1:
            notes = (HIERARCHY.format(levels=len(parts)),)
        else:
            parts = {}
    elif set(FULL) & set(continuous[None]):
        posterior = _full(label, **continuous[None])
    else:
        posterior = posterior_of(label, continuous[None])
    return with_classes(label, posterior, tensors, parts, notes)


def with_classes(
    label: str,
    posterior: Distribution,
    tensors: Mapping[str, torch.Tensor],
    parts: Mapping[str, Part] = MappingProxyType({}),
    notes: tuple[str, ...] = (),
) -> Latents:
    """Add the categorical latents among the tensors to the parts of a posterior.

    Raises:
        InputError: rows that are no distributions, or another number of them.
    """
    found = dict(parts)
    for key, roles in _groups(tensors).items():
        if set(roles) & set(CATEGORICAL):
            found[f"classes{'' if key is None else f' {key}'}"] = _classes(label, roles, tensors, posterior.batch_shape[0])
    return Latents(posterior, found, notes)


def _one_code(label: str, groups: Groups, tensors: Mapping[str, torch.Tensor]) -> Latents:
    """A categorical latent by itself, as a vector with a single 1, and its prior."""
    ((_, roles),) = groups.items()
    num_points = len(tensors[roles.get("probs") or roles["logits"]])
    classes = _classes(label, roles, tensors, num_points)
    posterior, prior = (OneHotCategorical(probs=p, validate_args=False) for p in (classes.probs, classes.log_prior.exp()))
    note = f"one categorical latent of {classes.probs.shape[1]} classes alone: all is computed exactly, by sums over them"
    return Latents(posterior, {}, (note,), prior)


def _groups(names: Iterable[str]) -> Groups:
    """Group the names by their number, in order (None where there is no number); each group maps a role to a name."""
    groups: Groups = {}
    for name in names:
        if match := NAME.fullmatch(name):
            groups.setdefault(None if match[2] is None else int(match[2]), {})[match[1]] = name
    return dict(sorted(groups.items(), key=lambda item: -1 if item[0] is None else item[0]))


def _join(label: str, levels: list[dict[str, torch.Tensor]]) -> tuple[DiagonalGaussian, dict[str, Part]]:
    """Join levels that are independent given x to one diagonal Gaussian, and say which columns belong to which level."""
    (spread,) = set(levels[0]) - {"mean"}
    parts: dict[str, Part] = {}
    start = 0
    for i, level in enumerate(levels):
        check_tensors(label, {f"{role}_{i}": tensor for role, tensor in level.items()})
        width = level["mean"].shape[1]
        parts[f"level {i}"] = slice(start, start + width)
        start += width
    sizes = sorted({len(level["mean"]) for level in levels})
    if len(sizes) > 1:
        raise InputError(f"{label}: its levels have {', '.join(map(str, sizes))} rows: all must have one row per data point.")
    joined = {role: torch.cat([level[role] for level in levels], 1) for role in ("mean", spread)}
    return DiagonalGaussian(joined["mean"], **{spread: joined[spread]}), parts


def _full(
    label: str, mean: torch.Tensor, scale_tril: torch.Tensor | None = None, covariance: torch.Tensor | None = None
) -> MultivariateNormal:
    """Make the full Gaussians N(mean_n, covariance_n), float64."""
    check_tensors(label, {"mean": mean})
    name, matrix = ("covariance", covariance) if scale_tril is None else ("scale_tril", scale_tril)
    n, dim = mean.shape
    assert matrix is not None
    if tuple(matrix.shape) != (n, dim, dim):
        raise InputError(f"{label}: {name} has shape {tuple(matrix.shape)}; beside mean {(n, dim)} it must be {(n, dim, dim)}.")
    check_tensors(label, {name: matrix.flatten(1)})
    mean, matrix = mean.double(), matrix.double()
    if name == "covariance":
        scale = matrix.abs().amax((1, 2), keepdim=True)
        if bad := some_rows(((matrix - matrix.mT).abs() > ASYMMETRY * scale).any(2).any(1)):
            raise InputError(f"{label}: covariance is not symmetric in {bad}: save L L^T, or L itself as scale_tril.")
        matrix, info = torch.linalg.cholesky_ex((matrix + matrix.mT) / 2)
        if bad := some_rows(info != 0):
            raise InputError(f"{label}: covariance is not positive definite in {bad}: add a small variance to its diagonal.")
    elif bad := some_rows((matrix.triu(1) != 0).any(2).any(1)):
        raise InputError(f"{label}: scale_tril has entries above the diagonal in {bad}: save the covariance as covariance.")
    elif bad := some_rows((matrix.diagonal(dim1=1, dim2=2) <= 0).any(1)):
        raise InputError(f"{label}: the diagonal of scale_tril is not positive in {bad}, so q(z|x) has no density there.")
    return MultivariateNormal(mean, scale_tril=matrix, validate_args=False)


def _classes(label: str, roles: Mapping[str, str], tensors: Mapping[str, torch.Tensor], num_points: int) -> Classes:
    if "probs" in roles and "logits" in roles:
        raise InputError(f"{label} holds {roles['probs']} and {roles['logits']} at once: keep one.")
    name = roles.get("probs") or roles["logits"]
    given = tensors[name].double()
    if len(given) != num_points:
        raise InputError(f"{label}: {name} has {len(given)} rows, but there are {num_points} points.")
    if not given.isfinite().all():
        raise InputError(f"{label}: {name} is NaN or infinite in {some_rows(~given.flatten(1).isfinite().all(1))}.")
    prior = tensors[roles["prior_probs"]] if "prior_probs" in roles else None
    try:
        return Classes(given if "probs" in roles else given.softmax(-1), prior)
    except InputError as error:
        raise InputError(f"{label}: {name}: {error}") from error


def by_channel(latents: Latents, channels: int | None) -> Latents:
    """Make each channel of spatial latents, (C, H, W), a part of the posterior."""
    if channels is None or channels == 1:
        return latents
    if channels > MOST_CHANNELS:
        note = f"{channels} channels, which are more than {MOST_CHANNELS}: they are not reported one by one"
        return latents._replace(notes=(*latents.notes, note))
    places = latents.posterior.event_shape[0] // channels
    parts: dict[str, Part] = {f"channel {c}": slice(c * places, (c + 1) * places) for c in range(channels)}
    return latents._replace(parts={**parts, **latents.parts})
