"""Arrays and outputs whose names say what they are; where a name is missing for what may matter, the user is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch

from klprobe.formats._names import MATRICES, SPREAD_ROLES, WEAK, could_be_spread, meaning
from klprobe.formats._tensors import variance_of
from klprobe.types import InputError

SAME = 1e-3
"""Two passes agree when they differ by less than this, relative to the output's size: float32 in other blockings."""
Shape = tuple[int, ...]
Roles = Mapping[str, tuple[str, int | None]]
"""From role to name and half of it, or None for the whole."""


def by_name(
    shapes: Mapping[str, Shape],
    value: Callable[[str], torch.Tensor],
    random: Collection[str],
    label: str,
    *,
    is_file: bool = False,
) -> Roles | None:
    """Role to output, by the names alone; None when no name says a role of the posterior.

    Args:
        shapes: Shape of every tensor, by name.
        value: From a name to the tensor; called for those only whose role two names say.
        random: Names of those that differ between two passes.
        label: The file's name, for error messages.
        is_file: Whether they are arrays of a file, which can be renamed, and not what an encoder returns.
    Raises:
        InputError: two means or spreads that disagree, or a mean beside a tensor that may be its spread.
    """
    held: dict[str, list[str]] = {}
    for name in shapes:
        said = meaning(name)
        if said.role is not None and said.owner in ("", "posterior") and said.role not in ("probs", "logits"):
            held.setdefault(said.role, []).append(name)
    if not held:
        return None
    packed = [role for role in held if "+" in role]
    if packed and "mean" not in held:
        return _both_in_one(held[packed[0]][0], packed[0], shapes, label)
    mean = _the_one("mean", held.get("mean", []), shapes, value, label)
    spreads = [(role, name) for role in (*SPREAD_ROLES, *MATRICES) for name in held.get(role, [])]
    spread = _the_spread(spreads, value, label)
    drawn = [name for name in held.get("samples", []) if is_file or name in random]
    steady = [name for name in held.get("samples", []) if name not in drawn]
    unread = [
        name
        for name in shapes
        if meaning(name).role is None and meaning(name).owner in ("", "posterior") and name not in random
    ]
    asks = _Asks(label, shapes, is_file=is_file)
    if mean and spread:
        roles: dict[str, tuple[str, int | None]] = {"mean": (mean, None), spread[0]: (spread[1], None)}
        fit = [name for name in drawn if shapes[name] == shapes[mean] and not is_file]
        return roles | {"samples": (fit[0], None)} if len(fit) == 1 else roles
    if spread:
        if drawn and not is_file and not [name for name in unread if shapes[name] == shapes[drawn[0]]]:
            return {"samples": (drawn[0], None)}
        raise asks.no_mean(spread, [*drawn, *steady, *unread])
    codes = mean or (drawn or steady)[0]
    if beside := [name for name in unread if could_be_spread(shapes[name], shapes[codes])]:
        raise asks.no_spread(codes, beside[0])
    if mean and not drawn:
        return {"mean": (mean, None)}
    if mean and is_file:
        return {"mean": (mean, None), "samples": (drawn[0], None)}
    if drawn:
        if len(drawn) > 1:
            raise asks.two(drawn)
        return {"samples": (drawn[0], None)}
    return {"mean": (_the_one("code", steady, shapes, value, label), None)}


class _Asks:
    """The errors, each with what cures it."""

    def __init__(self, label: str, shapes: Mapping[str, Shape], *, is_file: bool) -> None:
        self.label, self.shapes = label, shapes
        self.verb = "holds" if is_file else "returns"
        self.call = "rename it" if is_file else "return it as"

    def _shown(self, name: str) -> str:
        return f"{name[:60]!r} {self.shapes[name]}"

    def no_spread(self, mean: str, other: str) -> InputError:
        return InputError(
            f"{self.label} {self.verb} {self._shown(mean)} and {self._shown(other)}, which may be its spread, and the name "
            f"does not say: {self.call} logvar, var or std, or say "
            f"--outputs mean={mean[:60]},logvar={other[:60]} (var=, std=), or "
            f"mean={mean[:60]} alone for a deterministic encoder."
        )

    def no_mean(self, spread: tuple[str, str], others: list[str]) -> InputError:
        beside = f" beside {', '.join(map(self._shown, others[:4]))}" if others else ""
        example = (others or ["NAME"])[0][:60]
        return InputError(
            f"{self.label} {self.verb} {self._shown(spread[1])}{beside}, and klprobe needs a mean, which no name says: "
            f"{self.call} mean, or say --outputs mean={example},{spread[0]}={spread[1][:60]}."
        )

    def two(self, names: list[str]) -> InputError:
        return InputError(
            f"{self.label} {self.verb} {' and '.join(map(self._shown, names[:3]))}, which may each be the posterior's draws: "
            f"say which, --outputs samples={names[0][:60]}."
        )


def _the_one(role: str, names: list[str], shapes: Mapping[str, Shape], value: Callable[[str], torch.Tensor], label: str) -> str:
    """The only name of a role, or any of several that hold the same; empty when there is none."""
    strong = [name for name in names if not any(word in WEAK for word in name.lower().replace(".", "_").split("_"))]
    names = strong or names
    for other in names[1:]:
        if shapes[other] != shapes[names[0]] or not same(value(names[0]), value(other)):
            raise InputError(
                f"{label} has two that may be the {role}, {names[0][:60]} {shapes[names[0]]} and {other[:60]} {shapes[other]}, "
                f"and they differ: say which is the posterior's, as --outputs mean={names[0][:60]},logvar=NAME."
            )
    return names[0] if names else ""


def _the_spread(spreads: list[tuple[str, str]], value: Callable[[str], torch.Tensor], label: str) -> tuple[str, str] | None:
    """Role and name of the spread; of several that say the same, as a variance beside a log-variance does, the first."""
    for role, name in spreads[1:]:
        first, other = spreads[0], (role, name)
        agree = role not in MATRICES and first[0] not in MATRICES
        if agree:
            a, b = (variance_of(r, value(n).double()) for r, n in (first, other))
            agree = a.shape == b.shape and same(a.log(), b.log())
        if not agree:
            raise InputError(
                f"{label} has {first[1][:60]} and {name[:60]} at once, and they do not say the same: keep exactly one of "
                f"logvar, var, std, or say which, as --outputs mean=NAME,{role}={name[:60]}."
            )
    return spreads[0] if spreads else None


def _both_in_one(name: str, role: str, shapes: Mapping[str, Shape], label: str) -> Roles:
    """The halves of a tensor whose name says what they are."""
    if shapes[name][1] % 2:
        halves = role.replace("+", " and ")
        raise InputError(f"{label}: {name[:60]} {shapes[name]} has odd width, so it has no two halves of {halves}.")
    return {part: (name, half) for half, part in enumerate(role.split("+"))}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal up to rounding; one that is not finite is left to what is said of it elsewhere."""
    scale = max(float(a.abs().max()), 1e-6)
    return not bool(a.isfinite().all()) or bool(((a.double() - b.double()).abs() <= SAME * scale).all())
