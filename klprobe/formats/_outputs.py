"""Find out which tensor of an encoder is the mean, which is the spread, and how the spread is parametrised.

`read` gives each tensor its role, from `--outputs`, from its name, or, for
tensors without names, from their values. Where the values allow two readings, it names both and stops.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import torch

from klprobe.distributions.categorical import SUM_TOLERANCE
from klprobe.formats._latents import CATEGORICAL, check_names
from klprobe.formats._returned import SPREAD_ROLES, Tensors, roles_by_level
from klprobe.types import InputError

ROLES = ("mean", "logvar", "var", "std", "logstd", "scale_tril", "covariance", "samples", "probs", "logits")
MATRICES = ("scale_tril", "covariance")
ROLE = re.compile(rf"({'|'.join(ROLES)})(_\d+)?")
SYNONYMS = {
    "mean": "mean means mu mus loc qzm zmean zmu zloc embedding latentmean",
    "logvar": "logvar logvars logvariance logcovariance zlogvar zlogvariance logsigma2 logsigmasq logsigmasquared lnvar",
    "var": "var variance qzv qv zvar sigma2",
    "std": "std stddev sigma scale zstd zscale zsigma",
    "logstd": "logstd logstddev logsigma logscale zlogstd zlogsigma",
    "scale_tril": "scaletril",
    "covariance": "covariance covariancematrix",
    "probs": "probs probabilities",
    "samples": "sample samples z latent latents code codes",
}
ROLE_OF = {word: role for role, words in SYNONYMS.items() for word in words.split()}
PLAUSIBLE = (0.5, 2.0)
"""Range of E mean^2 + E exp(logvar) of one latent for an encoder that was trained towards N(0, 1), where it is 1."""
SHARE = 0.9
"""Share of the latents that have to lie in that range before one tensor is read as mean and log-variance side by side."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """The role of each output, as role to (output, which half of it or None), and a sentence about it."""

    roles: Mapping[str, tuple[str, int | None]]
    note: str = ""

    def take(self, tensors: Tensors) -> Tensors:
        """The tensors by role, each of shape (m, D)."""
        taken = {}
        for role, (name, half) in self.roles.items():
            flat = tensors[name] if role in MATRICES else tensors[name].flatten(1)
            taken[role] = flat if half is None else flat.chunk(2, 1)[half]
        return taken

    def channels(self, tensors: Tensors) -> int | None:
        """C where the mean of a point has shape (C, H, W) with H W above 1; otherwise None."""
        name, half = self.roles.get("mean", ("", None))
        shape = tensors[name].shape if name else ()
        if len(shape) < 4 or shape[1] % (1 if half is None else 2) or math.prod(shape[2:]) == 1:
            return None
        return shape[1] if half is None else shape[1] // 2


def read(tensors: Tensors, random: set[str], asked: str | None, label: str) -> Reading:
    """Give the tensors their roles.

    Args:
        tensors: Outputs of `tensors_of` on some points.
        random: Names of the tensors that differ between two passes over the same points.
        asked: Value of `--outputs`; None means that klprobe finds out.
        label: Name of the file, for messages.
    Raises:
        InputError: no reading is possible, or more than one; the message lists names and shapes.
    """
    if not tensors:
        raise InputError(f"{label} returns nothing with one row for each data point: let it return mean and logvar.")
    if asked is not None:
        return _as_asked(tensors, [word.strip() for word in asked.split(",")], label)
    steady = {name: tensor for name, tensor in tensors.items() if name not in random}
    classes = _categorical(steady)
    if levels := roles_by_level(steady, _role_of, label):
        shown = ", ".join(f"{name} as {role}" for role, name in levels.items())
        found = {role: (name, None) for role, name in levels.items()}
        return Reading(found | classes, f"outputs read as the levels of a hierarchy: {shown}{_also(classes)}")
    named = {name: _role_of(name) for name in tensors}
    if "mean" in named.values() or "samples" in named.values():
        roles: dict[str, tuple[str, int | None]] = {}
        for name, role in named.items():
            if role is not None and role != "probs" and role not in roles:
                roles[role] = (name, None)
        reading = _settle(roles, tensors, random, label)
    else:
        taken = {name for name, _ in classes.values()}
        reading = _by_looks({name: t for name, t in tensors.items() if name not in taken}, random, label)
    return Reading({**reading.roles, **classes}, reading.note + _also(classes))


def _role_of(name: str) -> str | None:
    return ROLE_OF.get(re.sub(r"[^a-z0-9]", "", name.rpartition(".")[2].lower()))


def _categorical(steady: Tensors) -> dict[str, tuple[str, int | None]]:
    """Outputs called probs whose rows sum to 1, which is not so for the Bernoulli probabilities of a decoder."""
    found = [
        name
        for name, t in steady.items()
        if _role_of(name) == "probs" and t.dim() == 2 and t.shape[1] > 1 and _sums_to_one(t.double())
    ]
    return {"probs" if len(found) == 1 else f"probs_{i}": (name, None) for i, name in enumerate(found)}


def _sums_to_one(rows: torch.Tensor) -> bool:
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < SUM_TOLERANCE).all())


def _also(classes: Mapping[str, tuple[str, int | None]]) -> str:
    return f"; {', '.join(name for name, _ in classes.values())} as categorical latents" if classes else ""


def _as_asked(tensors: Tensors, words: list[str], label: str) -> Reading:
    unknown = [word for word in words if word != "_" and not ROLE.fullmatch(word)]
    if unknown:
        raise InputError(
            f"--outputs {unknown[0]!r} is not known: give {', '.join(ROLES)}, numbered from 0 (mean_0) where there are several "
            "levels, or _ for what is to be ignored."
        )
    chosen = [word for word in words if word != "_"]
    spreads = [word for word in chosen if word in (*SPREAD_ROLES, *MATRICES)]
    numbered = [word for word in chosen if word[-1].isdecimal() and word.partition("_")[0] not in CATEGORICAL]
    if len(set(chosen)) < len(chosen) or (
        not numbered and (len(spreads) > 1 or not {"mean", "samples"} & set(chosen) or (spreads and "mean" not in chosen))
    ):
        raise InputError(
            f"--outputs {','.join(words)}: give mean and one of {', '.join(SPREAD_ROLES)}, or samples, or mean alone."
        )
    if numbered:
        check_names("--outputs", [word.replace("logstd", "logvar") for word in chosen])
    names = list(tensors)
    if len(names) == 1 and len(words) == 2 and "_" not in words:
        width = tensors[names[0]].flatten(1).shape[1]
        if width % 2:
            raise InputError(
                f"--outputs {','.join(words)}: {label} returns one tensor of odd width {width}, so it has no two halves."
            )
        return Reading(
            {word: (names[0], half) for half, word in enumerate(words)}, f"read as {' and '.join(words)} side by side"
        )
    if len(words) != len(names):
        raise InputError(
            f"--outputs names {len(words)}, but {label} returns {_listed(tensors)}: name each, _ for what to ignore."
        )
    for word, name in zip(words, names, strict=True):
        if word.partition("_")[0] in CATEGORICAL and tensors[name].dim() != 2:
            raise InputError(
                f"--outputs {word}: a categorical latent has shape (N, K), but {label} returns {tuple(tensors[name].shape)}: "
                "let it return one output for each."
            )
    return Reading({word: (name, None) for word, name in zip(words, names, strict=True) if word != "_"}, "")


def _settle(roles: dict[str, tuple[str, int | None]], tensors: Tensors, random: set[str], label: str) -> Reading:
    """Keep one mean and one spread of the named outputs, and samples only where they are random."""
    spreads = [role for role in (*SPREAD_ROLES, *MATRICES) if role in roles]
    if len(spreads) > 1 and {"std", "scale_tril"} != set(spreads):
        for extra in spreads[1:]:  # var beside logvar says the same twice
            del roles[extra]
    shown = ", ".join(f"{name} as {role}" for role, (name, _) in roles.items())
    if "samples" in roles and roles["samples"][0] not in random:
        if "mean" in roles:
            del roles["samples"]  # in eval mode many encoders return the mean as z
        else:
            roles = {"mean": roles["samples"]}
    return Reading(roles, f"outputs read by name: {shown}")


def _by_looks(tensors: Tensors, random: set[str], label: str) -> Reading:
    """Read outputs without names: a random one is a sample, and two of one shape are mean and spread, in this order."""
    steady = {name: t for name, t in tensors.items() if name not in random}
    if not steady:
        if len(tensors) == 1:
            return Reading({"samples": (next(iter(tensors)), None)}, "the output differs from pass to pass: read as samples")
        raise _undecided(
            tensors, label, "and all of them differ from pass to pass (is dropout on? then call eval() before saving)"
        )
    pairs = [(a, b) for a, b in zip(list(steady), list(steady)[1:], strict=False) if steady[a].shape == steady[b].shape]
    if len(steady) == 1 and not set(tensors) & random:
        return _one_tensor(*next(iter(steady.items())), label)
    if len(pairs) != 1 or len(steady) > 2:
        raise _undecided(tensors, label, "and more than one pair, or none, could be mean and spread")
    mean, spread = pairs[0]
    if bool((steady[spread] > 0).all()):
        raise InputError(
            f"{label} returns two tensors, and the second is positive throughout: it may be a standard deviation, a variance "
            "or a log-variance. Say which: --outputs mean,std, mean,var or mean,logvar (with _ for outputs to ignore)."
        )
    roles: dict[str, tuple[str, int | None]] = {"mean": (mean, None), "logvar": (spread, None)}
    samples = [name for name in random if tensors[name].shape == steady[mean].shape]
    if samples:
        roles["samples"] = (samples[0], None)
    return Reading(
        roles, f"outputs {mean} and {spread} read as mean and logvar (it has negative values); --outputs says otherwise"
    )


def _one_tensor(name: str, tensor: torch.Tensor, label: str) -> Reading:
    flat = tensor.flatten(1).double()
    if flat.shape[1] % 2:
        return Reading({"mean": (name, None)}, "one deterministic output of odd width, read as the mean alone")
    mean, logvar = flat.chunk(2, 1)
    moment = mean.square().mean(0) + logvar.clamp(max=50).exp().mean(0)
    inside = ((moment > PLAUSIBLE[0]) & (moment < PLAUSIBLE[1])).double().mean()
    if inside >= SHARE:
        return Reading(
            {"mean": (name, 0), "logvar": (name, 1)},
            "one output of width 2D, read as mean and logvar side by side, since "
            "E mean^2 + E exp(logvar) is near 1; --outputs says otherwise",
        )
    raise InputError(
        f"{label} returns one tensor of width {flat.shape[1]}, the same in every pass: the codes of a deterministic encoder, "
        f"or mean and spread side by side. Say which: --outputs mean, or --outputs mean,logvar (mean,std, mean,var)."
    )


def _listed(tensors: Tensors) -> str:
    return ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())


def _undecided(tensors: Tensors, label: str, why: str) -> InputError:
    return InputError(
        f"{label} returns {_listed(tensors)}, {why}: name each in order, as --outputs mean,logvar, with _ for what to ignore."
    )
