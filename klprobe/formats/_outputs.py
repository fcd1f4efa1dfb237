"""Which of the arrays of a file, or of the tensors that an encoder returned, is the mean, which the spread and how it is meant.

`read` gives each its role: from `--outputs`, from the Distribution that it is part of, from its name, or, for outputs of an
encoder without names, from their places in a tuple. Where that leaves two readings, it says so and stops; nothing is guessed
from the numbers alone.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch

from klprobe.distributions.categorical import SUM_TOLERANCE
from klprobe.formats._by_name import by_name, same
from klprobe.formats._laws import is_constant, kind_of
from klprobe.formats._names import meaning
from klprobe.formats._priors import find_prior
from klprobe.formats._reading import Reading, Roles, as_asked, listed
from klprobe.formats._returned import CLASSES, Returned, Tensors, parameters, roles_by_level
from klprobe.formats._tensors import look_alike, move_together, spread_like
from klprobe.types import InputError

PLAUSIBLE = (0.05, 20.0)
"""E mean^2 + E variance of a latent, 1 for a perfect match, where a shared variance was found by its place."""


def read(returned: Returned, random: set[str], asked: str | None, label: str, x: torch.Tensor | None = None) -> Reading:
    """Give the tensors and Distributions their roles.

    Args:
        returned: What an encoder returned for some points.
        random: Names of the tensors and Distributions that differ between two passes over the same points.
        asked: `--outputs`; None means look.
        label: The file's name, for error messages.
        x: The points themselves, which some networks return too.
    Raises:
        InputError: nothing usable, or more than one reading; the message lists names and shapes.
    """
    tensors = returned.tensors
    if not any(map(returned.has_rows, tensors)) and not returned.distributions:
        raise InputError(f"{label} returns nothing with one row for each data point: let it return mean and logvar.")
    if asked is not None:
        wholes = {name: _names_in(returned, name) for name in returned.distributions}
        said = as_asked({name: tuple(t.shape) for name, t in tensors.items()}, wholes, asked, label)
        if said.prior_law is not None and not is_constant(returned.distributions[said.prior_law], returned.rows):
            raise InputError(
                f"--outputs: {said.prior_law or 'that'} of {label} depends on the data point: it is no prior p(z)."
            )
        if moving := [name for name, _ in said.prior.values() if returned.has_rows(name) and not _same_rows(tensors[name])]:
            raise InputError(f"--outputs: {moving[0]} of {label} depends on the data point: it is of no prior p(z).")
        return dataclasses.replace(said, note=_halves_note(said.roles, tensors))
    pool = {name: t for name, t in tensors.items() if meaning(name).owner not in ("prior", "other")}
    rows = {name: t for name, t in pool.items() if returned.has_rows(name)}
    steady = {name: t for name, t in rows.items() if name not in random}
    classes = _categorical(steady)
    levels = roles_by_level(steady, label)
    chosen, second = _which_distribution(returned, label, by_level=bool(levels))
    prior = _own_prior(returned, second)
    if chosen is None and levels:
        shown = ", ".join(f"{name} as {role}" for role, name in levels.items())
        found: Roles = {role: (name, None) for role, name in levels.items()}
        note = f"outputs read as the levels of a hierarchy: {shown}{_also(classes)}"
        return dataclasses.replace(prior, roles={**found, **classes}, note=note)
    if chosen is not None and chosen in returned.laws:
        kind = kind_of(returned.laws[chosen])
        return dataclasses.replace(
            prior, roles=classes, law=chosen, note=f"{chosen or 'output'} read as a {kind}{_also(classes)}"
        )
    inside = [name for other in returned.distributions if other != chosen for name in _names_in(returned, other)]
    taken = {name for name, _ in classes.values()}
    left = {name: t for name, t in pool.items() if name not in inside and name not in taken}
    named = by_name({name: tuple(t.shape) for name, t in left.items()}, left.__getitem__, random, label)
    if named is None and classes and not [name for name in left if name in rows]:
        return dataclasses.replace(prior, roles=classes, note=f"outputs read by name{_also(classes)}")
    if named is not None:
        roles, note = named, f"outputs read by name: {', '.join(f'{name} as {role}' for role, (name, _) in named.items())}"
    else:
        roles, note = _by_place(returned, {name: t for name, t in left.items() if name in rows}, random, label, x, taken)
        prior = prior if prior.prior or prior.prior_law or prior.no_prior else _left_over(returned, roles)
    return dataclasses.replace(prior, roles={**roles, **classes}, note=note + _also(classes))


def _names_in(returned: Returned, distribution: str) -> list[str]:
    """Names of the tensors that are a Distribution's parameters."""
    parts = parameters(returned.distributions[distribution])
    return [f"{distribution}.{part}" if distribution else part for part, _ in parts]


def _which_distribution(returned: Returned, label: str, *, by_level: bool) -> tuple[str | None, str | None]:
    """Names of the Distributions that are the posterior and, if it is the same for all points, the prior."""
    whole = {name: law for name, law in returned.distributions.items() if not isinstance(law, CLASSES)}
    named = {name: meaning(f"{name}.mean").owner for name in whole}
    priors = [name for name, owner in named.items() if owner == "prior"]
    free = [name for name, owner in named.items() if owner in ("", "posterior")]
    said = [name for name in free if named[name] == "posterior"]
    second = priors[0] if len(priors) == 1 else None
    if len(free) > 1 and len(said) == 1:
        free = said
    if len(free) <= 1:
        return (free[0] if free else None), second
    constant = [name for name in free if is_constant(whole[name], returned.rows)]
    moving = [name for name in free if name not in constant]
    if len(moving) == 1 and len(constant) == 1 and second is None:
        return moving[0], constant[0]
    if not constant and by_level and not returned.in_tuples & set(free):
        return None, second
    shown = ", ".join(
        f"{name or 'output'} {kind_of(law)}{tuple(law.batch_shape + law.event_shape)}" for name, law in whole.items()
    )
    raise InputError(
        f"{label} returns {shown}, and more than one of them may be the posterior: say which, --outputs posterior={free[0]}"
        f"{f',prior={free[1]}' if len(free) == 2 else ''}, or call them posterior and prior."
    )


def _own_prior(returned: Returned, distribution: str | None) -> Reading:
    """The model's own prior among what the encoder returned, in a Reading that has no posterior yet."""
    if distribution is not None:
        if not is_constant(returned.distributions[distribution], returned.rows):
            return Reading({}, no_prior=f"{distribution} depends on the data point, so it is no prior p(z)")
        return Reading({}, prior_law=distribution)
    several = [name for name in returned.distributions if meaning(f"{name}.mean").owner == "prior"]
    if several:
        return Reading({}, no_prior=f"{' and '.join(several)} may all be the prior")
    roles, why_not = find_prior(
        {n: tuple(t.shape) for n, t in returned.tensors.items()}, returned.tensors.__getitem__, returned.rows
    )
    return Reading({}, prior={role: (name, None) for role, name in roles.items()}, no_prior=why_not)


def _left_over(returned: Returned, roles: Roles) -> Reading:
    """A pair of vectors without names that all points share, beside the posterior, may be the prior's mean and spread."""
    mean = returned.tensors[roles["mean"][0]] if "mean" in roles else None
    used = {name for name, _ in roles.values()}
    shared = [
        name for name, t in returned.tensors.items() if name not in used and mean is not None and _is_vector(returned, t, mean)
    ]
    why = (
        f"{' and '.join(shared)} {'are' if len(shared) > 1 else 'is'} the same for all points, and may be of a prior of its own"
    )
    return Reading({}, no_prior=why if shared else "")


def _is_vector(returned: Returned, tensor: torch.Tensor, mean: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.dim() == 0:
        return False
    each = tensor[0] if len(tensor) in (1, returned.rows) and tensor.dim() > 1 else tensor
    return each.numel() == mean[0].numel() and (len(tensor) != returned.rows or _same_rows(tensor))


def _same_rows(tensor: torch.Tensor) -> bool:
    return same(tensor, tensor[:1].expand_as(tensor))


def _categorical(steady: Tensors) -> dict[str, tuple[str, int | None]]:
    """Outputs called probs whose rows are distributions; a decoder's Bernoulli probabilities are none."""
    found = [
        name
        for name, t in steady.items()
        if meaning(name).role == "probs" and t.dim() == 2 and t.shape[1] > 1 and _sums_to_one(t.double())
    ]
    return {"probs" if len(found) == 1 else f"probs_{i}": (name, None) for i, name in enumerate(found)}


def _sums_to_one(rows: torch.Tensor) -> bool:
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < SUM_TOLERANCE).all())


def _also(classes: Roles) -> str:
    return f"; {', '.join(name for name, _ in classes.values())} as categorical latents" if classes else ""


def _by_place(
    returned: Returned, rows: Tensors, random: set[str], label: str, x: torch.Tensor | None, taken: set[str]
) -> tuple[Roles, str]:
    """Outputs without names: the random one is a sample, the only two neighbours of one shape are mean and log-variance."""
    of_x = [name for name, t in rows.items() if x is not None and t.shape == x.shape]
    steady: Tensors = {}
    for name, t in rows.items():
        seen = any(t.shape == other.shape and bool((t == other).all()) for other in list(steady.values())[:1])
        if name not in random and t.dim() > 1 and t.is_floating_point() and not seen:
            steady[name] = t
    drawn = [name for name, t in rows.items() if name in random and t.dim() > 1]
    if not all(meaning(name).positional for name in (*steady, *drawn)) and len(rows) > 1:
        raise _undecided(returned, label, "whose names do not say which is the mean and which its spread")
    if not steady and len(drawn) == 1 and not of_x:
        return {"samples": (drawn[0], None)}, "the output differs from pass to pass: read as samples"
    if not steady:
        raise _undecided(
            returned, label, "and what differs from pass to pass may be a sample or a reconstruction (or dropout is on)"
        )
    if len(steady) > 1:
        pair = _the_pair(steady)
        if pair is not None and x is not None and pair[1] in of_x and same(steady[pair[1]], x):
            raise _undecided(returned, label, f"and {pair[1]} is the data themselves")
    else:
        (name,) = steady
        beside = _shared(returned, name, taken)
        if beside is None and not drawn:
            return _one_tensor(name, steady[name], label, is_x=name in of_x, alone=len(returned.tensors) == 1 + len(taken))
        pair = None if beside is None else (name, beside)
    if pair is None:
        raise _undecided(returned, label, "and more than one pair, or none, could be mean and spread")
    whole = returned.tensors[pair[0]].shape == returned.tensors[pair[1]].shape
    return _pair(returned, pair, drawn, label, certain=len(steady) == 2 and whole)


def _the_pair(steady: Tensors) -> tuple[str, str] | None:
    """The only two neighbours of one shape, if no third has it; or two alone, of which the second has one value a point."""
    names = list(steady)
    if len(names) == 2 and could_share(steady[names[1]], steady[names[0]]):
        return names[0], names[1]
    pairs = [(a, b) for a, b in itertools.pairwise(names) if steady[a].shape == steady[b].shape]
    alone = len(pairs) == 1 and sum(t.shape == steady[pairs[0][0]].shape for t in steady.values()) == 2
    return pairs[0] if alone else None


def _shared(returned: Returned, mean: str, taken: set[str]) -> str | None:
    """The one output beside the mean that all points share, with a value for each latent."""
    others = [name for name in returned.tensors if name != mean and name not in taken and returned.tensors[name].dim()]
    fits = [name for name in others if _is_vector(returned, returned.tensors[name], returned.tensors[mean])]
    return fits[0] if len(fits) == 1 == len(others) and meaning(fits[0]).positional else None


def could_share(spread: torch.Tensor, mean: torch.Tensor) -> bool:
    """Whether each point has one value for all its latents."""
    return spread[0].numel() == 1 < mean[0].numel()


def _pair(returned: Returned, pair: tuple[str, str], drawn: list[str], label: str, *, certain: bool) -> tuple[Roles, str]:
    mean, spread = (returned.tensors[name].double() for name in pair)
    if bool((spread > 0).all()):
        raise InputError(
            f"{label} returns {listed(returned.tensors)}, and {pair[1]} is positive throughout: it may be a standard "
            "deviation, a variance or a log-variance. Say which: --outputs mean,std, mean,var or mean,logvar (with _ for "
            "outputs to ignore)."
        )
    full = spread_like(label, pair[1], spread, mean)
    if full.shape != mean.shape:
        raise _undecided(returned, label, "and no pair could be mean and spread")
    shape = "" if full is spread else f" ({pair[1]} shared, of shape {tuple(spread.shape)})"
    alike = look_alike(mean, full)
    if move_together(mean, full):
        raise _undecided(returned, label, f"and {pair[0]} and {pair[1]} move together, as no mean and log-variance do")
    moment = float((mean.square() + full.clamp(max=50).exp()).mean())
    if not certain and (alike or (shape and not PLAUSIBLE[0] < moment < PLAUSIBLE[1])):
        raise _undecided(
            returned, label, f"and whether {pair[0]} and {pair[1]} are mean and log-variance cannot be told by their values"
        )
    samples = [name for name in drawn if returned.tensors[name].shape == mean.shape]
    roles: dict[str, tuple[str, int | None]] = {"mean": (pair[0], None), "logvar": (pair[1], None)}
    if len(samples) == 1:
        roles["samples"] = (samples[0], None)
    return roles, (
        f"outputs {pair[0]} and {pair[1]} read as mean and logvar (it has negative values){shape}; --outputs says otherwise"
        + (f". {ALIKE}" if alike else "")
    )


ALIKE = (
    "The two look alike, as the two halves of a code do and as the outputs of an untrained network do: a trained encoder's "
    "log-variance is mostly negative. If they are no mean and log-variance, the numbers are wrong"
)


def _halves_note(roles: Roles, tensors: Tensors) -> str:
    """What is to be said of a tensor that was split."""
    (name, half), (other, second) = roles.get("mean", ("", None)), roles.get("logvar", ("", None))
    if name != other or half is None or second is None:
        return f"{name} split into mean and spread" if half is not None else ""
    halves = tensors[name].flatten(1).chunk(2, 1)
    return f"{name} split into mean and log-variance" + (f". {ALIKE}" if look_alike(halves[half], halves[second]) else "")


def _one_tensor(name: str, tensor: torch.Tensor, label: str, *, is_x: bool, alone: bool) -> tuple[Roles, str]:
    width = tensor[0].numel()
    if is_x and alone and width % 2:
        raise InputError(
            f"{label} returns one tensor of the data's own shape, {tuple(tensor.shape[1:])}, which may be a reconstruction: "
            "give the encoder alone, or, if these are codes, say --outputs mean."
        )
    if width % 2 and alone:
        return {"mean": (name, None)}, "one deterministic output of odd width, read as the mean alone"
    raise InputError(
        f"{label} returns one tensor of width {width}, the same in every pass: the codes of a deterministic encoder, "
        "or mean and spread side by side. Say which: --outputs mean, or --outputs mean,logvar (mean,std, mean,var)."
    )


def _undecided(returned: Returned, label: str, why: str) -> InputError:
    return InputError(
        f"{label} returns {listed(returned.tensors)}, {why}: name each in order, as --outputs mean,logvar, with _ for what to "
        "ignore."
    )
