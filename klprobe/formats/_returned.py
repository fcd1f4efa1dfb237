"""Take apart what an encoder returned (tuples, dicts, dataclasses, Distributions) into tensors with names.

Hierarchical encoders return their outputs level by level; the names, or how the lists are nested, say which tensor belongs to
which level.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.distributions import Categorical, Distribution, MultivariateNormal, OneHotCategorical, RelaxedOneHotCategorical

from klprobe.distributions.posteriors import diagonal_normal
from klprobe.types import InputError

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, torch.Tensor]
NESTED = re.compile(r"(\d+)\.(\d+)")
SPREAD_ROLES = ("logvar", "var", "std", "logstd")


def tensors_of(returned: Any, batch: int) -> Tensors:
    """Find all tensors with one row for each point in what an encoder returned; a Distribution gives its parameters."""
    return {
        name: tensor
        for name, tensor in _walk(returned, "")
        if tensor.dim() and len(tensor) == batch and tensor.numel() and not tensor.is_complex()
    }


def _walk(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name or "0", value.detach()
    elif isinstance(value, Distribution):
        yield from ((f"{name}.{part}" if name else part, tensor.detach()) for part, tensor in _parameters(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from _walk(dict(zip(value._fields, value, strict=True)), name)
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from _walk(inner, f"{name}.{i}" if name else str(i))
    elif isinstance(getattr(value, "mean", None), torch.Tensor):
        spread = next((s for s in ("logvar", "std", "stddev", "var", "variance") if hasattr(value, s)), None)
        for part in ("mean", *([spread] if spread else [])):
            yield f"{name}.{part}" if name else part, getattr(value, part).detach()
    elif dataclasses.is_dataclass(value):
        yield from _walk(vars(value), name)


def _parameters(value: Distribution) -> Iterator[tuple[str, torch.Tensor]]:
    normal = diagonal_normal(value)
    if normal is None and isinstance(value, torch.distributions.Normal):
        normal = value.loc, value.scale
    if normal is not None:
        yield from (("mean", normal[0]), ("std", normal[1]))
    elif isinstance(value, MultivariateNormal):
        yield from (("mean", value.loc), ("scale_tril", value.scale_tril))
    elif isinstance(value, Categorical | OneHotCategorical | RelaxedOneHotCategorical):
        yield "probs", value.probs
    else:
        yield "samples", value.sample()


def roles_by_level(tensors: Shapes, role_of: Callable[[str], str | None], label: str) -> dict[str, str]:
    """Map `mean_0`, `logvar_0`, `mean_1`, ... to the names of outputs; empty where there are fewer than two levels.

    Either the names say it, as `0.mean` or `logvar_1` do, or the outputs are nested lists: pairs level by level, or all means,
    then all spreads.

    Args:
        tensors: Outputs by name; an item of a list is called by its place, and an item of a list in a list as `0.1`.
        role_of: Function that returns the role of a name without its number.
        label: Name of the file, for messages.
    Raises:
        InputError: nested lists that can be read in several ways, or whose spreads are positive throughout.
    """
    return _named(tensors, role_of, label) or _nested(tensors, label)


def _named(tensors: Shapes, role_of: Callable[[str], str | None], label: str) -> dict[str, str]:
    levels: dict[tuple[int, ...], dict[str, str]] = {}
    for name in tensors:
        words = [word for word in name.split(".") if not word.isdecimal()]
        numbers = tuple(int(number) for number in re.findall(r"\d+", name))
        role = role_of(re.sub(r"\d", "", words[-1])) if words else None
        if numbers and role and role_of(words[-1]) in (None, role):
            levels.setdefault(numbers, {}).setdefault(role, name)
    found: dict[str, str] = {}
    pairs = [(key, held) for key, held in sorted(levels.items()) if "mean" in held]
    common = [role for role in SPREAD_ROLES if all(role in held for _, held in pairs)]
    if len(pairs) < 2 or not common:
        return {}
    if any(len(numbers) > 1 for numbers, _ in pairs):
        raise InputError(
            f"{label} returns means and spreads in lists of lists ({', '.join(tensors)}), which may be more than the "
            f"posterior's levels. Name each: --outputs mean_0,{common[0]}_0,mean_1,... with _ for what is to be ignored."
        )
    for i, (_, held) in enumerate(pairs):
        found |= {f"mean_{i}": held["mean"], f"{common[0]}_{i}": held[common[0]]}
    return found


def _nested(tensors: Shapes, label: str) -> dict[str, str]:
    places = [(int(m[1]), int(m[2])) if (m := NESTED.fullmatch(name)) else None for name in tensors]
    inside = {place for place in places if place is not None}
    if len(inside) != len(tensors) or not inside:
        return {}
    outer, inner = (1 + max(place[i] for place in inside) for i in (0, 1))
    if len(inside) != outer * inner:
        return {}

    def same(a: str, b: str) -> bool:
        return tensors[a].shape == tensors[b].shape

    level_by_level = inner == 2 and outer > 1 and all(same(f"{i}.0", f"{i}.1") for i in range(outer))
    means_first = outer == 2 and inner > 1 and all(same(f"0.{i}", f"1.{i}") for i in range(inner))
    levels = outer if level_by_level else inner
    if level_by_level and means_first:
        raise InputError(
            f"{label} returns two lists of two tensors of one shape, which may be two levels of mean and spread, or two means "
            "and two spreads. Say which: --outputs mean_0,logvar_0,mean_1,logvar_1, or mean_0,mean_1,logvar_0,logvar_1."
        )
    if not (level_by_level or means_first):
        return {}
    found: dict[str, str] = {}
    for i in range(levels):
        mean, spread = (f"{i}.0", f"{i}.1") if level_by_level else (f"0.{i}", f"1.{i}")
        if bool((tensors[spread] > 0).all()):
            raise InputError(
                f"{label} returns {levels} pairs of tensors, and the second of pair {i} is positive throughout: it may be a "
                "standard deviation, a variance or a log-variance. Say which, in order: --outputs mean_0,std_0,mean_1,std_1 "
                "(or var_0, logvar_0, ...)."
            )
        found |= {f"mean_{i}": mean, f"logvar_{i}": spread}
    return found
