"""The flags that `klprobe estimate` and `klprobe demo` share: sources, what is asked, the settings of each method."""

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
"""A group of flags without a prefix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where the posteriors come from."""

    checkpoint: Path
    """An encoder, or arrays of mean and logvar, var or std, in any format of `klprobe list`."""
    encoder: str | None = None
    """package.module:factory of the network whose weights the checkpoint holds; imports and runs that code."""
    allow_pickle: bool = False
    """Open a whole pickled torch module, or checkpoint, that you trust: opening it runs whatever code it holds."""
    file_memory: float | None = None
    """Memory in GB that a file may use where klprobe runs it in a process of its own; by default half of the machine's."""
    file_seconds: float = 600.0
    """Seconds that opening such a file, or one answer of its program, may take."""
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
    split: Literal["train", "validation", "test", "all"] = "all"
    """Its points; population bounds ask for points that the encoder was not trained on: test, or validation."""
    data_root: Path | None = None
    """Folder of the data sets' folders; by default $KLPROBE_DATA, then ./data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What is asked about them, and where the answer goes."""

    methods: tuple[str, ...] = ("auto",)
    """auto: those that answer best what the input allows; all: every one that it allows; or some of `klprobe list`."""
    num_samples: int | None = None
    """Latents that monte-carlo draws; short for --monte-carlo.num-samples."""
    tolerance: float | None = None
    """Standard error in nats that monte-carlo draws down to; short for --monte-carlo.tolerance."""
    prior: str = "own"
    """own: the checkpoint's, else N(0, I); or normal:scale=2, sphere, mixture:FILE, vampprior:FILE, flow:FILE, samples:FILE,
    module:prior."""
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
    general: list[Any] = [("source", Annotated[source, Bare, tyro.conf.FlagCreatePairsOff])] if source else []
    general.append(("common", Annotated[Common, Bare, tyro.conf.FlagCreatePairsOff], dataclasses.field(default_factory=Common)))
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
