"""The model's own prior, among the arrays of a file or the outputs of an encoder: a mean and a spread that no point changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.distributions.priors import mixture
from klprobe.formats._by_name import same
from klprobe.formats._laws import as_prior, flat
from klprobe.formats._names import MATRICES, SPREAD_ROLES, meaning
from klprobe.formats._reading import Reading
from klprobe.formats._returned import Returned
from klprobe.formats._tensors import variance_of
from klprobe.types import InputError

Shape = tuple[int, ...]
WEIGHTS = "prior_weights"
"""The name of a mixture's weights."""


def find_prior(shapes: Mapping[str, Shape], value: Callable[[str], torch.Tensor], rows: int) -> tuple[dict[str, str], str]:
    """Role to name of the prior's mean and spread; and why what is there of a prior cannot be used, empty where it can.

    Args:
        shapes: Shape of every tensor, by name.
        value: From a name to the tensor.
        rows: N, the number of points.
    """
    words = {name: meaning(name) for name in shapes if meaning(name).owner == "prior"}
    roles = {
        said.role: name
        for name, said in words.items()
        if said.role in ("mean", *SPREAD_ROLES, *MATRICES) and said.role is not None
    }
    unclear = [name for name, said in words.items() if said.role is None and shapes[name]]
    if not roles:
        return {}, f"what {' and '.join(unclear)} say of the prior is not clear" if unclear else ""
    if len(roles) != 2 or "mean" not in roles:
        return {}, f"{', '.join(roles.values())} of the prior are not one mean and one spread"
    weights = WEIGHTS if WEIGHTS in shapes else None
    if weights is None and (
        moving := [n for n in roles.values() if len(shapes[n]) > 1 and shapes[n][0] > 1 and n not in _flat(shapes, roles)]
    ):
        fixed = shapes[moving[0]][0] == rows and all(same(value(n), value(n)[:1].expand_as(value(n))) for n in moving)
        if not fixed:
            why = (
                "depends on the data point, so it is of no prior p(z)"
                if shapes[moving[0]][0] == rows
                else (f"has {shapes[moving[0]][0]} rows: a mixture needs its weights, {WEIGHTS}")
            )
            return {}, f"{moving[0]} {why}"
    return roles if weights is None else {**roles, "weights": weights}, ""


def _flat(shapes: Mapping[str, Shape], roles: Mapping[str, str]) -> list[str]:
    """Names of a matrix (D, D) that has no row a point."""
    return [name for role, name in roles.items() if role in MATRICES and len(shapes[name]) == 2]


def prior_from(label: str, tensors: Mapping[str, torch.Tensor], dim: int) -> Distribution:
    """The Gaussian of mean and spread, or the mixture of several with their weights; event shape (D,), float64.

    Args:
        label: The file's name, for error messages.
        tensors: `mean` and one spread, or matrix, by role; with `weights` (K,) each of shape (K, D).
        dim: D.
    Raises:
        InputError: another size, or values that are no spread.
    """
    (role,) = set(tensors) - {"mean", "weights"}
    mean, spread = tensors["mean"].double(), tensors[role].double()
    if not bool(mean.isfinite().all() and spread.isfinite().all()):
        raise InputError(f"{label}: its own prior is NaN or infinite: --prior normal holds the codes against N(0, I).")
    try:
        if "weights" in tensors:
            variance = variance_of(role, spread).expand_as(mean)
            return mixture(DiagonalGaussian(mean, var=variance), tensors["weights"])
        centre = mean[0] if mean.dim() > 1 else mean
        if role in MATRICES:
            matrix = spread[0] if spread.dim() > 2 else spread
            tril = matrix if role == "scale_tril" else torch.linalg.cholesky(matrix)
            return _of_size(label, MultivariateNormal(centre.expand(dim), scale_tril=tril), dim)
        variance = variance_of(role, spread[0] if spread.dim() > 1 else spread)
        if not bool((variance > 0).all()) or (role == "std" and not bool((spread > 0).all())):
            raise InputError(f"{label}: the spread of its own prior is not positive throughout: --prior normal leaves it away.")
        return _of_size(
            label, Independent(Normal(centre.reshape(-1).expand(dim), variance.reshape(-1).sqrt().expand(dim)), 1), dim
        )
    except (RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise InputError(
            f"{label}: its own prior, {shapes}, does not fit {dim} latents: --prior normal leaves it away."
        ) from error


def _of_size(label: str, prior: Distribution, dim: int) -> Distribution:
    if tuple(prior.event_shape) != (dim,):
        raise InputError(f"{label}: its own prior has {prior.event_shape[0]} latents, and the posterior {dim}.")
    return prior


def why_moved(first: Returned, returned: Returned, reading: Reading) -> str:
    """Why what was taken for the prior is none, where it differs between the first points and these."""
    for name, _ in reading.prior.values():
        a, b = (r.tensors[name][:1] if r.has_rows(name) else r.tensors[name] for r in (first, returned))
        whole = returned.tensors[name]
        if not same(a, b) or (returned.has_rows(name) and not same(whole, whole[:1].expand_as(whole))):
            return f"{name} depends on the data point, so it is of no prior p(z)"
    if reading.prior_law is not None:
        laws = [
            flat(r.distributions[reading.prior_law], r.rows) or r.distributions[reading.prior_law] for r in (first, returned)
        ]
        z = laws[0].sample()[:1]
        told = torch.cat([law.log_prob(z.expand(law.batch_shape + law.event_shape)).flatten().double() for law in laws])
        if not same(told, told[:1].expand_as(told)) and laws[0].event_shape:
            return f"{reading.prior_law} depends on the data point, so it is no prior p(z)"
    return ""


def prior_of(label: str, first: Returned, reading: Reading, dim: int) -> Distribution | None:
    """The model's own prior, where the encoder returned it."""
    if reading.prior:
        return prior_from(label, {role: first.tensors[name] for role, (name, _) in reading.prior.items()}, dim)
    if reading.prior_law is None:
        return None
    law = first.distributions[reading.prior_law]
    prior = as_prior(law, first.rows, dim)
    if prior is None:
        raise InputError(
            f"{label}: {reading.prior_law or 'its prior'} has batch shape {tuple(law.batch_shape)} and event shape "
            f"{tuple(law.event_shape)}, and is no prior of {dim} latents: return it with event shape ({dim},)."
        )
    return prior
