"""`klprobe estimate`: from a checkpoint to a bracketed answer on stdout and, with --out, on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from torch.distributions import Distribution

from klprobe import cli, registry
from klprobe.cli.estimate_flags import Common, Source, parse_groups
from klprobe.cli.machine import choose_device
from klprobe.cli.output import answer_json, emit, give, say
from klprobe.cli.progress import bars
from klprobe.cli.source import read_source
from klprobe.distributions.posteriors import as_posterior
from klprobe.estimation.auto import left_out
from klprobe.estimation.conditional import is_conditional
from klprobe.estimation.report import Report
from klprobe.estimation.run import capabilities, choose_methods, estimate
from klprobe.formats import Encoded
from klprobe.rendering.files import save
from klprobe.rendering.terminal import print_report
from klprobe.runtime import parallel
from klprobe.runtime.folder_lock import sole_writer
from klprobe.types import INTERRUPTED, Estimator, InputError, Posterior

PARTIAL = "monte-carlo.partial.npz"
"""File under --out where a run keeps its draws until it is done."""


def run(arguments: list[str]) -> int:
    """Estimate the KL of the checkpoint that the flags name."""
    source, common, methods = parse_groups(arguments, "klprobe estimate", ESTIMATE_HELP, Source)
    return answer(source, common, methods, ["estimate", *arguments])


ESTIMATE_HELP = """Estimate KL[q(z)||p(z)] of a trained encoder, in nats, with error bars and a bracket.

klprobe estimate --checkpoint posterior.npz --methods monte-carlo maf --out report
"""


def answer(source: Source, common: Common, configured: dict[str, Estimator], command: list[str], title: str = "") -> int:
    """Load, estimate, write and print; return the exit code. The report calls the input `title`, or as it was typed."""
    names = method_names(common.methods)
    device = choose_device(common.device)
    parallel.start(device)
    first = parallel.rank_and_size()[0] == 0  # of those that torchrun started; the others share its work, and it answers
    with sole_writer(common.out) if common.out is not None and first else contextlib.nullcontext():
        encoded, prior = read_source(source, common.prior, device)
        methods = _methods(common, names, configured, encoded, prior, device)
        if not first:
            return _help_along(encoded, prior, methods, common.seed)
        return _answer(source, common, encoded, prior, methods, [device, *command], title)


def _answer(
    source: Source,
    common: Common,
    encoded: Encoded,
    prior: Distribution,
    methods: list[Estimator],
    how: list[str],
    title: str,
) -> int:
    """Estimate, write, print; `how` is the device and the command. A stopped run's draws are kept until they are reported."""
    device, *command = how
    _say_costs(methods, encoded.posterior)
    with bars("all methods", len(methods) + 1) as progress_of:
        report = estimate(
            encoded.posterior,
            prior,
            methods=methods,
            seed=common.seed,
            split=encoded.split,
            trained_on=encoded.trained_on,
            provenance={
                "input": title or str(source.checkpoint),
                **encoded.provenance,
                "command": ["klprobe", *command],
                "device": device,
            },
            parts=encoded.parts,
            checks=encoded.checks,
            progress=progress_of,
        )
    parallel.stop()
    stopped = any(INTERRUPTED in failure.reason for failure in report.not_done)
    lost = next((failure.reason for failure in report.not_done if failure.reason.startswith(f"{INTERRUPTED}: ")), "")
    if stopped and common.out is not None:
        say(f"{lost or 'stopped.'} The same command with --resume continues from the draws in {common.out}.")
    elif lost:
        say(f"{lost} Without --out nothing was kept.")
    code, out = exit_code(report), common.out
    give(
        lambda: answer_json(report.to_json()) if common.json else emit(lambda: print_report(report, sys.stdout)),
        lambda folder: save(report, folder),
        out,
        "report",
    )
    if out is not None and not stopped:
        (out / PARTIAL).unlink(missing_ok=True)  # last of all: until now the report could have been lost
    return cli.INTERRUPTED if lost else code


def _say_costs(methods: list[Estimator], posterior: Distribution) -> None:
    """Before a long wait begins, say how long it will be."""
    for estimator in methods:
        if cost := estimator.cost(as_posterior(posterior)):
            say(f"{registry.name_of(estimator)}: {cost}")


def _help_along(encoded: Encoded, prior: Distribution, methods: list[Estimator], seed: int) -> int:
    """Run the methods that share their work over processes, and print nothing."""
    shared = [m for m in methods if m.in_parallel]
    estimate(encoded.posterior, prior, methods=shared, seed=seed, parts=encoded.parts)
    parallel.stop()
    return cli.ANSWERED


def exit_code(report: Report) -> int:
    """Choose the exit code: 0 for an answer, 3 for a failed check of severity error, 130 for Ctrl-C before any answer.

    Raises:
        InputError: no method gave an answer; the message says why.
    """
    if any(check.severity == "error" and not check.passed for check in report.checks):
        return cli.CHECK_FAILED
    if report.estimates:
        return cli.ANSWERED
    if any("interrupted" in failure.reason for failure in report.not_done):
        return cli.INTERRUPTED
    raise InputError(
        "No method gave an answer. " + " ".join(f"{failure.method}: {failure.reason}" for failure in report.not_done)
    )


def method_names(words: Sequence[str], *more: str) -> list[str]:
    """The names of methods among the words of `--methods`, known ones all, before anything is read.

    Args:
        words: As they were typed: one or several names each.
        more: Names that stand for several methods, beside `auto` and `all`.
    Raises:
        InputError: no name, or an unknown one; the message has the nearest.
    """
    names = [name for word in words for name in word.split(",") if name]
    if not names:
        raise InputError("--methods needs at least one name, or auto, or all, and got none. klprobe list shows the names.")
    for name in names:
        if name not in ("auto", "all", *more):
            registry.load("estimators", name)
    return names


def _methods(
    common: Common,
    names: list[str],
    configured: dict[str, Any],
    encoded: Encoded,
    prior: Distribution,
    device: str,
) -> list[Estimator]:
    """The estimators to run, with their settings from the flags."""
    shorthands: dict[str, Any] = {"num_samples": common.num_samples, "tolerance": common.tolerance}
    given = {name: value for name, value in shorthands.items() if value is not None}
    if common.out is not None:
        given |= {"partial": common.out / PARTIAL, "resume": common.resume}
    elif common.resume:
        raise InputError(
            "--resume continues the run in the folder --out, but --out is not given: give the folder of the run that "
            "was stopped."
        )
    configured["monte-carlo"] = dataclasses.replace(configured["monte-carlo"], **given)
    for name, estimator in configured.items():
        if device != "cpu" and estimator.device == "cpu":
            configured[name] = dataclasses.replace(estimator, device=device)
    q = as_posterior(encoded.posterior)
    if is_conditional(q, prior):  # all that has a meaning
        names = [name for name in names if name not in ("auto", "all")] or ["closed-form"]
    _say_left_out(names, q, prior)
    return [configured[name] for name, _ in choose_methods(names, q, prior)]


def _say_left_out(names: list[str], q: Posterior, prior: Distribution) -> None:
    """Say which methods `auto` leaves out for this number of latents, and how to run them."""
    spared = [name for name in left_out(q.dim, q.num_points, capabilities(q, prior)) if name not in names]
    if "auto" in names and "all" not in names and spared:
        say(
            f"auto leaves out {', '.join(spared)}: with {q.dim:,} latents each can take hours on a CPU. "
            f"To run one all the same: --methods auto {spared[0]}"
        )
