"""`klprobe train NAME`: train a published system and leave a checkpoint that `klprobe estimate` reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from klprobe import registry
from klprobe.cli.flags import parse
from klprobe.cli.layout import table
from klprobe.cli.machine import DeviceName, check_writable, choose_device
from klprobe.cli.output import answer
from klprobe.cli.progress import bar
from klprobe.cli.source import read_dataset
from klprobe.datasets import dataset
from klprobe.files.images import has_picture
from klprobe.rendering.pictures import painter
from klprobe.runtime import parallel
from klprobe.training.loop import Precision, train
from klprobe.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Data to train on, number of steps, and where to write the result."""

    dataset: str
    """Data to train on: a data set that `klprobe data list` shows, with settings as in celeba:size=128:flip or
    mnist:validation=5000; a folder of images; a .npy or .npz file; or package.module:dataset."""
    steps: int
    """Number of training steps in all, including those before --resume."""
    out: Path
    """Folder to write checkpoint.safetensors, metrics.csv and pictures to."""
    split: Literal["train", "all"] = "train"
    """Part of the data to train on; train leaves the test points for `klprobe estimate --split test`."""
    data_root: Path | None = None
    """Folder that holds one folder for each data set; by default $KLPROBE_DATA, and ./data where that is not set."""
    seed: int = 0
    """Seed of all random numbers: the initial weights, the order of the data, and the noise."""
    device: DeviceName = "auto"
    """Device to train on; auto takes a GPU where there is one."""
    precision: Precision = "float32"
    """Precision of the products inside the networks. bf16 is bfloat16, for GPUs that have it; weights and losses stay
    float32."""
    resume: bool = False
    """Continue from the checkpoint in the folder --out."""
    checkpoint_every: int = 1000
    """Number of steps between two checkpoints."""
    log_every: int = 100
    """Number of steps between two rows of metrics.csv."""
    tensorboard: bool = False
    """Write TensorBoard events beside metrics.csv; this needs the extra [tensorboard]."""
    pictures_every: int = 1000
    """Number of steps between two pictures of samples and of reconstructions, for data that can be drawn; 0 draws none."""


def run(arguments: list[str]) -> int:
    """Train the system that the first argument names, with its settings as flags."""
    if not arguments or arguments[0] in ("-h", "--help"):
        names = registry.names("trainers")
        if not arguments:
            raise InputError(f"klprobe train needs the name of a system. Give one of {', '.join(names)}.")
        answer("usage: klprobe train NAME --dataset NAME --steps N --out DIR [settings]", "")
        answer(*table((name, registry.describe("trainers", name)) for name in names))
        answer("", *table([("klprobe train NAME --help", "show the settings of a system")]))
        return 0
    name, rest = arguments[0].replace("_", "-"), arguments[1:]
    system = registry.load("trainers", name)
    training, algorithm = _flags(name, system, rest)
    if parallel.is_first():
        check_writable(training.out)
    data = read_dataset(dataset(training.dataset), training.dataset, training.split, training.data_root)
    algorithm = algorithm.settled(data)
    device = choose_device(training.device)
    parallel.start(device)
    watch = None
    if training.pictures_every and has_picture(data.shape) and "decode" in algorithm.capabilities:
        watch = painter(name, algorithm, data, training.out, training.seed, device)
    try:
        with bar(name) as progress:
            path = train(
                algorithm,
                data,
                steps=training.steps,
                out=training.out,
                seed=training.seed,
                device=device,
                precision=training.precision,
                resume=training.resume,
                progress=progress,
                checkpoint_every=training.checkpoint_every,
                log_every=training.log_every,
                tensorboard=training.tensorboard,
                watch=watch,
                watch_every=training.pictures_every,
            )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; --resume goes on from the checkpoint in {training.out}.") from stop
    first = parallel.rank_and_size()[0] == 0
    parallel.stop()
    if first:
        answer(path)
    return 0


def _flags(name: str, system: type, arguments: list[str]) -> tuple[Training, Any]:
    """Parse the flags of the run and of the system, without prefixes."""
    text = f"{system.__doc__}\nklprobe train {name} --dataset digits --steps 1000 --out runs/{name}"
    bare = tyro.conf.arg(name="")
    groups: list[Any] = [("training", Annotated[Training, bare])]
    groups.append(("algorithm", Annotated[system, bare], dataclasses.field(default_factory=system)))
    flags: Any = parse(
        dataclasses.make_dataclass("Flags", groups, namespace={"__doc__": text}), arguments, prog=f"klprobe train {name}"
    )
    return flags.training, flags.algorithm
