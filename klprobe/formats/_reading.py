"""Which array or output plays which role, and how `--outputs` says so."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from klprobe.formats._by_name import Roles, Shape
from klprobe.formats._latents import check_names
from klprobe.formats._names import CATEGORICAL, MATRICES, ROLES, SPREAD_ROLES
from klprobe.formats._returned import Returned, Tensors
from klprobe.formats._tensors import spread_like
from klprobe.printable import LONGEST, short
from klprobe.types import InputError

ROLE = re.compile(rf"(prior_)?({'|'.join(ROLES)})(_\d+)?")
WHOLE = ("posterior", "prior")
"""Roles of a Distribution as a whole."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which output plays which role.

    Attributes:
        roles: Roles of the posterior's tensors.
        note: A sentence about it.
        law: Name of the Distribution whose own density is the posterior's; None where mean and spread are.
        prior: Roles of the model's own prior, which is the same for all points: `mean` and a spread.
        prior_law: Name of the Distribution that is the prior.
        no_prior: Why there is a prior of its own that cannot be used; empty where there is none, or it can.
        drawn: Whether one draw a point is taken of `law`, because its density cannot be kept.
    """

    roles: Roles
    note: str = ""
    law: str | None = None
    prior: Roles = dataclasses.field(default_factory=dict)
    prior_law: str | None = None
    no_prior: str = ""
    drawn: bool = False

    def take(self, returned: Returned, label: str) -> Tensors:
        """The posterior's tensors by role, each of shape (m, D), or (m, D, D) for a matrix."""
        return {role: _taken(returned, label, role, self.roles) for role in self.roles}

    def channels(self, tensors: Tensors) -> int | None:
        """C where the mean is one block of shape (C, H, W) a point with more than one place in it; else None."""
        name, half = self.roles.get("mean", ("", None))
        shape = tensors[name].shape if name else ()
        if len(shape) < 4 or shape[1] % (1 if half is None else 2) or math.prod(shape[2:]) == 1:
            return None
        return shape[1] if half is None else shape[1] // 2


def _taken(returned: Returned, label: str, role: str, roles: Roles) -> torch.Tensor:
    (name, half), rows = roles[role], returned.rows
    tensor, (kind, number) = returned.tensors[name], _parted(role)
    if kind in MATRICES:
        return tensor if returned.has_rows(name) and tensor.dim() > 2 else tensor.expand(rows, *tensor.shape[-2:])
    beside = roles.get(f"mean{number}")
    if kind in SPREAD_ROLES and half is None and beside is not None and beside[1] is None:
        tensor = spread_like(label, name, tensor, returned.tensors[beside[0]])
    if tensor.dim() == 0 or len(tensor) != rows:
        raise InputError(
            f"{label}: {name} {tuple(tensor.shape)} has not one row for each of {rows} points, and cannot be {role}."
        )
    flat = tensor.reshape(rows, -1)
    return flat if half is None else flat.chunk(2, 1)[half]


def _parted(role: str) -> tuple[str, str]:
    """A role and the number behind it, as `_0`."""
    kind, _, number = role.rpartition("_")
    return (kind, f"_{number}") if number.isdecimal() else (role, "")


def listed(tensors: Mapping[str, torch.Tensor]) -> str:
    """Names and shapes of tensors, for messages."""
    return ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())


def as_asked(shapes: Mapping[str, Shape], wholes: Mapping[str, Sequence[str]], asked: str, label: str) -> Reading:
    """The reading that `--outputs` asks for, by place (`mean,_,logvar`) or by name (`mean=loc,logvar=spread`).

    Args:
        shapes: Shape of every tensor, by name, in their order.
        wholes: For every Distribution, by name, the names of the tensors that say everything of it; none where nothing does.
        asked: The words.
        label: The file's name, for error messages.
    Raises:
        InputError: a word that is no role or name, or roles that make no posterior.
    """
    words = [word.strip() for word in asked.split(",")]
    _check_words(asked, [role for role in (word.partition("=")[0].strip() for word in words) if role != "_"])
    places = _places(words, shapes, wholes, label)
    for word, name in places:
        if word.partition("_")[0] in CATEGORICAL and len(shapes[name]) != 2:
            raise InputError(
                f"--outputs {word}: a categorical latent has shape (N, K), but {label} returns {shapes[name]}: "
                "let it return one output for each."
            )
    roles: dict[str, tuple[str, int | None]] = {}
    prior: dict[str, tuple[str, int | None]] = {}
    laws: dict[str, str] = {}
    for word, name in places:
        parts = [(word, None)] if "+" not in word else [(part, half) for half, part in enumerate(word.split("+"))]
        if word in WHOLE:
            held: dict[str, Any] = {part.rpartition(".")[2]: (part, None) for part in wholes[name]}
            laws |= {} if held else {word: name}
            (roles if word == "posterior" else prior).update(held)
            continue
        for role, half in parts:
            (prior if role.startswith("prior_") and role not in CATEGORICAL else roles)[
                role if role in CATEGORICAL else role.removeprefix("prior_")
            ] = (name, half)
    return Reading(roles, "", laws.get("posterior"), prior, laws.get("prior"))


def _places(
    words: list[str], shapes: Mapping[str, Shape], wholes: Mapping[str, Sequence[str]], label: str
) -> list[tuple[str, str]]:
    """Role and name of what each word speaks of; words that are `_` are left out."""
    names = list(shapes)
    shown = ", ".join(f"{name[:60]} {shape}" for name, shape in list(shapes.items())[:12])
    if any("=" in word for word in words):
        pairs = [
            (role.strip(), name.strip()) for role, _, name in (word.partition("=") for word in words) if role.strip() != "_"
        ]
        for role, name in pairs:
            known = wholes if role in WHOLE else shapes
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if len(name) <= LONGEST else []
                hint = f" Did you mean {near[0]!r}?" if near else ""
                kinds = f"the Distributions {', '.join(known) or '(none)'}" if role in WHOLE else shown
                raise InputError(f"--outputs {role}={short(name)}: {label} has no such name, it has {kinds}.{hint}")
        return pairs
    if set(words) & set(WHOLE):
        names = [name for name in names if not any(name in held for held in wholes.values())]
        names = [*wholes, *names] if len(words) != len(wholes) else list(wholes)
    if len(names) == 1 and len(words) == 2 and "_" not in words and "+" not in "".join(words):
        width = math.prod(shapes[names[0]][1:])
        if width % 2:
            raise InputError(
                f"--outputs {','.join(words)}: {label} returns one tensor of odd width {width}, so it has no two halves."
            )
        return [("+".join(words), names[0])]
    if len(words) != len(names):
        raise InputError(
            f"--outputs names {len(words)}, but {label} returns {shown}: name each, _ for what to ignore, "
            f"or by name, --outputs mean={names[0][:60]},logvar={names[-1][:60]}."
        )
    return [(word, name) for word, name in zip(words, names, strict=True) if word != "_"]


def _check_words(asked: str, words: list[str]) -> None:
    """Raise InputError unless the words make exactly one posterior."""
    chosen = [part for word in words for part in word.split("+")]
    unknown = [word for word in chosen if not ROLE.fullmatch(word) and word not in (*WHOLE, *CATEGORICAL)]
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), [*ROLES, *WHOLE], n=1) if len(unknown[0]) <= LONGEST else []
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"--outputs {short(unknown[0])} is not known: give {', '.join(ROLES)}, numbered from 0 (mean_0) where there are "
            f"several levels, prior_mean and prior_logvar for the model's own prior, or _ for what is to be ignored.{hint}"
        )
    own = [word for word in chosen if word.startswith("prior_") and word not in CATEGORICAL]
    if own and (len(own) != 2 or "prior_mean" not in own):
        raise InputError(f"--outputs {asked}: give the prior's mean and one spread, as prior_mean and prior_logvar.")
    mine = [word for word in chosen if not word.startswith("prior") or word in CATEGORICAL]
    spreads = [word for word in mine if word in (*SPREAD_ROLES, *MATRICES)]
    numbered = [word for word in mine if word[-1].isdecimal() and word.partition("_")[0] not in CATEGORICAL]
    whole = "posterior" in mine
    if len(set(chosen)) < len(chosen) or (
        not numbered
        and not whole
        and (len(spreads) > 1 or not {"mean", "samples"} & set(mine) or (spreads and "mean" not in mine))
    ):
        raise InputError(f"--outputs {asked}: give mean and one of {', '.join(SPREAD_ROLES)}, or samples, or mean alone.")
    if whole and set(mine) & {"mean", "samples", *spreads}:
        raise InputError(
            f"--outputs {asked}: posterior is a Distribution as a whole, which has its mean and spread: leave those away."
        )
    if numbered:
        check_names("--outputs", [plain_role(word) for word in mine])


def plain_role(role: str) -> str:
    """The role that the latents have once their spread is written as klprobe keeps it: logstd as logvar, precision as var."""
    for written, kept in (("logprecision", "logvar"), ("logstd", "logvar"), ("precision", "var")):
        if role == written or role.startswith(f"{written}_"):
            return role.replace(written, kept)
    return role


def plain(role: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as `plain_role` of its role."""
    kind = _parted(role)[0]
    factor = {"logstd": 2, "logprecision": -1}
    return factor[kind] * tensor if kind in factor else 1 / tensor if kind == "precision" else tensor
