"""Read posteriors and prior by the flags of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributions import Distribution

from klprobe import registry
from klprobe.cli.estimate_flags import Source
from klprobe.cli.output import say
from klprobe.cli.prior import parse_prior
from klprobe.cli.progress import bar
from klprobe.datasets import Dataset, Split, dataset
from klprobe.files.child import Limits
from klprobe.files.images import parse_size
from klprobe.files.remembered import dataset_of_file, notes_of
from klprobe.formats import Encoded, Request, load
from klprobe.training.data import Data
from klprobe.types import Progress


def read_source(source: Source, prior: str, device: str) -> tuple[Encoded, Distribution]:
    """Load the posterior that the flags name, say on stderr how it was understood, and find the prior of `--prior`."""
    if source.allow_pickle:
        say(f"--allow-pickle: opening {source.checkpoint} runs the code in it, with your rights.")
    with bar(f"reading {source.checkpoint.name}") as progress:
        request = _request(source, device, progress)
        encoded = load(source.checkpoint, request)
    for note in encoded.notes:
        say(note)

    def encode(path: str) -> Distribution:
        plain = dataclasses.replace(request, data=path, split="all", resize=None, value_range=None, gray=False, flatten=False)
        return load(source.checkpoint, plain).posterior

    return encoded, parse_prior(prior, encoded.posterior.event_shape[0], encoded.prior, encode)


def choose_dataset(flag: str | None, settings: Mapping[str, Any], file: str) -> tuple[str, Dataset]:
    """Choose the data set of --data and its name, or else the one that the file names if it is klprobe's own.

    Raises:
        InputError: there is no such data set, or the file names one that is not klprobe's own.
    """
    if flag:
        return flag, dataset(flag)
    chosen: Dataset = dataset_of_file(settings["dataset"], file, settings["input_shape"])
    for note in notes_of(chosen, file):
        say(note)
    return registry.spec(chosen), chosen


def read_dataset(chosen: Dataset, name: str, split: Split, root: Path | None) -> Data:
    """Read one split of a data set, under that name, and print its notes on stderr."""
    with bar(f"reading {name}") as progress:
        data = chosen.load(split, root, progress)
    for note in data.notes:
        say(note)
    return data


def _request(source: Source, device: str, progress: Progress) -> Request:
    """Turn the flags into a request for the encoder and its data."""
    low, high = map(float, (source.range or "0,1").split(","))
    return Request(
        source.data,
        source.split,
        source.data_root,
        device,
        progress,
        encoder=source.encoder,
        outputs=source.outputs,
        resize=parse_size(source.resize or "", "--resize"),
        value_range=(low, high) if source.range else None,
        gray=source.gray,
        flatten=source.flatten,
        allow_pickle=source.allow_pickle,
        limits=Limits(source.file_memory, source.file_seconds),
    )
