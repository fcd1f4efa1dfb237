"""Read posteriors and prior by the flags of a source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributions import Distribution

from klprobe import registry
from klprobe.cli.estimate_flags import Source
from klprobe.cli.output import say
from klprobe.cli.prior import check_name, parse_prior
from klprobe.cli.progress import bar
from klprobe.datasets import Dataset, Split, dataset
from klprobe.distributions.clusters import in_words, with_rows
from klprobe.distributions.posteriors import as_posterior
from klprobe.files.child import Limits
from klprobe.files.columns import as_groups, as_weights, read_column
from klprobe.files.images import parse_size
from klprobe.files.remembered import dataset_of_file, notes_of
from klprobe.formats import Encoded, Request, load
from klprobe.printable import short
from klprobe.training.data import Data
from klprobe.types import InputError, Progress


def read_source(source: Source, prior: str, device: str) -> tuple[Encoded, Distribution]:
    """Load the posterior that the flags name, say on stderr how it was understood, and find the prior of `--prior`."""
    check_name(prior)
    if source.allow_pickle:
        say(f"--allow-pickle: opening {source.checkpoint} runs the code in it, with your rights.")
    with bar(f"reading {source.checkpoint.name}") as progress:
        request = _request(source, device, progress)
        encoded = load(source.checkpoint, request)
    encoded = _with_rows(encoded, source)
    for note in encoded.notes:
        say(note)

    def encode(path: str) -> Distribution:
        plain = dataclasses.replace(request, data=path, split="all", resize=None, value_range=None, gray=False, flatten=False)
        return load(source.checkpoint, dataclasses.replace(plain, scale=None, rgb=False)).posterior

    if prior == "own" and encoded.no_prior:
        raise InputError(
            f"{source.checkpoint.name} says something of a prior of its own, and it cannot be used: {encoded.no_prior}. "
            "Give --prior normal for N(0, I), or another, or name it: "
            "--outputs mean=NAME,logvar=NAME,prior_mean=NAME,prior_std=NAME."
        )
    if "codebook" in encoded.provenance and prior != "own":
        raise InputError(
            f"{source.checkpoint.name} gives entries of a codebook, which no --prior of vectors speaks of: leave --prior "
            f"{prior} away, and they are held against {encoded.prior_name}."
        )
    found = parse_prior(prior, encoded.posterior.event_shape[0], encoded.prior, encode)
    if encoded.prior_name:
        own = f"against the model's own prior, {encoded.prior_name}"
        held = own if prior == "own" else f"against --prior {prior} and not the model's own prior"
        other = "" if "codebook" in encoded.provenance else "; --prior normal takes N(0, I)"
        say(f"{held}{other}" if prior == "own" else f"{held}, {encoded.prior_name}")
        encoded = dataclasses.replace(encoded, provenance={**encoded.provenance, "held": held})
    return encoded, found


def _with_rows(encoded: Encoded, source: Source) -> Encoded:
    """The posterior with the groups and weights that the flags give, in place of those in the file."""
    if source.groups is None and source.weights is None:
        return encoded
    q: Any = as_posterior(encoded.posterior)
    groups, weights = None, None
    if source.groups is not None:
        groups = as_groups(read_column(source.groups, "--groups", q.num_points), f"--groups {short(source.groups)}")
    if source.weights is not None:
        weights = as_weights(read_column(source.weights, "--weights", q.num_points), f"--weights {short(source.weights)}")
    given = {"groups": source.groups, "weights": source.weights}
    return dataclasses.replace(
        encoded,
        posterior=with_rows(q, groups=groups, weights=weights),
        provenance={**encoded.provenance, **{name: spec for name, spec in given.items() if spec is not None}},
        notes=(*encoded.notes, in_words(groups, weights)),
    )


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
    if source.scale is not None and not 0 < source.scale < math.inf:
        raise InputError(f"--scale is the number that becomes 1, and above 0; got {source.scale:g}.")
    if source.gray and source.rgb:
        raise InputError("--gray and --rgb contradict each other: give one of them.")
    return Request(
        source.data,
        source.split,
        source.data_root,
        device,
        progress,
        encoder=source.encoder,
        outputs=source.outputs,
        inputs=source.inputs,
        resize=parse_size(source.resize or "", "--resize"),
        value_range=(low, high) if source.range else None,
        scale=source.scale,
        gray=source.gray,
        rgb=source.rgb,
        flatten=source.flatten,
        allow_pickle=source.allow_pickle,
        limits=Limits(source.file_memory, source.file_seconds),
    )
