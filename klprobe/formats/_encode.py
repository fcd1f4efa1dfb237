"""Run an encoder over data: probe it on a few points first, then encode all points block by block.

The probe makes three passes over a few points. Two passes over the same points that differ mean samples, or dropout left on;
points whose result changes with their neighbours mean batch normalisation in training mode. When the encoder gives samples
beside mean and spread, their scatter around the mean has to be the spread that was read, or the run stops.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.distributions import Distribution

from klprobe.files.arguments import ALONE, Arguments, Batch, each, first_of, rows_of, shapes_of
from klprobe.files.child import GB
from klprobe.formats import Encoded, Request
from klprobe.formats._latents import Latents, by_channel, latents_of, with_classes
from klprobe.formats._laws import flat, joined, kind_of
from klprobe.formats._names import MATRICES, SPREAD_ROLES
from klprobe.formats._outputs import read
from klprobe.formats._priors import prior_of, why_moved
from klprobe.formats._reading import Reading, plain, plain_role
from klprobe.formats._returned import Returned, Tensors, close, may_be_confused, taken_apart
from klprobe.formats._several import open_points
from klprobe.formats._tensors import check_scatter
from klprobe.types import InputError

POINTS_AT_ONCE = 1000
"""Number of data points encoded at a time, which limits memory and changes no result."""
PROBED = 64
"""Number of data points that the three passes of the probe use."""
SEED = 0
"""Seed of the encoder's own random numbers; torch's global generator is restored afterwards."""
OF_SEVERAL = "Flags as --resize change the first; give the others as the encoder takes them, labels as whole numbers."
"""What to do about several inputs that do not fit."""


@dataclass(frozen=True)
class Encoder:
    """An encoder ready to run.

    Attributes:
        run: Function that takes float32 points (m, ...) on the CPU, or several inputs by argument, and returns what the encoder
            returns.
        label: Name of the file, for messages.
        wants: Sentence that says which input it needs; empty when that is not known.
        batch_size: The only number of points that it takes at a time; None when it takes any number.
        most_bytes: Largest number of bytes of all its answers, where it runs in a confined process; None for no limit.
        arguments: What it takes; one that takes the points alone calls them x.
    """

    run: Callable[[Any], Any]
    label: str
    wants: str = ""
    batch_size: int | None = None
    most_bytes: float | None = None
    arguments: Arguments = ALONE


class Points(Protocol):
    """Data points ready for an encoder."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> Batch:
        """The points from `start` up to `stop`, shape (m, ...), or several inputs by argument."""


def encode_data(encoder: Encoder, request: Request, provenance: dict[str, Any], notes: tuple[str, ...] = ()) -> Encoded:
    """Encode the requested data, and return their posterior.

    Raises:
        InputError: the data are missing or do not fit, the outputs cannot be read, or the encoder is in training mode.
    """
    inputs, points = open_points(request, encoder.label, encoder.arguments)
    facts = inputs.facts() if request.inputs is None else {**inputs.facts(), "inputs": request.inputs}
    found = encode_points(encoder, points, request)
    shape = tuple(facts["input_shape"])
    data_note = f"{len(inputs):,} points of {inputs.name} as {shape}: {', '.join(facts['preprocessing'])}; {inputs.range_note}"
    said = (*notes, *inputs.notes, data_note, found.reading.note, found.note, *found.latents.notes)
    return Encoded(
        found.posterior,
        found.latents.prior if found.prior is None else found.prior,
        split=inputs.split,
        provenance={**provenance, **facts, "outputs": {role: _place(*where) for role, where in found.reading.roles.items()}},
        notes=tuple(note for note in said if note),
        parts=found.latents.parts,
        prior_name="" if found.prior is None else f"{kind_of(found.prior)} as its encoder returns it",
        no_prior=found.no_prior,
        checks=inputs.checks,
    )


class Found(NamedTuple):
    """What an encoder said of all points.

    Attributes:
        posterior: Distribution of batch shape (N,) and event shape (D,).
        reading: Which of the outputs it is made of.
        latents: The posterior again, with its parts and what is to be said of them.
        prior: The model's own, event shape (D,), where it returned one.
        no_prior: Why the prior that it returned cannot be used; empty where it returned none, or it can.
        note: What else is to be said.
    """

    posterior: Distribution
    reading: Reading
    latents: Latents
    prior: Distribution | None
    no_prior: str
    note: str


def encode_points(encoder: Encoder, points: Points, request: Request) -> Found:
    """Encode points, and say which of the encoder's outputs their posterior is made of.

    Raises:
        InputError: as `encode_data`.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        encoder, note = _taking(encoder, points)
        first, reading, channels = _probe(encoder, points, request)
        tensors, laws, no_prior = _all_points(encoder, points, first, reading, request)
        latents = _latents(encoder.label, tensors, laws)
        prior = None if no_prior else prior_of(encoder.label, first, reading, latents.posterior.event_shape[0])
        prior = latents.prior if prior is None else prior
    return Found(latents.posterior, reading, by_channel(latents, channels), prior, no_prior, note)


def _taking(encoder: Encoder, points: Points) -> tuple[Encoder, str]:
    """The encoder for whole numbers as they are, which tokens need, or as float32, where its network takes nothing else."""
    x = points.batch(0, min(2, len(points), encoder.batch_size or 2))
    whole = [name for name, t in _by_name(x).items() if not t.is_floating_point()]
    if not whole:
        return encoder, ""
    first_error: InputError | None = None
    for changed in itertools.chain.from_iterable(itertools.combinations(whole, n) for n in range(len(whole) + 1)):
        run = encoder.run if not changed else functools.partial(_as_floats, encoder.run, changed)
        try:
            _call(dataclasses.replace(encoder, run=run), x)
        except InputError as error:
            first_error = first_error or error
            continue
        notes = [(_of(name), "float32" if name in changed else "whole numbers") for name in whole]
        note = "; ".join(f"whole numbers{of} are given to the encoder as {kind}" for of, kind in notes)
        return dataclasses.replace(encoder, run=run), note
    if isinstance(x, torch.Tensor) or first_error is None:
        _call(encoder, each(x, lambda t: t.float()))
    raise first_error or InputError(f"{encoder.label} cannot encode these data.")


def _as_floats(run: Callable[[Batch], Any], changed: Sequence[str], x: Batch) -> Any:
    """What the encoder returns for whole numbers that are made float32."""
    if isinstance(x, torch.Tensor):
        return run(x.float())
    return run({name: t.float() if name in changed else t for name, t in x.items()})


def _by_name(x: Batch) -> dict[str, torch.Tensor]:
    return {"": x} if isinstance(x, torch.Tensor) else x


def _of(name: str) -> str:
    return f" of {name}" if name else ""


def _call(encoder: Encoder, x: Batch) -> Returned:
    """What the encoder returns for the points x, padded where it takes one batch size only."""
    m, size = rows_of(x), encoder.batch_size
    padded = x if size is None or m == size else each(x, lambda t: torch.cat([t, t[-1:].expand(size - m, *t.shape[1:])]))
    try:
        returned = encoder.run(padded)
    except InputError:
        raise
    except Exception as error:
        wants = f" It needs {encoder.wants}." if encoder.wants else ""
        said = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
        raise InputError(
            f"{encoder.label} cannot encode points of shape {shapes_of(x)}, which is what the data give ({said}).{wants} "
            + ("Change the data, or --resize, --gray, --flatten." if isinstance(x, torch.Tensor) else OF_SEVERAL)
        ) from error
    found = taken_apart(returned, rows_of(padded))
    tensors = {name: (tensor[:m] if found.has_rows(name) else tensor).cpu() for name, tensor in found.tensors.items()}
    return dataclasses.replace(found, rows=m, tensors=tensors)


def _probe(encoder: Encoder, inputs: Points, request: Request) -> tuple[Returned, Reading, int | None]:
    """Find out what the outputs are, and how many channels, and refuse an encoder that is in training mode."""
    size = min(PROBED, len(inputs), encoder.batch_size or PROBED)
    x = inputs.batch(0, size)
    first = _call(encoder, x)
    if size > 2 and encoder.batch_size is None and may_be_confused(first):
        size -= 1  # so that as many values as points are as many latents, and not one for each point
        x = each(x, lambda t: t[:size])
        first = _call(encoder, x)
    second = _call(encoder, x)
    random = {name for name in first.tensors if not close(first, second, name)}
    random |= {name for name in first.laws if not close(first, second, name)}
    reading = read(first, random, request.outputs, encoder.label, first_of(x))
    half = max(1, size // 2)
    alone = _call(encoder, each(x, lambda t: torch.cat([t[:half], t[:1].expand(size - half, *t.shape[1:])])))
    used = [(role, name) for role, (name, _) in reading.roles.items()] + [("density", name) for name in _law_of(reading)]
    for role, name in used:
        if role == "samples":
            continue
        if name in random:
            raise InputError(
                f"{encoder.label}: its {role} differs between two passes over the same points, so dropout (or other noise) is "
                "on: call eval() before you save it. If this output is a sample, say --outputs samples."
            )
        if not close(first, alone, name, half):
            raise InputError(
                f"{encoder.label}: the {role} of a point changes with the points beside it, so batch normalisation is in "
                "training mode: call eval() before you save it"
                + ("." if isinstance(x, torch.Tensor) else f", or an input has another shape than it takes ({shapes_of(x)}).")
            )
    if reading.law is not None and flat(first.laws[reading.law], first.rows) is None:
        why = "whose density klprobe cannot keep for all points: read as one draw a point"
        reading = dataclasses.replace(reading, drawn=True, note=f"{reading.note}, {why}")
    return first, reading, reading.channels(first.tensors)


def _law_of(reading: Reading) -> list[str]:
    return [] if reading.law is None else [reading.law]


def _all_points(
    encoder: Encoder, inputs: Points, first: Returned, reading: Reading, request: Request
) -> tuple[Tensors, list[Distribution], str]:
    """The tensors of all points by role, or their Distributions block by block; and why the prior among them cannot be used."""
    parts: dict[str, list[torch.Tensor]] = {}
    laws: list[Distribution] = []
    size, held, no_prior = encoder.batch_size or POINTS_AT_ONCE, 0, reading.no_prior
    for start in range(0, len(inputs), size):
        returned = _call(encoder, inputs.batch(start, start + size))
        no_prior = no_prior or why_moved(first, returned, reading)
        taken = _taken(returned, reading, encoder.label, laws)
        if start == 0 and {"mean", "samples"} <= set(taken):
            check_scatter(taken, encoder.label)
        for role, tensor in taken.items():
            parts.setdefault(role, []).append(tensor.float() if tensor.dtype != torch.float64 else tensor)
            held += parts[role][-1].nbytes
        if encoder.most_bytes is not None and held > encoder.most_bytes:
            raise InputError(
                f"{encoder.label}: its answers to {min(start + size, len(inputs)):,} of {len(inputs):,} points take "
                f"{held / GB:.3g} GB, and {encoder.most_bytes / GB:.3g} GB is the limit: if it is yours, allow more by "
                "--file-memory, or give fewer points."
            )
        request.progress(min(start + size, len(inputs)), len(inputs))
    return {role: torch.cat(blocks) for role, blocks in parts.items()}, laws, no_prior


def _taken(returned: Returned, reading: Reading, label: str, laws: list[Distribution]) -> Tensors:
    """The tensors of a block by role; a Distribution that is known by its density goes to the list."""
    try:
        taken = reading.take(returned, label)
        if reading.law is None:
            return taken
        law = returned.laws[reading.law]
    except KeyError as error:
        raise InputError(
            f"{label} returns {error} for some points, and not for others: let it return the same for all."
        ) from None
    if reading.drawn:
        return {**taken, "samples": law.sample().reshape(returned.rows, -1).cpu()}
    flattened = flat(law, returned.rows)
    if flattened is None:
        raise InputError(f"{label}: the {type(law).__name__} of some points has another shape than that of the first.")
    laws.append(flattened)
    return taken


def _latents(label: str, tensors: Tensors, laws: Sequence[Distribution]) -> Latents:
    """Samples give way to mean and spread, and means alone to samples; log standard deviations are doubled."""
    if laws:
        return with_classes(label, joined(laws), tensors)
    if "samples" in tensors and len(tensors) > 1:
        has_spread = any(role in (*SPREAD_ROLES, *MATRICES) for role in tensors)
        tensors = {role: t for role, t in tensors.items() if role != ("samples" if has_spread else "mean")}
    return latents_of(label, {plain_role(role): plain(role, t) for role, t in tensors.items()})


def _place(name: str, half: int | None) -> str:
    return name if half is None else f"{name}, {('first', 'second')[half]} half"
