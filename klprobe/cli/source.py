"""From the flags of a source to its posteriors and its prior."""

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
from klprobe.types import InputError, Progress


def read_source(source: Source, prior: str, device: str) -> tuple[Encoded, Distribution]:
    """Load what the flags name, say on stderr how it was understood, and find the prior that `--prior` asks for."""
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

    if prior == "own" and encoded.no_prior:
        raise InputError(
            f"{source.checkpoint.name} says something of a prior of its own, and it cannot be used: {encoded.no_prior}. "
            "Give --prior normal for N(0, I), or another, or name it: "
            "--outputs mean=NAME,logvar=NAME,prior_mean=NAME,prior_std=NAME."
        )
    found = parse_prior(prior, encoded.posterior.event_shape[0], encoded.prior, encode)
    if encoded.prior_name:
        own = f"against the model's own prior, {encoded.prior_name}"
        held = own if prior == "own" else f"against --prior {prior} and not the model's own prior"
        say(f"{held}; --prior normal takes N(0, I)" if prior == "own" else f"{held}, {encoded.prior_name}")
        encoded = dataclasses.replace(encoded, provenance={**encoded.provenance, "held": held})
    return encoded, found


def choose_dataset(flag: str | None, settings: Mapping[str, Any], file: str) -> tuple[str, Dataset]:
    """Name and data set that the user's --data gives, in her own words; else those that the file names, if klprobe has them.

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
    """One split of a data set, called by that name; what is to be known of it is said on stderr."""
    with bar(f"reading {name}") as progress:
        data = chosen.load(split, root, progress)
    for note in data.notes:
        say(note)
    return data


def _request(source: Source, device: str, progress: Progress) -> Request:
    """What the flags ask of the encoder and its data."""
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
