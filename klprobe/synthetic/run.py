"""DMVI's synthetic Gaussians: does a classifier find KL[q||p], and can it drive q towards p?

A classifier learns to tell q from p while both stand still (`estimate`), or while q learns to come closer to p by what the
classifier says (`minimize`). p is the first Gaussian, fixed, and q the second: KL[q||p] = KL[learned||fixed]. The classifier
sees the draws as they are, as in the paper.

Reference: Rosca, Lakshminarayanan, Mohamed (2018), Distribution Matching in Variational Inference, section 5, appendix E.
"""

from __future__ import annotations

import dataclasses
import math
import time
from datetime import UTC, datetime
from typing import Any

import torch
from torch.distributions import kl_divergence

from klprobe.distributions.problems import affine_gaussian, affine_weights
from klprobe.estimators._ratio import logistic
from klprobe.estimators._ratio_report import RatioOnQ, log_normaliser, ratio_estimates
from klprobe.runtime.provenance import commit, versions
from klprobe.runtime.records import Record
from klprobe.synthetic.kept import Keep, Keeper, Learner
from klprobe.synthetic.players import Classifier, Learned, Sampler, Stop, Weights
from klprobe.synthetic.settings import PRESETS, Experiment, Preset, Settings
from klprobe.types import InputError, Progress, no_progress

DIGITS = 6
"""Significant digits of the curves in a record."""


class Diverged(InputError):
    """The classifier of an estimation diverged. `record` holds the run up to there."""

    def __init__(self, record: Record) -> None:
        at, settings, where = record["diverged"], record["settings"], f"d = {record['dim']}, seed {record['seed']}"
        super().__init__(
            f"The classifier diverged at step {at['step']} of {settings['steps']} ({where}): {at['reason']}. "
            f"Give a --classifier-lr below {settings['classifier_lr']:g}."
        )
        self.record = record


def estimate(
    settings: Settings,
    dim: int,
    seed: int,
    *,
    preset: Preset = "quick",
    device: str = "cpu",
    progress: Progress = no_progress,
    keep: Keep | None = None,
) -> Record:
    """Estimate KL[q||p] of two fixed Gaussians by a classifier, while and after it learns.

    Args:
        settings: Settings of the run, of which those of the generator are not used.
        dim: Dimension d.
        seed: Seed of the classifier's weights and of all draws; the Gaussians have `settings.pair_seed`.
        preset: Name of the preset of the settings, for the record.
        keep: Where the run is kept while it goes on; a run that is there is continued.

    Raises:
        InputError: d < 1, k < d, or a singular W^T W; what is kept is of another run.
        Diverged: the loss is not finite; says at which step.
        Paused: `keep` said stop; the same call goes on.
    """
    begun = time.process_time()
    p, q = (affine_gaussian(*weights) for weights in _both(settings, dim))
    rng = torch.Generator(device).manual_seed(seed)
    draw_p, draw_q = Sampler(p, rng), Sampler(q, rng)
    classifier = Classifier(dim, settings, seed, device)
    curve: dict[str, list[float]] = {"step": [], "estimate": []}
    truth = float(kl_divergence(q, p))
    keeper = Keeper(keep, _run("estimate", settings, dim, seed, device), {"classifier": classifier}, rng, curve, begun)

    def record(**found: Any) -> Record:
        return _record("estimate", settings, dim, seed, preset, device, keeper.end(), truth=truth, curve=curve, **found)

    log_steps = settings.log_steps()
    try:
        for step in range(keeper.step, settings.steps + 1):
            if step in log_steps:
                _log(curve, step, estimate=classifier.mean_log_ratio(draw_q, settings.log_draws))
                progress(step, settings.steps, f"{curve['estimate'][-1]:.3g} of {truth:.3g} nats")
            if step < settings.steps:
                classifier.learn(draw_q(settings.batch_size), draw_p(settings.batch_size), step)
                keeper.after(step, settings.steps)
    except Stop as stop:
        raise Diverged(record(estimates={}, diverged=stop.at)) from stop
    on_q = classifier.log_ratio(draw_q(settings.report_draws))
    tuning, on_p = (classifier.log_ratio(draw_p(settings.report_draws)) for _ in range(2))
    at_q = RatioOnQ("population", on_q, torch.arange(len(on_q)), len(on_q))
    found = ratio_estimates("classifier", at_q, on_p, log_normaliser(tuning))
    values = {e.quantity: {"value": _finite(e.value), "std_error": _finite(e.std_error), "bound": e.bound} for e in found}
    return record(estimates=values, held_out_loss=_finite(float(logistic(on_q, on_p))), diverged=None)


def minimize(
    settings: Settings,
    dim: int,
    seed: int,
    *,
    preset: Preset = "quick",
    device: str = "cpu",
    progress: Progress = no_progress,
    keep: Keep | None = None,
) -> Record:
    """The second Gaussian learns from the classifier, which learns beside it; both begin where those of `estimate` do.

    Arguments are those of `estimate`. A run that diverges is a result too: `diverged` says when and how.

    Raises:
        InputError: d < 1, k < d, or a singular W^T W at the start.
    """
    begun = time.process_time()
    of_p, of_q = _both(settings, dim)
    p = affine_gaussian(*of_p)
    truth = float(kl_divergence(affine_gaussian(*of_q), p))
    rng = torch.Generator(device).manual_seed(seed)
    draw_p, q = Sampler(p, rng), Learned(of_q, settings, rng)
    classifier = Classifier(dim, settings, seed, device)
    curve: dict[str, list[float]] = {"step": [], "true_kl": [], "estimate": []}
    diverged = None
    players: dict[str, Learner] = {"classifier": classifier, "learned": q}
    keeper = Keeper(keep, _run("minimize", settings, dim, seed, device), players, rng, curve, begun)
    log_steps = settings.log_steps()
    try:
        for step in range(keeper.step, settings.steps + 1):
            if step in log_steps:
                true_kl = q.kl_to(p, step)
                _log(curve, step, true_kl=true_kl, estimate=classifier.mean_log_ratio(q.fixed, settings.log_draws))
                progress(step, settings.steps, f"true KL {true_kl:.3g} nats")
            if step < settings.steps:
                for _ in range(settings.classifier_steps_per_generator_step):
                    classifier.learn(q.fixed(settings.batch_size), draw_p(settings.batch_size), step)
                q.learn(classifier, settings.batch_size, step)
                keeper.after(step, settings.steps)
    except Stop as stop:
        diverged = stop.at
    spent = keeper.end()
    return _record("minimize", settings, dim, seed, preset, device, spent, truth=truth, curve=curve, diverged=diverged)


def run_one(
    experiment: Experiment,
    dim: int,
    seed: int,
    settings: Settings,
    *,
    preset: Preset = "quick",
    device: str = "cpu",
    progress: Progress = no_progress,
    keep: Keep | None = None,
) -> Record:
    """Run `estimate` or `minimize`, with their arguments; a run that diverged is a record like any other."""
    play = {"estimate": estimate, "minimize": minimize}[experiment]
    try:
        return play(settings, dim, seed, preset=preset, device=device, progress=progress, keep=keep)
    except Diverged as stop:
        return stop.record


def _both(settings: Settings, dim: int) -> tuple[Weights, Weights]:
    """Draw W and b of the first (fixed) and of the second Gaussian."""
    generator = torch.Generator().manual_seed(settings.pair_seed)
    (w, b), (v, c) = (affine_weights(dim, generator=generator, features=settings.features) for _ in range(2))
    return (settings.scale * w, settings.scale * b), (settings.scale * v, settings.scale * c)


def _run(experiment: Experiment, settings: Settings, dim: int, seed: int, device: str) -> dict[str, Any]:
    """What tells a run apart from others."""
    return {"experiment": experiment, "dim": dim, "seed": seed, "device": device, "settings": settings.of(experiment)}


def _log(curve: dict[str, list[float]], step: int, **values: float) -> None:
    """Add a point to the curve; a value that is not finite ends the run."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise Stop(step, f"{name.replace('_', ' ')} is {value}")
    curve["step"].append(step)
    for name, value in values.items():
        curve[name].append(float(f"{value:.{DIGITS}g}"))


def _finite(value: float) -> float | None:
    """Replace a value that strict JSON cannot hold by None."""
    return value if math.isfinite(value) else None


def _record(
    experiment: Experiment, settings: Settings, dim: int, seed: int, preset: Preset, device: str, spent: float, **found: Any
) -> Record:
    used, plain = settings.of(experiment), dataclasses.replace(Settings(), **PRESETS[preset]).of(experiment)
    return {
        "experiment": experiment,
        "dim": dim,
        "seed": seed,
        "preset": preset,
        "changed": [name for name in used if used[name] != plain[name]],
        "settings": used,
        **found,
        "cpu_seconds": round(spent, 1),
        "device": device,
        "versions": {name: versions()[name] for name in ("klprobe", "torch")},
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
