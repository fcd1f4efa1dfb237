"""`klprobe estimate`: from a checkpoint to a bracketed answer on stdout and, with --out, on disk."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro
from torch.distributions import Distribution

from klprobe import cli, parallel, registry
from klprobe.cli.flags import parse
from klprobe.cli.machine import DeviceName, check_writable, choose_device, emit
from klprobe.cli.prior import parse_prior
from klprobe.cli.progress import bar, bars
from klprobe.distributions import as_posterior
from klprobe.encoders._shared import Encoded, Request
from klprobe.estimation import choose_methods, estimate
from klprobe.loading import load
from klprobe.report import Report
from klprobe.report.files import save
from klprobe.report.terminal import print_report
from klprobe.types import Estimator, InputError, Progress

PARTIAL = "monte-carlo.partial.npz"
"""Where a run keeps its draws under --out until it is done."""
Bare = tyro.conf.arg(name="")
"""A group of flags without a prefix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where the posteriors come from."""

    checkpoint: Path
    """An encoder, or arrays of mean and logvar, var or std, in any format of `klprobe list`."""
    encoder: str | None = None
    """package.module:factory of the network whose weights the checkpoint holds; imports and runs that code."""
    outputs: str | None = None
    """What the encoder returns, as mean,logvar or mean,_,std (_ is ignored); by default looked at and said."""
    data: str | None = None
    """Data to encode: a data set, .npy, .npz, a folder of images, package.module:dataset; else what it was trained on."""
    resize: str | None = None
    """Size that images are resized to, bilinear, as 32 or 32x24 (height, width)."""
    range: Literal["0,1", "-1,1"] | None = None
    """Range of the encoder's input; bytes are [0, 1] otherwise. Write --range=-1,1."""
    gray: bool = False
    """Turn colours into one grey channel."""
    flatten: bool = False
    """Turn every point into a vector."""
    split: Literal["train", "test", "all"] = "all"
    """Its points; population bounds ask for points that the encoder was not trained on, that is test."""
    data_root: Path | None = None
    """Folder of the data sets' folders; by default $KLPROBE_DATA, then ./data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What is asked about them, and where the answer goes."""

    methods: tuple[str, ...] = ("all",)
    """all: every one that the input allows; or some of those that `klprobe list` shows."""
    num_samples: int | None = None
    """Latents that monte-carlo draws; short for --monte-carlo.num-samples."""
    tolerance: float | None = None
    """Standard error in nats that monte-carlo draws down to; short for --monte-carlo.tolerance."""
    prior: str = "own"
    """own: the checkpoint's, else N(0, I); or normal:scale=2, sphere, mixture:FILE, vampprior:FILE, package.module:prior."""
    device: DeviceName = "auto"
    """Where the encoder runs, and every method that has a device."""
    seed: int = 0
    """Of all randomness."""
    out: Path | None = None
    """Folder for report.json, report.csv, report.html and figures."""
    resume: bool = False
    """Go on with the draws that a stopped run of monte-carlo left in --out."""
    json: bool = False
    """Print the document klprobe.report/1 on stdout, and nothing else there."""


def run(arguments: list[str]) -> int:
    """Estimate the KL of the checkpoint that the flags name."""
    source, common, methods = parse_groups(arguments, "klprobe estimate", ESTIMATE_HELP, Source)
    return answer(source, common, methods, ["estimate", *arguments])


ESTIMATE_HELP = """KL[q(z)||p(z)] of a trained encoder, in nats, with error bars and a bracket.

klprobe estimate --checkpoint posterior.npz --methods monte-carlo maf --out report
"""


def parse_groups(
    arguments: list[str],
    prog: str,
    text: str,
    source: type[Source] | None,
    defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[Any, Common, dict[str, Any]]:
    """Flags of the source (if any), the common ones, and one group for each estimator, named after its file.

    `defaults` maps an estimator's name to settings that differ from its own defaults.

    `--help` leaves the estimators' settings out, for a screen a newcomer can read; `--help maf gmm` shows those of the two.
    """
    shown: tuple[str, ...] = registry.names("estimators")
    asked = next((i for i, argument in enumerate(arguments) if argument in ("-h", "--help")), None)
    general: list[Any] = [("source", Annotated[source, Bare])] if source else []
    general.append(("common", Annotated[Common, Bare], dataclasses.field(default_factory=Common)))
    if asked is not None:
        shown = tuple(arguments[asked + 1 :])
        text += f"\nThe settings of a method, such as --maf.flows 3: {prog} --help maf\n"
    kinds = {name.replace("-", "_"): registry.load("estimators", name) for name in shown}
    begin = {name: functools.partial(kind, **defaults.get(name, {})) for name, kind in kinds.items()}
    groups = [
        (name, kind, dataclasses.field(default_factory=begin[name])) for name, kind in kinds.items() if dataclasses.fields(kind)
    ]
    if asked is not None and shown:
        general, text, arguments = [], f"Settings of {', '.join(shown)}.", ["--help"]
    flags: Any = parse(dataclasses.make_dataclass("Flags", general + groups, namespace={"__doc__": text}), arguments, prog=prog)
    configured = {name.replace("_", "-"): getattr(flags, name, None) or kind() for name, kind in kinds.items()}
    return getattr(flags, "source", None), flags.common, configured


def answer(source: Source, common: Common, configured: dict[str, Estimator], command: list[str], title: str = "") -> int:
    """Load, estimate, print, write; the exit code says how it went. The report calls the input `title`, or as it was typed."""
    if common.out is not None:
        check_writable(common.out)
    device = choose_device(common.device)
    with bar(f"reading {source.checkpoint.name}") as progress:
        request = _request(source, device, progress)
        encoded = load(source.checkpoint, request)
    for note in encoded.notes:
        print(f"klprobe: {note}", file=sys.stderr)

    def encode(path: str) -> Distribution:
        plain = dataclasses.replace(request, data=path, split="all", resize=None, value_range=None, gray=False, flatten=False)
        return load(source.checkpoint, plain).posterior

    prior = parse_prior(common.prior, encoded.posterior.event_shape[0], encoded.prior, encode)
    methods = _methods(common, configured, encoded, prior, device)
    parallel.start(device)
    if parallel.rank_and_size()[0] > 0:  # started by torchrun to share the work of the first process, which answers
        return _help_along(encoded, prior, methods, common.seed)
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
            progress=progress_of,
        )
    parallel.stop()
    code = exit_code(report)
    emit(lambda: print(report.to_json()) if common.json else print_report(report, sys.stdout))
    if common.out is not None:
        save(report, common.out)
        print(f"klprobe: report written to {common.out}", file=sys.stderr)
    return code


def _help_along(encoded: Encoded, prior: Distribution, methods: list[Estimator], seed: int) -> int:
    """Run the methods that share their work over processes, and say nothing."""
    estimate(encoded.posterior, prior, methods=[m for m in methods if getattr(m, "in_parallel", False)], seed=seed)
    parallel.stop()
    return cli.ANSWERED


def _request(source: Source, device: str, progress: Progress) -> Request:
    """What the flags ask of the encoder and its data."""
    size = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", source.resize or "1")
    if size is None:
        raise InputError(f"--resize {source.resize!r} is no size: give 32, or 32x24 for height and width.")
    low, high = map(float, (source.range or "0,1").split(","))
    return Request(
        source.data,
        source.split,
        source.data_root,
        device,
        progress,
        encoder=source.encoder,
        outputs=source.outputs,
        resize=(int(size[1]), int(size[2] or size[1])) if source.resize else None,
        value_range=(low, high) if source.range else None,
        gray=source.gray,
        flatten=source.flatten,
    )


def exit_code(report: Report) -> int:
    """0 an answer, 3 a check of severity error failed, 130 interrupted before any answer.

    Raises:
        InputError: no method gave an answer, and why.
    """
    if any(check.severity == "error" and not check.passed for check in report.checks):
        return cli.CHECK_FAILED
    if report.estimates:
        return cli.ANSWERED
    if any("interrupted" in failure.reason for failure in report.not_done):
        return cli.INTERRUPTED
    raise InputError(
        "no method gave an answer. " + " ".join(f"{failure.method}: {failure.reason}" for failure in report.not_done)
    )


def _methods(common: Common, configured: dict[str, Any], encoded: Encoded, prior: Distribution, device: str) -> list[Estimator]:
    """The estimators to run, with their settings from the flags."""
    shorthands: dict[str, Any] = {"num_samples": common.num_samples, "tolerance": common.tolerance}
    given = {name: value for name, value in shorthands.items() if value is not None}
    if common.out is not None:
        given |= {"partial": common.out / PARTIAL, "resume": common.resume}
    elif common.resume:
        raise InputError("--resume needs the --out of the run that was stopped.")
    configured["monte-carlo"] = dataclasses.replace(configured["monte-carlo"], **given)
    for name, estimator in configured.items():
        if device != "cpu" and getattr(estimator, "device", None) == "cpu":
            configured[name] = dataclasses.replace(estimator, device=device)
    names = [name for words in common.methods for name in words.split(",") if name]
    if not names:
        raise InputError("--methods needs at least one name, or all; klprobe list shows them.")
    return [configured[name] for name, _ in choose_methods(names, as_posterior(encoded.posterior), prior)]
