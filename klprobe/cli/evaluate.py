"""`klprobe evaluate`: sample quality of a trained system by the metrics asked for, compared with real data."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro

from klprobe import cli, registry
from klprobe.cli.estimate_flags import Bare
from klprobe.cli.flags import parse
from klprobe.cli.machine import DeviceName, check_writable, choose_device
from klprobe.cli.output import answer, answer_json, give, say
from klprobe.cli.progress import bar, bars
from klprobe.cli.source import choose_dataset, read_dataset
from klprobe.datasets import dataset, has_validation, is_ours
from klprobe.distributions.inspection import radius_histogram
from klprobe.estimation.report import as_json
from klprobe.evaluation.evidence import Evidence, generator_of
from klprobe.evaluation.feature_net import FeatureNet, raw_values, read_net
from klprobe.evaluation.judge import own_net
from klprobe.evaluation.run import INTERRUPTED, Evaluation, choose, evaluate
from klprobe.evaluation.samples import SamplesAlone
from klprobe.files.child import Limits
from klprobe.printable import visible
from klprobe.rendering import evaluation as report
from klprobe.rendering.comparison import labels
from klprobe.rendering.evaluation_figures import SHOWN, draw_evaluation, nearest
from klprobe.runtime.provenance import commit, versions
from klprobe.training.trained import load_system
from klprobe.types import InputError, RadiusHistogram

WIDTH = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """Metrics and data to use, and where to write the answer."""

    metrics: tuple[str, ...] = ("all",)
    """Metrics to measure, by the names that `klprobe list` shows. all measures every one that the system and the data allow."""
    data: str | None = None
    """Data set to compare with; by default the one that the system was trained on. Its training split is the reference, and
    trains the feature net."""
    split: Literal["validation", "test"] = "test"
    """Held-out part of the data. validation is for data sets that have such a part, as celeba or mnist:validation=5000."""
    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""
    num_samples: int = 10_000
    """Largest number of samples; there are never more of them than held-out or training data."""
    net: str = "own"
    """Feature net. own is a classifier trained on the training split, and values takes the data as they are. A file is a
    checkpoint of klprobe train classifier, or a TorchScript net that returns logits, or features and logits, such as
    Inception."""
    net_steps: int = 2000
    """Number of training steps of the net that --net own trains."""
    net_shape: str | None = None
    """Shape of the input of a TorchScript net, such as 3x299x299; images are brought to this shape. By default they keep their
    own."""
    net_range: Annotated[Literal["0,1", "-1,1", "0,255"], tyro.conf.arg(metavar="LOW,HIGH")] = "0,1"
    """Range of the input of a TorchScript net: 0,1 or -1,1 or 0,255. Write --net-range=-1,1 with the equals sign."""
    file_memory: float | None = None
    """Largest memory, in GB, for a TorchScript net, which runs in a separate process; by default half of the machine's
    memory."""
    file_seconds: float = 600.0
    """Longest time, in seconds, for opening a TorchScript net, and for each of its answers."""
    lpips_weights: Path | None = None
    """Folder with the state dicts of AlexNet and of LPIPS; the metric lpips needs it."""
    cache: Path | None = None
    """Folder where features and the net of --net own are kept for later runs; by default klprobe in $XDG_CACHE_HOME or
    ~/.cache."""
    device: DeviceName = "auto"
    """Device for the networks; auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of all random numbers; on a CPU the same seed gives the same answer."""
    out: Path | None = None
    """Folder to write evaluation.html, .json, .csv and figures to; by default nothing is written."""
    json: bool = False
    """Print the results on stdout as a JSON document, klprobe.evaluation/1, and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluating(Judging):
    """What is judged: a checkpoint, or samples alone."""

    checkpoint: Path | None = None
    """Checkpoint file that klprobe train wrote."""
    samples: str | None = None
    """Samples without the system that made them, in place of --checkpoint: a folder of images, a .npy, .npz, .csv or .parquet
    file, or package.module:samples. Then --data is needed, and all of it is compared with, or --split of a data set of
    klprobe's."""


def run(arguments: list[str]) -> int:
    """Evaluate; print the table, and write it under --out."""
    _, judging, configured = parse_judging(arguments, "evaluate", HELP, Evaluating)
    path = _judged(judging)
    if judging.out is not None:
        check_writable(judging.out)
    device = choose_device(judging.device)
    metrics = chosen(judging, configured)
    evidence = gather_samples(judging, device) if judging.checkpoint is None else gather(path, judging, device)
    found = measure(metrics, evidence)
    name, count = judging.samples or labels([path])[0], f"{evidence.num:,}"
    given = f"{name}: {count} samples against {count}{_split(evidence)} data of {_data_name(judging, evidence)}"
    if not found.rows and not any(missing.reason == INTERRUPTED for missing in found.not_done):
        raise InputError(
            "No metric gave an answer. " + " ".join(f"{m.method}: {m.reason.rstrip('.')}." for m in found.not_done)
        )
    content = report.document(found, about([path], judging, device, ["klprobe", "evaluate", *arguments]))

    def write(folder: Path) -> None:
        with bar("drawing"):
            plots = draw_evaluation(pictures(evidence), found.rows, _radius(found, evidence))
        report.save(found, given, content, plots, folder)

    give(
        lambda: answer_json(as_json(content)) if judging.json else answer(*screen(found, given)),
        write,
        judging.out,
        "evaluation",
    )
    return cli.ANSWERED if found.rows else cli.INTERRUPTED


def _split(evidence: Evidence) -> str:
    return "" if evidence.held_out.split == "all" else f" {evidence.held_out.split}"


def _data_name(judging: Evaluating, evidence: Evidence) -> str:
    return str(judging.data) if judging.samples is not None else evidence.held_out.name


def _judged(judging: Evaluating) -> Path:
    """Where that lies which is judged.

    Raises:
        InputError: neither a checkpoint nor samples, both, or samples without data.
    """
    if (judging.checkpoint is None) == (judging.samples is None):
        given = "both" if judging.checkpoint else "neither"
        raise InputError(f"klprobe evaluate needs --checkpoint, or --samples and --data, and got {given}.")
    if judging.samples is not None and judging.data is None:
        raise InputError("--samples needs --data: a folder of images, a file or a data set to compare the samples with.")
    return Path(judging.checkpoint or judging.samples or "")


HELP = """Measure the sample quality of a trained system, or of samples alone, with every metric that can be, beside real data.

klprobe evaluate --checkpoint runs/vae/checkpoint.safetensors --out evaluation

klprobe evaluate --samples generated --data photos --metrics fid prdc
"""


J = TypeVar("J", bound=Judging)


def parse_judging(
    arguments: list[str], command: str, text: str, judging: type[J], *, several: bool = False
) -> tuple[list[Path], J, dict[str, Any]]:
    """Parse checkpoints (where several are compared), common flags, and metrics with their settings (`--fid.divisions 20`).

    `--help` leaves the metrics' settings out; `--help fid` shows those of fid.
    """
    asked = next((i for i, argument in enumerate(arguments) if argument in ("-h", "--help")), None)
    shown = registry.names("metrics") if asked is None else tuple(arguments[asked + 1 :])
    source: list[Any] = []
    if several:
        help_of = tyro.conf.arg(
            help="The checkpoints, in any format that klprobe estimate reads.",
            metavar="PATH ...",
            help_behavior_hint="(required)",
        )
        source = [("checkpoints", Annotated[tuple[Path, ...], tyro.conf.Positional, help_of])]
    general: list[Any] = [*source, ("judging", Annotated[judging, Bare], dataclasses.field(default_factory=judging))]
    if asked is not None:
        text += f"\nTo see the settings of a metric, such as --fid.divisions 20: klprobe {command} --help fid\n"
    kinds = {name.replace("-", "_"): registry.load("metrics", name) for name in shown}
    groups = [(name, kind, dataclasses.field(default_factory=kind)) for name, kind in kinds.items() if dataclasses.fields(kind)]
    if asked is not None and shown:
        general, text, arguments = [], f"Show the settings of {', '.join(shown)}.", ["--help"]
    kind = dataclasses.make_dataclass("Flags", general + groups, namespace={"__doc__": text})
    flags: Any = parse(kind, arguments, prog=f"klprobe {command}")
    configured = {name.replace("_", "-"): getattr(flags, name, None) or kind() for name, kind in kinds.items()}
    return list(flags.checkpoints) if several else [], flags.judging, configured


def chosen(judging: Judging, configured: dict[str, Any]) -> dict[str, Any]:
    """Choose the metrics that the flags name, with their settings."""
    names = [name for words in judging.metrics for name in words.split(",") if name]
    return {name: configured[name] for name in choose(names)}


def gather(checkpoint: Path, judging: Judging, device: str) -> Evidence:
    """Collect what the metrics use: the system, its data, and a net that is made when it is needed."""
    system = load_system(checkpoint, device)
    name, chosen = choose_dataset(judging.data, system.settings, checkpoint.name)
    more = has_validation(chosen) and judging.split != "validation"
    held_out, training = (read_dataset(chosen, name, split, judging.data_root) for split in (judging.split, "train"))
    if held_out.shape != system.shape:
        raise InputError(
            f"{checkpoint.name} makes points of shape {system.shape}, but {name} has points of shape {held_out.shape}: "
            "choose another --data."
        )
    return Evidence(
        system,
        held_out,
        training,
        chosen,
        lambda: _net(judging, training, device),
        num_samples=judging.num_samples,
        seed=judging.seed,
        cache=_cache(judging),
        perceptual=judging.lpips_weights,
        validation=(lambda: read_dataset(chosen, name, "validation", judging.data_root)) if more else None,
    )


def gather_samples(judging: Evaluating, device: str) -> Evidence:
    """What the metrics look at where there are samples alone: all of the user's own data, or a split of a set of klprobe's."""
    samples, name = str(judging.samples), str(judging.data)
    given = read_dataset(dataset(samples), samples, "all", judging.data_root)
    chosen = dataset(name)
    if is_ours(name) and chosen.path is None:
        held_out, training = (read_dataset(chosen, name, split, judging.data_root) for split in (judging.split, "train"))
    else:
        held_out, training = read_dataset(chosen, name, "all", judging.data_root), None
    if given.shape != held_out.shape:
        images = len(given.shape) == len(held_out.shape) == 3
        size = "x".join(map(str, held_out.shape[1:]))
        remedy = (
            f"bring them to one, as a folder of images by {samples}:resize={size}, :gray or :rgb" if images else "give others"
        )
        raise InputError(f"{samples} has points of shape {given.shape}, but {name} of shape {held_out.shape}: {remedy}.")
    return Evidence(
        SamplesAlone(given),
        held_out,
        training,
        chosen,
        lambda: _net(judging, held_out if training is None else training, device),
        num_samples=judging.num_samples,
        seed=judging.seed,
        cache=_cache(judging),
        perceptual=judging.lpips_weights,
    )


def measure(metrics: dict[str, Any], evidence: Evidence) -> Evaluation:
    """Run the metrics under progress bars."""
    with bars("all metrics", len(metrics)) as progress_of:
        return evaluate(metrics, evidence, progress_of)


def _net(judging: Judging, training: Any, device: str) -> FeatureNet:
    if judging.net == "values":
        return raw_values()
    if judging.net == "own":
        net, said = own_net(training, _cache(judging), judging.net_steps, device)
        say(said)
        return net
    low, high = map(float, judging.net_range.split(","))
    return read_net(
        Path(judging.net), device, _shape(judging.net_shape), (low, high), Limits(judging.file_memory, judging.file_seconds)
    )


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split("x"))
    except ValueError:
        raise InputError(f"--net-shape {text!r} is not a shape: write it as 3x299x299.") from None


def _cache(judging: Judging) -> Path:
    return judging.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klprobe"


def about(paths: list[Path], judging: Judging, device: str, command: list[str]) -> dict[str, Any]:
    """Provenance of the numbers."""
    flags = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(judging).items()}
    return {
        "input": [str(path) for path in paths],
        "flags": flags,
        "device": device,
        "command": command,
        "versions": versions(),
        "commit": commit(),
    }


def pictures(evidence: Evidence) -> dict[str, dict[str, torch.Tensor]]:
    """Make pairs of sets of points for the figures that the system allows, with images in [0, 1]."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    system, data = evidence.system, evidence.data
    count = 1000 if tuple(data.shape[1:]) == (2,) else SHOWN
    try:
        samples = evidence.samples[:count]
        found["samples"] = {"samples": samples, "held-out data": data[:count]}
        which = "nearest training data" if evidence.compares_real else "nearest data"
        found["neighbours"] = {"samples": samples, which: nearest(samples, evidence.training)}
    except InputError:  # there is no generator, or it has diverged, which the metrics have said already
        return found
    if "encode" in system.capabilities:
        rng = torch.Generator(system.device).manual_seed(evidence.seed)
        labels = evidence.labels[:count] if "labels" in system.capabilities and evidence.labels is not None else None
        again = system.reconstruct(data[:count], labels, rng)
        found["reconstructions"] = {"held-out data": data[:count], "reconstructions": again}
    return {name: {title: evidence.unit(x) for title, x in sets.items()} for name, sets in found.items()}


def _radius(found: Evaluation, evidence: Evidence) -> RadiusHistogram | None:
    """The radius histogram of the codes, where the metric latents has run."""
    if not any(row.metric == "latents" for row in found.rows):
        return None
    return radius_histogram(evidence.posterior, evidence.system.prior, generator_of(evidence.seed, "radius"))


def screen(found: Evaluation, given: str) -> list[str]:
    """Make the lines of one screen."""
    lines = [report.TITLE, f"Given: {given}.", *(f"Feature net: {net}." for net in report.nets(found)), ""]
    lines += columns([report.COLUMNS, *report.table(found)])
    lines += ["", *textwrap.wrap(report.MEANING, WIDTH), *(f"Note: {note}." for note in found.notes)]
    missing = report.missing(found)
    if missing:
        lines += ["", "Not there, and why", *(f"  {what}: {reason}" for what, reason in missing)]
    return lines


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Turn rows into lines, with every column as wide as its widest cell."""
    rows = [tuple(map(visible, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
