"""From the flags of a source to its posteriors and its prior."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from torch.distributions import Distribution

from klprobe.cli.estimate_flags import Source
from klprobe.cli.prior import parse_prior
from klprobe.cli.progress import bar
from klprobe.datasets._shared import Data, Split
from klprobe.encoders._shared import Encoded, Request
from klprobe.files.child import Limits
from klprobe.images import parse_size
from klprobe.loading import dataset, load
from klprobe.types import Progress


def read_source(source: Source, prior: str, device: str) -> tuple[Encoded, Distribution]:
    """Load what the flags name, say on stderr how it was understood, and find the prior that `--prior` asks for."""
    if source.allow_pickle:
        print(f"klprobe: --allow-pickle: opening {source.checkpoint} runs the code in it, with your rights.", file=sys.stderr)
    with bar(f"reading {source.checkpoint.name}") as progress:
        request = _request(source, device, progress)
        encoded = load(source.checkpoint, request)
    for note in encoded.notes:
        print(f"klprobe: {note}", file=sys.stderr)

    def encode(path: str) -> Distribution:
        plain = dataclasses.replace(request, data=path, split="all", resize=None, value_range=None, gray=False, flatten=False)
        return load(source.checkpoint, plain).posterior

    return encoded, parse_prior(prior, encoded.posterior.event_shape[0], encoded.prior, encode)


def read_dataset(name: str, split: Split, root: Path | None) -> Data:
    """One split of the data set of that name, or of that folder or file; what is to be known of it is said on stderr."""
    with bar(f"reading {name}") as progress:
        data = dataset(name).load(split, root, progress)
    for note in data.notes:
        print(f"klprobe: {note}", file=sys.stderr)
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
