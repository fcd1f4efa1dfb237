"""Check every value of the tensors that an encoder gave, and make a posterior from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.formats._names import SPREAD_ROLES
from klprobe.types import InputError

SPREADS = ("logvar", "var", "std")
VALUES_AT_ONCE = 1 << 22
"""Number of values checked at a time, so that a memory-mapped array of any size needs little memory."""
LARGEST_LOGVAR = 700.0
"""Largest log-variance, in absolute value, whose variance is still a normal float64."""
USUAL = ("logvar", "var", "std", "logstd")
"""Spreads that are tried in place of one that does not fit."""
Z_SCORES = 6.0
"""Standard errors by which the mean of r^2 / v may differ from 1: over n draws it is 1 +- sqrt(2 / n) when v = Var(r)."""
EXPONENT_BOUND = 80.0
ALIKE_SPREAD, ALIKE_CENTRE, ALIKE_SIZE, ALIKE_CORRELATION = 3.0, 0.5, 0.1, 0.95
FEW = 8
"""A mean and a log-variance look alike when their standard deviations differ by less than the first factor, the log-variance's
mean lies within the second times its deviation of 0, and its size is above the third; they move together when their
correlation is above the fourth, over more points than a few."""


def posterior_of(label: str, tensors: Mapping[str, torch.Tensor]) -> DiagonalGaussian | SampleOnly:
    """Make a posterior from mean and one spread, from samples alone, or from the mean alone, each of shape (N, D).

    Raises:
        InputError: shapes disagree, or values are NaN, infinite or not a variance; the message names tensor and remedy.
    """
    if "mean" in tensors and tensors["mean"].dim() == 2:
        tensors = {name: spread_like(label, name, t, tensors["mean"]) for name, t in tensors.items()}
    check_tensors(label, tensors)
    spreads = {name: t for name, t in tensors.items() if name in SPREADS}
    if spreads:
        return DiagonalGaussian(tensors["mean"], **spreads)
    return SampleOnly(*tensors.values(), deterministic="mean" in tensors)


def spread_like(label: str, name: str, spread: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """A spread that several latents or all points share, as one of the mean's shape (N, ...); any other as it is.

    Of one value a latent the shape is (D,) or (1, D), of one value a point (N,) or (N, 1), of one for all () or (1,).

    Raises:
        InputError: N numbers beside N latents, which may be one for each of either.
    """
    rows, inside = mean.shape[0], mean.shape[1:]
    if spread.shape == mean.shape:
        return spread
    latents = inside.numel()
    if spread.dim() == 1 and len(spread) == rows == latents != 1:
        raise InputError(
            f"{label}: {name} has {rows} values beside {rows} points of {latents} latents, and they may belong to either: let "
            f"it have shape ({rows}, 1) for one value a point, or (1, {latents}) for one a latent."
        )
    if spread.dim() == 1 and len(spread) == rows != 1:
        spread = spread.reshape(rows, *[1] * len(inside))
    elif spread.numel() == latents and (spread.dim() == 1 or len(spread) == 1 or spread.shape == inside):
        spread = spread.reshape(1, *inside)
    try:
        return spread.expand(mean.shape)
    except RuntimeError:
        return spread


def check_tensors(label: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError unless all have the same shape (N, D) and values that their names, numbered or not, allow."""
    for name, tensor in tensors.items():
        _check_shape(label, name, tensor)
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        listed = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise InputError(f"{label}: shapes disagree: {listed}. All must be the same (N, D).")
    for name, tensor in tensors.items():
        _check_values(label, name, name.rstrip("_0123456789"), tensor)


def some_rows(bad: torch.Tensor) -> str:
    """Say in words how many rows of a mask (N,) are set and which is the first; empty when no row is set."""
    count = int(bad.sum())
    row = f"row {int(bad.byte().argmax())}"
    return "" if count == 0 else row if count == 1 else f"{count:,} rows, the first of them {row}"


def _check_shape(label: str, name: str, tensor: torch.Tensor) -> None:
    shape = tuple(tensor.shape)
    problem = ""
    if len(shape) < 2:
        problem = f"for one latent, {name}[:, None] has it" if len(shape) == 1 else "save one row per data point"
    elif len(shape) > 2:
        problem = f"flatten each point's latents, {name}.reshape(len({name}), -1)"
    elif shape[1] == 0:
        problem = "D = 0 leaves no latent to estimate"
    elif shape[0] < 2:
        raise InputError(
            f"{label}: tensor {name!r} has shape {shape}, N = {shape[0]}: an aggregate posterior needs at least 2 data points."
        )
    if problem:
        raise InputError(f"{label}: tensor {name!r} has shape {shape}, not (N, D): {problem}.")


def _check_values(label: str, name: str, role: str, tensor: torch.Tensor) -> None:
    where = f"{label}: tensor {name!r}"
    if found := _find(tensor, lambda block: ~block.isfinite()):
        raise InputError(
            f"{where} has {found}, NaN or infinite: look for what diverged in the encoder, or leave those points out."
        )
    if role == "logvar" and (found := _find(tensor, lambda block: block.abs() > LARGEST_LOGVAR)):
        raise InputError(
            f"{where} has {found}, beyond +-{LARGEST_LOGVAR:g}, where a float64 variance ends: clamp it in the encoder, "
            "or hand over mean alone for a deterministic encoder."
        )
    if role in ("var", "std"):
        if found := _find(tensor, lambda block: block < 0):
            raise InputError(f"{where} has {found}, negative: if it is a log-variance, call it 'logvar'.")
        if found := _find(tensor, lambda block: block == 0):
            raise InputError(
                f"{where} has {found}, zero, so q(z|x) has no density there: save logvar (float16 underflows), "
                "or mean alone for a deterministic encoder."
            )


def _find(tensor: torch.Tensor, is_bad: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Say in words how many values are bad and where the first is; empty when no value is bad."""
    rows, count, first = max(1, VALUES_AT_ONCE // tensor.shape[1]), 0, ""
    for start in range(0, len(tensor), rows):
        bad = is_bad(tensor[start : start + rows].double())
        here = int(bad.sum())
        if here and not count:
            row, column = divmod(int(bad.flatten().byte().argmax()), tensor.shape[1])
            first = f"[{start + row}, {column}]"
        count += here
    return f"{count:,} value{'s' if count > 1 else ''} (the first at {first})" if count else ""


def variance_of(role: str, spread: torch.Tensor) -> torch.Tensor:
    """The variance that a spread stands for when it is read as `role`."""
    exponent = {"logvar": 1, "logstd": 2, "logprecision": -1}
    if role in exponent:
        return (exponent[role] * spread).clamp(-EXPONENT_BOUND, EXPONENT_BOUND).exp()
    return spread.square() if role == "std" else 1 / spread if role == "precision" else spread


def check_scatter(taken: Mapping[str, torch.Tensor], label: str) -> None:
    """Raise InputError when the encoder's own samples scatter around its mean by more or less than the spread says."""
    claimed = next((role for role in SPREAD_ROLES if role in taken), None)
    if claimed is None or taken["samples"].shape != taken["mean"].shape or taken[claimed].shape != taken["mean"].shape:
        return
    squares = (taken["samples"].double() - taken["mean"].double()).square()
    spread = taken[claimed].double()
    if not (squares.isfinite().all() and spread.isfinite().all()):
        return  # the check of all points gives a clearer message
    slack = Z_SCORES * (2 / squares.numel()) ** 0.5
    ratios = {role: float((squares / variance_of(role, spread)).mean()) for role in SPREAD_ROLES}
    if abs(ratios[claimed] - 1) <= slack:
        return
    possible = [role for role in USUAL if role in ("logvar", "logstd") or bool((spread > 0).all())]
    likeliest = min(possible, key=lambda role: abs(ratios[role] - 1))
    if abs(ratios[likeliest] - 1) <= slack:
        better = f"As {likeliest} it fits ({ratios[likeliest]:.3g}): say --outputs with {likeliest} in its place"
    else:
        better = "No other reading fits: look at which output is which, and name each with --outputs, _ for what to ignore"
    raise InputError(
        f"{label}: its own samples scatter around its mean with {ratios[claimed]:.3g} times the variance that its spread, read "
        f"as {claimed}, claims (1 +- {slack:.2g} is expected of {squares.numel():,} values). {better}."
    )


def look_alike(mean: torch.Tensor, logvar: torch.Tensor) -> bool:
    """Whether a log-variance looks as its mean does: about as wide, and as much about 0."""
    a, b = mean.reshape(len(mean), -1).double(), logvar.reshape(len(mean), -1).double()
    wide, centre, size = (float(a.std()), float(b.std())), abs(float(b.mean())), float(b.square().mean().sqrt())
    near = min(wide) > 0 and max(wide) < ALIKE_SPREAD * min(wide)
    return near and centre < ALIKE_CENTRE * wide[1] and size > ALIKE_SIZE


def move_together(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are nearly the same but for scale and place, as a code and its quantised code are."""
    moved, followed = (t.reshape(len(t), -1).double() - t.reshape(len(t), -1).double().mean(0) for t in (a, b))
    norm = float(moved.norm() * followed.norm())
    return len(a) > FEW and norm > 0 and float((moved * followed).sum()) > ALIKE_CORRELATION * norm
