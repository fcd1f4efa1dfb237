"""Run the metrics on a trained system, and on real data in its place; the names of their arguments say what they get."""

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
    """Scores of a metric for the model, and for real data (or for the prior, for codes) in the model's place."""

    metric: str
    score: Score
    real: Score | None = None
    noisy: Score | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of the metrics.

    Attributes:
        rows: One row for each quantity, in the order of the metrics.
        not_done: Metrics that could not be measured, with the reasons.
        notes: Sentences that say what was changed or assumed about the images.
        settings: Settings of every metric.
        seconds: Time of each metric, in seconds.
    """

    rows: tuple[Row, ...]
    not_done: tuple[NotDone, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]


def evaluate(
    metrics: Mapping[str, Any], evidence: Evidence, begin: Callable[[str], Progress] = lambda _: no_progress
) -> Evaluation:
    """Run every metric on the model, and on real data where that has a meaning; failures are named with their reasons.

    Ctrl-C ends it with the results so far.

    Args:
        metrics: Configured metrics by name.
        evidence: Evidence that they use.
        begin: Function from a metric's name to the function that receives its progress.
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
        except Exception as error:  # an error in one metric must not lose the results of the others
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
    """Set one torch thread for vectors, whose networks' products are too small to share; images have convolutions."""
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
    """Choose metrics by name, with their default settings; "all" is every one.

    Raises:
        InputError: no name is given, or an unknown one.
    """
    if not names:
        raise InputError(f"No metric was named; known: all, {', '.join(registry.names('metrics'))}.")
    wanted = [n for name in names for n in (registry.names("metrics") if name == "all" else [name.replace("_", "-")])]
    return {name: registry.load("metrics", name)() for name in dict.fromkeys(wanted)}
