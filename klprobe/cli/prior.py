"""`--prior SPEC`: a name, then options, as in `normal:scale=2.0` or `normal:mean=0,0,1:scale=2`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping

import torch
from torch.distributions import Distribution, Independent, Normal

from klprobe.distributions import standard_normal
from klprobe.types import InputError

Options = Mapping[str, tuple[float, ...]]


def parse_prior(spec: str, dim: int, own: Distribution | None) -> Distribution:
    """The prior that SPEC names, event shape (D,).

    Args:
        spec: `own`, or a name of `PRIORS` with options `name=value` or `name=value,value,...`, each after a `:`.
        dim: D, the number of latents of the posterior.
        own: The prior that came with the checkpoint; None is N(0, I).
    """
    name, *rest = spec.split(":")
    if spec == "own":
        return standard_normal(dim) if own is None else own
    if name not in PRIORS:
        near = difflib.get_close_matches(name, ["own", *PRIORS], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"--prior {spec!r} is not known: give own, {', '.join(PRIORS)}, or normal:mean=0:scale=2.{hint}")
    return PRIORS[name](dim, {key: _numbers(spec, key, text) for key, _, text in (part.partition("=") for part in rest)})


def _normal(dim: int, options: Options) -> Distribution:
    if unknown := sorted(set(options) - {"mean", "scale"}):
        raise InputError(
            f"--prior normal takes mean and scale, not {', '.join(map(repr, unknown))}, as in normal:mean=0:scale=2."
        )
    mean, scale = (_vector(dim, name, options.get(name, (default,))) for name, default in (("mean", 0.0), ("scale", 1.0)))
    if not bool((scale > 0).all()):
        raise InputError(f"--prior normal: scale is a standard deviation and must be positive; got {scale.min():g}.")
    return Independent(Normal(mean, scale, validate_args=False), 1)


PRIORS: dict[str, Callable[[int, Options], Distribution]] = {"normal": _normal}
"""What `--prior` knows; a new prior is one function here, from D and the options to a Distribution of event shape (D,)."""


def _vector(dim: int, name: str, values: tuple[float, ...]) -> torch.Tensor:
    if len(values) not in (1, dim):
        raise InputError(f"--prior: {name} has {len(values)} values, but the posterior has D = {dim} latents: give 1 or {dim}.")
    return torch.tensor(values, dtype=torch.float64).expand(dim).clone()


def _numbers(spec: str, key: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise InputError(f"--prior {spec!r}: {key or 'an option'} needs a finite number, as in normal:mean=0:scale=2.")
    return values
