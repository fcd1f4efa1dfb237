"""`klprobe compare A B C`: brackets of KL[q(z)||p(z)], average KL, mutual information and metrics, side by side."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from klprobe import cli
from klprobe.cli.estimate import method_names
from klprobe.cli.evaluate import WIDTH, Judging, about, chosen, columns, gather, measure, parse_judging
from klprobe.cli.machine import check_writable, choose_device
from klprobe.cli.output import answer, answer_json, give, say
from klprobe.cli.progress import bar, bars
from klprobe.datasets import is_ours
from klprobe.distributions.posteriors import has_density
from klprobe.estimation.report import Report, as_json
from klprobe.estimation.run import estimate
from klprobe.files.tensor_file import KIND, kind_of
from klprobe.formats import Request, load
from klprobe.rendering import comparison
from klprobe.rendering.comparison import Compared
from klprobe.types import InputError, NotDone

QUICK, QUICK_FROM_SAMPLES = ("closed-form", "monte-carlo"), ("classifier", "gmm")
"""Estimators of the KL that take seconds, for encoders with a density and for those without."""

HELP = """Compare checkpoints: bracket of KL[q(z)||p(z)], average KL, mutual information, and the metrics that are asked for.

klprobe compare runs/vae/checkpoint.safetensors runs/aae/checkpoint.safetensors --metrics fid ms-ssim --out comparison

The KL needs checkpoints in any format that klprobe estimate reads; metrics need checkpoints of klprobe train.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparing(Judging):
    """Checkpoints and data to compare, and where to write the answer."""

    metrics: tuple[str, ...] = ()
    """Metrics to measure, by the names that `klprobe list` shows, or all; by default none."""
    methods: tuple[str, ...] = ("quick",)
    """Methods that estimate the KL. quick runs closed-form and monte-carlo, or classifier and gmm for an encoder that only
    gives samples; auto and all do what they do in klprobe estimate."""
    out: Path | None = None
    """Folder to write comparison.html, .json and .csv to; by default nothing is written."""
    json: bool = False
    """Print the comparison on stdout as a JSON document, klprobe.comparison/1, and nothing else."""


def run(arguments: list[str]) -> int:
    """Compare; print the table, and write it under --out."""
    paths, judging, configured = parse_judging(arguments, "compare", HELP, Comparing, several=True)
    if not paths:
        raise InputError("klprobe compare needs the paths of checkpoints, and got none. See klprobe compare --help.")
    for path in paths:
        if not path.exists():
            raise InputError(f"There is no checkpoint {path}.")
    method_names(judging.methods, "quick")
    if judging.out is not None:
        check_writable(judging.out)
    device = choose_device(judging.device)
    metrics = chosen(judging, configured) if judging.metrics else {}
    compared = [
        _one(label, path, judging, metrics, device) for label, path in zip(comparison.labels(paths), paths, strict=True)
    ]
    if all(c.report is None and not (c.evaluation and c.evaluation.rows) for c in compared):
        reasons = " ".join(f"{what}: {reason.rstrip('.')}." for what, reason in comparison.missing(compared))
        raise InputError(f"No checkpoint could be compared. {reasons}")
    content = comparison.document(compared, about(paths, judging, device, ["klprobe", "compare", *arguments]))
    give(
        lambda: answer_json(as_json(content)) if judging.json else answer(*screen(compared)),
        lambda folder: comparison.save(compared, content, folder),
        judging.out,
        "comparison",
    )
    reports = [c.report for c in compared if c.report is not None]
    failed = any(check.severity == "error" and not check.passed for report in reports for check in report.checks)
    return cli.CHECK_FAILED if failed else cli.ANSWERED


def _one(label: str, path: Path, judging: Comparing, metrics: dict[str, Any], device: str) -> Compared:
    """Measure one checkpoint; a part that is not possible has its reason, and the others go on."""
    ours = path.is_file() and kind_of(path) == KIND
    not_done, report, evaluation, data = [], None, None, "its own points"
    try:
        report = _kl(label, path, judging, ours, device)
        split = report.provenance["split"]
        data = f"{split} data of " * (split != "unknown") + str(report.provenance.get("data", path.name))
    except InputError as error:
        not_done.append(NotDone("KL", str(error)))
    try:
        if metrics and not ours:
            raise InputError("the metrics need a checkpoint of klprobe train with a generator")
        if metrics:
            evidence = gather(path, judging, device)
            evaluation = measure(metrics, evidence)
            data = f"{judging.split} data of {evidence.held_out.name}"
    except InputError as error:
        not_done.append(NotDone("metrics", str(error)))
    return Compared(label, path, data, report, evaluation, tuple(not_done))


def _kl(label: str, path: Path, judging: Comparing, ours: bool, device: str) -> Report:
    with bar(f"reading {label}") as progress:
        has_splits = ours if judging.data is None else is_ours(judging.data)
        split = judging.split if has_splits else "all"
        encoded = load(path, Request(judging.data, split, judging.data_root, device, progress))
    for note in encoded.notes:
        say(f"{label}: {note}")
    methods = [name for words in judging.methods for name in words.split(",") if name]
    if methods == ["quick"]:
        exact = all(has_density(law) for law in (encoded.posterior, encoded.prior) if law is not None)
        methods = list(QUICK if exact else QUICK_FROM_SAMPLES)
    with bars(label, len(methods) + 1) as progress_of:
        return estimate(
            encoded.posterior,
            encoded.prior,
            methods=methods,
            seed=judging.seed,
            split=encoded.split,
            trained_on=encoded.trained_on,
            provenance={"input": str(path), **encoded.provenance, "device": device},
            checks=encoded.checks,
            progress=progress_of,
        )


def screen(compared: Sequence[Compared]) -> list[str]:
    """Make the lines of one screen."""
    lines = [comparison.TITLE, f"Given: {comparison.given(compared)}.", ""]
    lines += columns([comparison.columns(compared), *comparison.table(compared)])
    lines += ["", *textwrap.wrap(comparison.MEANING, WIDTH), *(f"Note: {note}." for note in comparison.notes(compared))]
    missing = comparison.missing(compared)
    if missing:
        lines += ["", "Not there, and why", *(f"  {what}: {reason}" for what, reason in missing)]
    return lines
