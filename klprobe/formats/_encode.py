"""Run an encoder over data: probe it on a few points first, then encode all points block by block.

The probe makes three passes over a few points. Two passes over the same points that differ mean samples, or dropout left on;
points whose result changes with their neighbours mean batch normalisation in training mode. When the encoder gives samples
beside mean and spread, their scatter around the mean has to be the spread that was read, or the run stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.distributions import Distribution

from klprobe.files.child import GB
from klprobe.formats import Encoded, Request
from klprobe.formats._inputs import open_inputs
from klprobe.formats._latents import Latents, Part, latents_of
from klprobe.formats._outputs import MATRICES, Reading, read
from klprobe.formats._returned import SPREAD_ROLES, Tensors, tensors_of
from klprobe.types import InputError

POINTS_AT_ONCE = 1000
"""Number of data points encoded at a time, which limits memory and changes no result."""
PROBED = 64
"""Number of data points that the three passes of the probe use."""
SAME = 1e-3
"""Relative difference below which two passes agree: float32 results change this much when blocks have other sizes."""
SEED = 0
"""Seed of the encoder's own random numbers; torch's global generator is restored afterwards."""
MOST_CHANNELS = 16
"""Largest number of channels of spatial latents that are reported one by one, because each is estimated separately."""
Z_SCORES = 6.0
"""Standard errors by which the mean of r^2 / v may differ from 1: over n draws it is 1 +- sqrt(2 / n) when v = Var(r)."""


@dataclass(frozen=True)
class Encoder:
    """An encoder ready to run.

    Attributes:
        run: Function that takes float32 points (m, ...) on the CPU, and returns what the encoder returns.
        label: Name of the file, for messages.
        wants: Sentence that says which input it needs; empty when that is not known.
        batch_size: The only number of points that it takes at a time; None when it takes any number.
        most_bytes: Largest number of bytes of all its answers, where it runs in a confined process; None for no limit.
    """

    run: Callable[[torch.Tensor], Any]
    label: str
    wants: str = ""
    batch_size: int | None = None
    most_bytes: float | None = None


class Points(Protocol):
    """Data points ready for an encoder."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> torch.Tensor:
        """The points from `start` up to `stop`, shape (m, ...)."""


def encode_data(encoder: Encoder, request: Request, provenance: dict[str, Any], notes: tuple[str, ...] = ()) -> Encoded:
    """Encode the requested data, and return their posterior.

    Raises:
        InputError: the data are missing or do not fit, the outputs cannot be read, or the encoder is in training mode.
    """
    inputs = open_inputs(request, encoder.label)
    facts = inputs.facts()
    latents, reading = _encode(encoder, inputs, request)
    shape = tuple(facts["input_shape"])
    data_note = f"{len(inputs):,} points of {inputs.name} as {shape}: {', '.join(facts['preprocessing'])}; {inputs.range_note}"
    return Encoded(
        latents.posterior,
        latents.prior,
        split=inputs.split,
        provenance={**provenance, **facts, "outputs": {role: _place(*where) for role, where in reading.roles.items()}},
        notes=tuple(note for note in (*notes, *inputs.notes, data_note, reading.note, *latents.notes) if note),
        parts=latents.parts,
        checks=inputs.checks,
    )


def encode_points(encoder: Encoder, points: Points, request: Request) -> tuple[Distribution, Reading]:
    """Encode points, and say which outputs are used; of the request, only `outputs` and `progress` matter.

    Raises:
        InputError: as for `encode_data`.
    """
    latents, reading = _encode(encoder, points, request)
    return latents.posterior, reading


def _encode(encoder: Encoder, points: Points, request: Request) -> tuple[Latents, Reading]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        reading, channels = _probe(encoder, points, request)
        latents = _latents(encoder.label, _all_points(encoder, points, reading, request))
    return _by_channel(latents, channels), reading


def _call(encoder: Encoder, x: torch.Tensor) -> Tensors:
    """Run the encoder on the points x, padded where it takes one batch size only, and return its tensors."""
    m, size = len(x), encoder.batch_size
    padded = x if size is None or m == size else torch.cat([x, x[-1:].expand(size - m, *x.shape[1:])])
    try:
        returned = encoder.run(padded)
    except InputError:
        raise
    except Exception as error:
        wants = f" It needs {encoder.wants}." if encoder.wants else ""
        said = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
        raise InputError(
            f"{encoder.label} cannot encode points of shape {tuple(x.shape[1:])}, which is what the data give ({said}).{wants} "
            "Change the data, or --resize, --gray, --flatten."
        ) from error
    return {name: tensor[:m].cpu() for name, tensor in tensors_of(returned, len(padded)).items()}


def _probe(encoder: Encoder, inputs: Points, request: Request) -> tuple[Reading, int | None]:
    """Find out what the outputs are, and how many channels, and refuse an encoder that is in training mode."""
    size = min(PROBED, len(inputs), encoder.batch_size or PROBED)
    x = inputs.batch(0, size)
    first, second = _call(encoder, x), _call(encoder, x)
    random = {name for name in first if not _same(first[name], second[name])}
    reading = read(first, random, request.outputs, encoder.label)
    half = max(1, size // 2)
    alone = _call(encoder, torch.cat([x[:half], x[:1].expand(size - half, *x.shape[1:])]))
    for role, (name, _) in reading.roles.items():
        if role == "samples":
            continue
        if name in random:
            raise InputError(
                f"{encoder.label}: its {role} differs between two passes over the same points, so dropout (or other noise) is "
                "on: call eval() before you save it. If this output is a sample, say --outputs samples."
            )
        if not _same(first[name][:half], alone[name][:half]):
            raise InputError(
                f"{encoder.label}: the {role} of a point changes with the points beside it, so batch normalisation is in "
                "training mode: call eval() before you save it."
            )
    return reading, reading.channels(first)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    scale = max(float(a.abs().max()), 1e-6)
    return not bool(a.isfinite().all()) or bool(((a.double() - b.double()).abs() <= SAME * scale).all())


def _all_points(encoder: Encoder, inputs: Points, reading: Reading, request: Request) -> Tensors:
    parts: dict[str, list[torch.Tensor]] = {role: [] for role in reading.roles}
    size, held = encoder.batch_size or POINTS_AT_ONCE, 0
    for start in range(0, len(inputs), size):
        taken = reading.take(_call(encoder, inputs.batch(start, start + size)))
        if start == 0 and {"mean", "samples"} <= set(taken):
            _check_scatter(taken, encoder.label)
        for role, tensor in taken.items():
            parts[role].append(tensor.float() if tensor.dtype != torch.float64 else tensor)
            held += parts[role][-1].nbytes
        if encoder.most_bytes is not None and held > encoder.most_bytes:
            raise InputError(
                f"{encoder.label}: its answers to {min(start + size, len(inputs)):,} of {len(inputs):,} points take "
                f"{held / GB:.3g} GB, and {encoder.most_bytes / GB:.3g} GB is the limit: if it is yours, allow more by "
                "--file-memory, or give fewer points."
            )
        request.progress(min(start + size, len(inputs)), len(inputs))
    return {role: torch.cat(blocks) for role, blocks in parts.items()}


def _check_scatter(taken: Tensors, label: str) -> None:
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
    possible = [role for role in SPREAD_ROLES if role in ("logvar", "logstd") or bool((spread > 0).all())]
    likeliest = min(possible, key=lambda role: abs(ratios[role] - 1))
    if abs(ratios[likeliest] - 1) <= slack:
        better = f"As {likeliest} it fits ({ratios[likeliest]:.3g}): say --outputs with {likeliest} in its place"
    else:
        better = "No other reading fits: look at which output is which, and name each with --outputs, _ for what to ignore"
    raise InputError(
        f"{label}: its own samples scatter around its mean with {ratios[claimed]:.3g} times the variance that its spread, read "
        f"as {claimed}, claims (1 +- {slack:.2g} is expected of {squares.numel():,} values). {better}."
    )


def variance_of(role: str, spread: torch.Tensor) -> torch.Tensor:
    """Convert a spread that is read as `role` to a variance."""
    if role == "logvar":
        return spread.clamp(-80, 80).exp()
    if role == "logstd":
        return (2 * spread).clamp(-80, 80).exp()
    return spread.square() if role == "std" else spread


def _latents(label: str, tensors: Tensors) -> Latents:
    """Choose mean and spread over samples, and samples over means alone; double log standard deviations."""
    if "samples" in tensors and len(tensors) > 1:
        has_spread = any(role in (*SPREAD_ROLES, *MATRICES) for role in tensors)
        tensors = {role: t for role, t in tensors.items() if role != ("samples" if has_spread else "mean")}
    doubled = {role.replace("logstd", "logvar"): 2 * t if role.startswith("logstd") else t for role, t in tensors.items()}
    return latents_of(label, doubled)


def _by_channel(latents: Latents, channels: int | None) -> Latents:
    """Make each channel of spatial latents, (C, H, W), a part of the posterior."""
    if channels is None or channels == 1:
        return latents
    if channels > MOST_CHANNELS:
        note = f"{channels} channels, which are more than {MOST_CHANNELS}: they are not reported one by one"
        return latents._replace(notes=(*latents.notes, note))
    places = latents.posterior.event_shape[0] // channels
    parts: dict[str, Part] = {f"channel {c}": slice(c * places, (c + 1) * places) for c in range(channels)}
    return latents._replace(parts={**parts, **latents.parts})


def _place(name: str, half: int | None) -> str:
    return name if half is None else f"{name}, {('first', 'second')[half]} half"
