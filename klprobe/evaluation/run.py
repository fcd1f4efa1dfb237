"""Run the metrics on a trained system: each is given what its arguments name, and the same of real data."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from klprobe import registry
from klprobe.evaluation.evidence import Evidence, Role
from klprobe.metrics import Score
from klprobe.types import INTERRUPTED, InputError, NotDone, Progress, no_progress


@dataclasses.dataclass(frozen=True)
class Row:
    """What a metric says of the model, and of real data (or of the prior, for codes) in the model's place."""

    metric: str
    score: Score
    real: Score | None = None
    noisy: Score | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that the metrics found.

    Attributes:
        rows: One a quantity, in the order asked for.
        not_done: Metrics that could not be, and why.
        notes: What was changed or assumed about the images, in sentences.
        settings: Of every metric.
        seconds: By metric.
    """

    rows: tuple[Row, ...]
    not_done: tuple[NotDone, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]


def evaluate(
    metrics: Mapping[str, Any], evidence: Evidence, begin: Callable[[str], Progress] = lambda _: no_progress
) -> Evaluation:
    """Every metric on the model, and on real data where that has a meaning; what cannot be is named with its reason.

    Ctrl-C ends it with what there is.

    Args:
        metrics: Configured metrics by name.
        evidence: What they look at.
        begin: Called with a metric's name, gives the receiver of its progress.
    """
    rows: list[Row] = []
    not_done, seconds = [], {}
    for name, metric in metrics.items():
        evidence.progress, started = begin(name), time.perf_counter()
        try:
            with _threads_for(evidence):
                rows += _rows(name, metric, evidence)
        except KeyboardInterrupt:
            rest = list(metrics)[list(metrics).index(name) :]
            not_done += [NotDone(other, INTERRUPTED) for other in rest]
            break
        except InputError as error:
            not_done.append(NotDone(name, str(error)))
        except Exception as error:  # one metric's fault must not cost the others' results
            not_done.append(NotDone(name, f"{type(error).__name__}: {error}"))
        seconds[name] = time.perf_counter() - started
    settings = {name: dataclasses.asdict(metric) for name, metric in metrics.items()}
    return Evaluation(tuple(rows), tuple(not_done), tuple(evidence.notes), settings, seconds)


def _rows(name: str, metric: Any, evidence: Evidence) -> list[Row]:
    wanted = list(inspect.signature(metric.measure).parameters)
    compares = any(argument.startswith("data") for argument in wanted)
    found: dict[Role, tuple[Score, ...]] = {}
    for role in _roles(wanted):
        if role == "real" and compares and not evidence.compares_real:
            evidence.notes["no data are set apart, so that none stand in the samples' place beside metrics that compare"] = None
            continue
        arguments = {argument: evidence.give(argument, role, name, compares) for argument in wanted}
        found[role] = metric.measure(**arguments)
    rows = []
    evidence.notes |= dict.fromkeys(score.note for score in found["model"] if score.note)
    for i, score in enumerate(found["model"]):
        real, noisy = (found[role][i] if role in found else None for role in ("real", "noisy"))
        rows.append(Row(name, score, real, noisy))
    return rows


@contextlib.contextmanager
def _threads_for(evidence: Evidence) -> Iterator[None]:
    """One torch thread for vectors, whose networks' products are too small to share; images have convolutions."""
    before = torch.get_num_threads()
    if len(evidence.held_out.shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _roles(wanted: Sequence[str]) -> tuple[Role, ...]:
    """Sources that can replace the model: real data for samples, the prior for codes, and noise for images alone."""
    if not {"samples", "sample_features", "codes"} & set(wanted):
        return ("model",)
    if "samples" in wanted and not {"data", "centres"} & set(wanted):
        return ("model", "real", "noisy")
    return ("model", "real")


def choose(names: Sequence[str]) -> dict[str, Any]:
    """Metrics by name, with their default settings; "all" stands for every one.

    Raises:
        InputError: no name, or an unknown one.
    """
    if not names:
        raise InputError(f"No metric was named; known: all, {', '.join(registry.names('metrics'))}.")
    wanted = [n for name in names for n in (registry.names("metrics") if name == "all" else [name.replace("_", "-")])]
    return {name: registry.load("metrics", name)() for name in dict.fromkeys(wanted)}
