"""`--prior SPEC`: a name, then options, as in `normal:scale=2.0`; or a file, as in `mixture:prior.npz`; or Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.distributions import Distribution, Independent, Normal

from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.flows import load_flow
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior, standard_normal
from klprobe.distributions.priors import Cloud, UniformSphere, mixture
from klprobe.files import tables
from klprobe.files.npy import read_member
from klprobe.files.remembered import MODULE, NotOurs
from klprobe.files.zips import opened
from klprobe.formats import Request, load
from klprobe.printable import nearest, short
from klprobe.runtime.user_code import import_named
from klprobe.types import InputError

Options = Mapping[str, tuple[float, ...]]
Encode = Callable[[str], Distribution]
ARRAYS = (".npz", ".safetensors", ".npy", *tables.SUFFIXES)
"""Suffixes of files that are read as samples of the prior when they are given without a name before."""


def parse_prior(spec: str, dim: int, own: Distribution | None, encode: Encode) -> Distribution:
    """Make the prior that SPEC names, event shape (D,).

    Args:
        spec: Text `own`; a name of `PRIORS` with options `name=value` or `name=value,value,...`, each after a `:`; a name of
            `FILES` with a path after the `:`; a file of samples alone; or `package.module:prior`.
        dim: Number of latents of the posterior, D.
        own: Prior that came with the checkpoint; None is N(0, I).
        encode: Function from the path of data, ready for the encoder, to their posterior.
    """
    check_name(spec)
    name, *rest = spec.split(":")
    if spec == "own":
        return standard_normal(dim) if own is None else own
    if name not in (*FILES, *PRIORS) and Path(spec).suffix.lower() in ARRAYS:
        return _samples(spec, encode)
    if name in FILES:
        return FILES[name](":".join(rest), encode)
    if name not in PRIORS:
        return _python(spec, dim)
    return PRIORS[name](dim, {key: _numbers(spec, key, text) for key, _, text in (part.partition("=") for part in rest)})


def check_name(spec: str) -> None:
    """Raise InputError unless this is a prior by name, which can be said before anything is read."""
    name, *rest = spec.split(":")
    if name in FILES and not any(rest):
        raise InputError(f"--prior {name} needs a file: {name}:PATH.")
    is_file = name not in (*FILES, *PRIORS) and Path(spec).suffix.lower() in ARRAYS and (Path(spec).exists() or not rest)
    path = spec if is_file else ":".join(rest) if name in READ_HERE else ""
    if path and not Path(path).exists():
        raise InputError(f"--prior {short(spec)}: {short(path)} does not exist. Give the path of a file.")
    if spec != "own" and name not in (*FILES, *PRIORS) and not is_file and not MODULE.fullmatch(spec):
        near = nearest(name, ["own", *PRIORS, *FILES])
        hint = f" Did you mean {near!r}?" if near else ""
        known = ", ".join((*PRIORS, *(f"{file}:PATH" for file in FILES)))
        raise InputError(
            f"--prior {short(spec)} is not known: give own, {known}, package.module:prior, as normal:mean=0:scale=2.{hint}"
        )


def _normal(dim: int, options: Options) -> Distribution:
    if unknown := sorted(set(options) - {"mean", "scale"}):
        raise InputError(
            f"--prior normal takes mean and scale, not {', '.join(map(repr, unknown))}, as in normal:mean=0:scale=2."
        )
    mean, scale = (_vector(dim, name, options.get(name, (default,))) for name, default in (("mean", 0.0), ("scale", 1.0)))
    if not bool((scale > 0).all()):
        raise InputError(f"--prior normal: scale is a standard deviation and must be positive; got {scale.min():g}.")
    return Independent(Normal(mean, scale, validate_args=False), 1)


def _sphere(dim: int, options: Options) -> Distribution:
    if set(options) - {"radius"} or len(options.get("radius", (1.0,))) != 1:
        raise InputError("--prior sphere takes one radius, as in sphere or sphere:radius=2.")
    return UniformSphere(dim, *options.get("radius", ()))


def _mixture(path: str, encode: Encode) -> Distribution:
    """Mix the Gaussians in any file of posteriors, with their `weights` where an .npz has them."""
    components = _components(f"mixture:{path}", _posterior(path))
    weights = None
    if Path(path).suffix.lower() == ".npz":
        with opened(Path(path), path) as archive:
            if "weights.npy" in archive.namelist():
                weights = torch.from_numpy(read_member(archive, archive.getinfo("weights.npy"), f"{path}: 'weights'"))
    try:
        return mixture(components, weights)
    except InputError as error:
        raise InputError(f"--prior mixture:{path}: {error}") from error


def _vampprior(path: str, encode: Encode) -> Distribution:
    """Mix the posteriors of pseudo-inputs, with equal weights."""
    return mixture(_components(f"vampprior:{path}", encode(path)))


def _aggregate(path: str, encode: Encode) -> Distribution:
    """The aggregate posterior of another encoder, or of another data set, with its density: a file of posteriors, or `.npy`.

    A `.npy` holds inputs of the encoder that is looked at, as for `vampprior`.
    """
    posterior = as_posterior(encode(path) if Path(path).suffix.lower() == ".npy" else _posterior(path))
    if not posterior.has_log_prob:
        raise InputError(
            f"--prior aggregate:{path} needs q(z|x) with a density, mean and logvar, but these are samples alone: --prior "
            f"samples:{path} takes them as a cloud."
        )
    return AggregatePosterior(posterior)


def _conditional(path: str, encode: Encode) -> Distribution:
    """A prior p(z|x) of each data point, in any file of posteriors, whose rows are those of the data points in order."""
    return _posterior(path)


def _flow(path: str, encode: Encode) -> Distribution:
    """Read a flow that --maf.save wrote."""
    return load_flow(Path(path))


def _samples(path: str, encode: Encode) -> Distribution:
    """Read the `samples` of any file of posteriors, as a cloud without a density."""
    posterior = _posterior(path)
    if not isinstance(posterior, SampleOnly):
        raise InputError(
            f"--prior {path} holds Gaussians: --prior mixture:{path} takes them as a mixture. A cloud of prior draws is "
            "an array samples of shape (M, D) alone."
        )
    return Cloud(posterior.samples)


def _posterior(path: str) -> Distribution:
    """Read the posterior that a file holds, or that its encoder gives on the data that it was trained on."""
    try:
        return load(path, Request(of_rows=False)).posterior
    except NotOurs as error:  # --data is for the checkpoint that is estimated, not for this one
        raise InputError(
            f"{error.reason}: encode those data in Python, numpy.savez('prior.npz', mean=mean, logvar=logvar), "
            "and give --prior mixture:prior.npz."
        ) from error


def _components(spec: str, posterior: Distribution) -> DiagonalGaussian:
    if not isinstance(posterior, DiagonalGaussian):
        raise InputError(f"--prior {spec} needs diagonal Gaussians, mean and logvar, as components.")
    return posterior


def _python(spec: str, dim: int) -> Distribution:
    """Import a torch Distribution, or a function from D to one."""
    found = import_named(spec, "--prior")
    if callable(found) and not isinstance(found, Distribution):
        try:
            found = found(dim)
        except Exception as error:
            raise InputError(f"--prior {spec}({dim}) failed ({type(error).__name__}: {error}): let it take D.") from error
    if not isinstance(found, Distribution):
        raise InputError(f"--prior {spec} is a {type(found).__name__}: give a torch Distribution, or a function from D to one.")
    return found


PRIORS: dict[str, Callable[[int, Options], Distribution]] = {"normal": _normal, "sphere": _sphere}
"""Priors by name; a new one is a function here, from D and the options to a Distribution of event shape (D,)."""
FILES: dict[str, Callable[[str, Encode], Distribution]] = {
    "mixture": _mixture,
    "vampprior": _vampprior,
    "aggregate": _aggregate,
    "conditional": _conditional,
    "flow": _flow,
    "samples": _samples,
}
"""Priors by name that come from a file."""
READ_HERE = ("mixture", "flow", "samples")
"""Priors whose path is that of a file, and of nothing else that data can be."""


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
        raise InputError(f"--prior {short(spec)}: {key or 'an option'} needs a finite number, as in normal:mean=0:scale=2.")
    return values
