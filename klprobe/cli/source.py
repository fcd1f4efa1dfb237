"""From the flags of a source to its posteriors and its prior."""

from __future__ import annotations

import dataclasses
import re
import sys

from torch.distributions import Distribution

from klprobe.cli.estimate_flags import Source
from klprobe.cli.prior import parse_prior
from klprobe.cli.progress import bar
from klprobe.encoders._shared import Encoded, Request
from klprobe.loading import load
from klprobe.types import InputError, Progress


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
        allow_pickle=source.allow_pickle,
    )
