"""Taking apart whatever an encoder returned: tuples, dicts, dataclasses, Distributions, down to tensors with names.

Outputs that come level by level, as those of hierarchical encoders do, say by these names, or by how their lists are nested,
which tensor belongs to which level.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributions import Categorical, Distribution, MultivariateNormal, OneHotCategorical, RelaxedOneHotCategorical

from klprobe.distributions.posteriors import diagonal_normal
from klprobe.formats._by_name import same
from klprobe.formats._names import SPREAD_ROLES, role_of
from klprobe.types import InputError

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, torch.Tensor]
NESTED = re.compile(r"(\d+)\.(\d+)")
DEEPEST = 8
"""Containers in one another, at most."""
CLASSES = (Categorical, OneHotCategorical, RelaxedOneHotCategorical)
"""Distributions that are known by their probabilities."""


@dataclasses.dataclass(frozen=True)
class Returned:
    """What an encoder returned for some points.

    Attributes:
        rows: Number of points that it was given.
        tensors: By name; those with one row a point, and those without, such as a variance that all points share.
        distributions: By name, all of them; a Gaussian's and a categorical's parameters are among the tensors too.
        in_tuples: Names of the distributions that stand in a tuple, which may be of different kinds, as opposed to a list.
    """

    rows: int
    tensors: Tensors
    distributions: Mapping[str, Distribution] = dataclasses.field(default_factory=dict)
    in_tuples: frozenset[str] = frozenset()

    def has_rows(self, name: str) -> bool:
        """Whether the tensor has one row for each point."""
        tensor = self.tensors[name]
        return tensor.dim() > 0 and len(tensor) == self.rows

    @property
    def laws(self) -> dict[str, Distribution]:
        """Distributions that no named tensors stand for, and that are only known by their density."""
        return {name: law for name, law in self.distributions.items() if not parameters(law)}


def taken_apart(returned: Any, rows: int) -> Returned:
    """The tensors and distributions in whatever an encoder returned for that number of points, by name."""
    found, in_tuples = dict(_walk(returned, "")), frozenset(_in_tuples(returned, ""))
    distributions = {name: value for name, value in found.items() if isinstance(value, Distribution)}
    tensors: Tensors = {}
    for name, value in found.items():
        held = {_joined(name, part): t for part, t in parameters(value)} if isinstance(value, Distribution) else {name: value}
        tensors |= {called: _rows_first(tensor.detach(), rows) for called, tensor in held.items() if not tensor.is_complex()}
    return Returned(rows, {name: t for name, t in tensors.items() if t.numel()}, distributions, in_tuples)


def _rows_first(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """A recurrent network's state of one layer, (1, rows, D), as (rows, D)."""
    return tensor[0] if rows > 1 and tensor.dim() > 2 and tuple(tensor.shape[:2]) == (1, rows) else tensor


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if name.count(".") > DEEPEST:
        return  # objects may hold each other
    if isinstance(value, torch.Tensor):
        yield name or "0", value
    elif isinstance(value, Distribution):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, _joined(name, str(key)))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from _walk(dict(zip(value._fields, value, strict=True)), name)
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from _walk(inner, _joined(name, str(i)))
    elif value is not None and not isinstance(value, str | bytes | int | float | complex | torch.nn.Module | type):
        yield from _walk(_attributes(value), name)


def _attributes(value: Any) -> dict[str, Any]:
    """What an object of the user's own holds by name: its fields, and properties whose name says what they are."""
    held = {name: inner for name, inner in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    for name in dir(type(value)):
        read = inspect.getattr_static(type(value), name)
        if name in held or not (isinstance(read, property) or inspect.isdatadescriptor(read)) or role_of(name) is None:
            continue
        try:
            held[name] = getattr(value, name)
        except Exception:  # a property may refuse in any way; then there is nothing to read
            continue
    return {
        name: inner for name, inner in held.items() if isinstance(inner, torch.Tensor | Distribution | Mapping | tuple | list)
    }


def _in_tuples(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _in_tuples(inner, _joined(name, str(key)))
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            if isinstance(inner, Distribution) and isinstance(value, tuple) and not hasattr(value, "_fields"):
                yield _joined(name, str(i))
            yield from _in_tuples(inner, _joined(name, str(i)))


def parameters(value: Distribution) -> list[tuple[str, torch.Tensor]]:
    """The tensors that say everything of a Gaussian or categorical distribution, by role; none for any other."""
    normal = diagonal_normal(value)
    if normal is None and isinstance(value, torch.distributions.Normal):
        normal = value.loc, value.scale
    if normal is not None:
        return [("mean", normal[0]), ("std", normal[1])]
    if isinstance(value, MultivariateNormal):
        return [("mean", value.loc), ("scale_tril", value.scale_tril)]
    if isinstance(value, CLASSES):
        return [("probs", value.probs)]
    return []


def roles_by_level(tensors: Shapes, label: str) -> dict[str, str]:
    """Map `mean_0`, `logvar_0`, `mean_1`, ... to the names of outputs; empty where there are fewer than two levels.

    Either the names say it, as `0.mean` or `logvar_1` do, or the outputs are nested lists: pairs level by level, or all means,
    then all spreads.

    Args:
        tensors: Outputs by name; an item of a list is called by its place, and an item of a list in a list as `0.1`.
        label: Name of the file, for messages.
    Raises:
        InputError: nested lists that can be read in several ways, or whose spreads are positive throughout.
    """
    return _named(tensors, label) or _nested(tensors, label)


def _named(tensors: Shapes, label: str) -> dict[str, str]:
    levels: dict[tuple[int, ...], dict[str, str]] = {}
    for name in tensors:
        words = [word for word in name.split(".") if not word.isdecimal()]
        numbers = tuple(int(number) for number in re.findall(r"(?<!\d)\d{1,4}(?!\d)", name))
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


def may_be_confused(first: Returned) -> bool:
    """Whether there is a vector as long as there are points, and as there are latents somewhere."""
    shapes = [tuple(t.shape) for t in first.tensors.values()]
    vectors = any(shape in ((first.rows,), (first.rows, first.rows)) for shape in shapes)
    return vectors and any(len(shape) > 1 and math.prod(shape[1:]) == first.rows for shape in shapes)


def close(first: Returned, second: Returned, name: str, rows: int | None = None) -> bool:
    """Whether two passes say the same, of a tensor or of a Distribution, whose densities are compared at the same draws."""
    if name in first.laws:
        law, other = first.laws[name], second.laws.get(name)
        try:
            z = law.sample()
            told, again = (d.log_prob(z).reshape(first.rows, -1)[:rows].double() for d in (law, other))  # type: ignore[union-attr]
        except (RuntimeError, ValueError, NotImplementedError, AttributeError):
            return True  # there is no density to compare
        return same(told, again)
    a, b = first.tensors[name], second.tensors.get(name)
    if b is None or a.shape != b.shape:
        return False
    return same(a[:rows], b[:rows]) if first.has_rows(name) else same(a, b)
