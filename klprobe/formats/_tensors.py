"""Check every value of the tensors that an encoder gave, and make a posterior from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.types import InputError

SPREADS = ("logvar", "var", "std")
VALUES_AT_ONCE = 1 << 22
"""Number of values checked at a time, so that a memory-mapped array of any size needs little memory."""
LARGEST_LOGVAR = 700.0
"""Largest log-variance, in absolute value, whose variance is still a normal float64."""


def posterior_of(label: str, tensors: Mapping[str, torch.Tensor]) -> DiagonalGaussian | SampleOnly:
    """Make a posterior from mean and one spread, from samples alone, or from the mean alone, each of shape (N, D).

    Raises:
        InputError: shapes disagree, or values are NaN, infinite or not a variance; the message names tensor and remedy.
    """
    check_tensors(label, tensors)
    spreads = {name: t for name, t in tensors.items() if name in SPREADS}
    if spreads:
        return DiagonalGaussian(tensors["mean"], **spreads)
    return SampleOnly(*tensors.values(), deterministic="mean" in tensors)


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
