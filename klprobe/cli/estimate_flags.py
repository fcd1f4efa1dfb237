"""The flags that `klprobe estimate` and `klprobe demo` share: sources, common flags, and the settings of each method."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro

from klprobe import registry
from klprobe.cli.flags import parse
from klprobe.cli.machine import DeviceName

Bare = tyro.conf.arg(name="")
"""Mark of a group of flags without a prefix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The source of the posteriors."""

    checkpoint: Path
    """Path of an encoder, or of arrays of mean and logvar, var or std, in one of the formats that `klprobe list` shows."""
    encoder: str | None = None
    """Function that makes the network whose weights the checkpoint holds, as package.module:factory; this code is imported and
    run."""
    allow_pickle: bool = False
    """Open a pickled torch module or checkpoint that you trust. Opening it runs any code that it holds."""
    file_memory: float | None = None
    """Largest memory, in GB, for a file that klprobe runs in a separate process; by default half of the machine's memory."""
    file_seconds: float = 600.0
    """Longest time, in seconds, for opening such a file, and for each answer of the program in it."""
    outputs: str | None = None
    """What the encoder returns, as mean,logvar or mean,_,std, where _ is ignored; by default klprobe finds out, and says what
    it found."""
    data: str | None = None
    """Data to encode: the name of a data set, a .npy, .npz, .csv or .parquet file, a folder of images, or
    package.module:dataset; by default the data set that the checkpoint was trained on."""
    inputs: str | None = None
    """Which array of --data each argument of the encoder gets, argument=array: x=images,y=labels for an .npz of several arrays,
    or images,labels in the arguments' order. The first is the data, which other flags prepare; the others stay as they are."""
    resize: str | None = None
    """Resize images to this size, bilinearly: 32, or 32x24 for height and width; by default they keep their size."""
    range: Annotated[Literal["0,1", "-1,1"] | None, tyro.conf.arg(metavar="LOW,HIGH")] = None
    """Map data in [0, 1] to this range, 0,1 or -1,1, for the encoder; by default bytes are scaled to [0, 1] and other numbers
    stay as they are. Write --range=-1,1 with the equals sign."""
    scale: float | None = None
    """Number that becomes 1, such as 255 or 4095: values are divided by it. By default it is 255 for bytes and 65535 for images
    of 16 bits, and other numbers stay as they are."""
    gray: bool = False
    """Turn colour images into grey images of one channel."""
    rgb: bool = False
    """Turn grey images into colour images of three equal channels."""
    flatten: bool = False
    """Turn every data point into a vector."""
    split: Literal["train", "validation", "test", "all"] = "all"
    """Part of the data to encode. Bounds of the population KL need points that the encoder was not trained on: test or
    validation."""
    groups: str | None = None
    """Array or table with the group of each data point, as groups.npy or table.csv:donor. Points of one group, such as those of
    one donor, video or image, are not independent: bounds and errors of the population treat whole groups as one."""
    weights: str | None = None
    """Array or table with the weight of each data point, as weights.npy or table.csv:weight; by default all weigh the same."""
    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Methods, prior and device, and where to write the answer."""

    methods: tuple[str, ...] = ("auto",)
    """Methods to run, by the names that `klprobe list` shows. auto runs those that suit the input best, and all runs every one
    that it allows."""
    num_samples: int | None = None
    """Number of codes that monte-carlo draws; short for --monte-carlo.num-samples."""
    tolerance: float | None = None
    """Standard error, in nats, at which monte-carlo stops drawing; short for --monte-carlo.tolerance."""
    prior: str = "own"
    """Prior p(z). own is the prior of the checkpoint, or N(0, I) where it has none. Others are normal:scale=2, sphere,
    mixture:FILE, vampprior:FILE, aggregate:FILE, conditional:FILE, flow:FILE, samples:FILE and package.module:prior."""
    device: DeviceName = "auto"
    """Device for the encoder and for the methods that can use one; auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of all random numbers; on a CPU the same seed gives the same answer."""
    out: Path | None = None
    """Folder to write report.json, report.csv, report.html and figures to; by default nothing is written."""
    resume: bool = False
    """Continue with the draws that a stopped run of monte-carlo left in the folder --out."""
    json: bool = False
    """Print the report on stdout as a JSON document, klprobe.report/1, and nothing else."""


def parse_groups(
    arguments: list[str],
    prog: str,
    text: str,
    source: type[Any] | None,
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
        text += f"\nTo see the settings of a method, such as --maf.flows 3: {prog} --help maf\n"
    kinds = {name.replace("-", "_"): registry.load("estimators", name) for name in shown}
    begin = {name: functools.partial(kind, **defaults.get(name, {})) for name, kind in kinds.items()}
    groups = [
        (name, kind, dataclasses.field(default_factory=begin[name])) for name, kind in kinds.items() if dataclasses.fields(kind)
    ]
    if asked is not None and shown:
        general, text, arguments = [], f"Show the settings of {', '.join(shown)}.", ["--help"]
    flags: Any = parse(dataclasses.make_dataclass("Flags", general + groups, namespace={"__doc__": text}), arguments, prog=prog)
    configured = {name.replace("_", "-"): getattr(flags, name, None) or kind() for name, kind in kinds.items()}
    return getattr(flags, "source", None), flags.common, configured
