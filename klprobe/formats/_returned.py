"""Taking apart whatever an encoder returned: tuples, dicts, dataclasses, Distributions, down to tensors with names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributions import Categorical, Distribution, MultivariateNormal, OneHotCategorical, RelaxedOneHotCategorical

from klprobe.distributions.posteriors import diagonal_normal

Tensors = dict[str, torch.Tensor]


def tensors_of(returned: Any, batch: int) -> Tensors:
    """The tensors in whatever an encoder returned, by name, those with one row a point; a Distribution gives its parameters."""
    return {
        name: tensor
        for name, tensor in _walk(returned, "")
        if tensor.dim() and len(tensor) == batch and tensor.numel() and not tensor.is_complex()
    }


def _walk(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name or "0", value.detach()
    elif isinstance(value, Distribution):
        yield from ((f"{name}.{part}" if name else part, tensor.detach()) for part, tensor in _parameters(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from _walk(dict(zip(value._fields, value, strict=True)), name)
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from _walk(inner, f"{name}.{i}" if name else str(i))
    elif isinstance(getattr(value, "mean", None), torch.Tensor):
        spread = next((s for s in ("logvar", "std", "stddev", "var", "variance") if hasattr(value, s)), None)
        for part in ("mean", *([spread] if spread else [])):
            yield f"{name}.{part}" if name else part, getattr(value, part).detach()
    elif dataclasses.is_dataclass(value):
        yield from _walk(vars(value), name)


def _parameters(value: Distribution) -> Iterator[tuple[str, torch.Tensor]]:
    normal = diagonal_normal(value)
    if normal is None and isinstance(value, torch.distributions.Normal):
        normal = value.loc, value.scale
    if normal is not None:
        yield from (("mean", normal[0]), ("std", normal[1]))
    elif isinstance(value, MultivariateNormal):
        yield from (("mean", value.loc), ("scale_tril", value.scale_tril))
    elif isinstance(value, Categorical | OneHotCategorical | RelaxedOneHotCategorical):
        yield "probs", value.probs
    else:
        yield "samples", value.sample()
