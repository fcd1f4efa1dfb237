"""`klprobe demo`: an estimate of the KL of the checkpoint and the data that come with the package."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import klprobe
from klprobe.cli.estimate import answer
from klprobe.cli.estimate_flags import Source, parse_groups
from klprobe.cli.output import say

CHECKPOINT = Path(klprobe.__file__).parent / "assets" / "demo.safetensors"
SMALL = {
    "classifier": {"steps": 2500},
    "gmm": {"steps": 800},
    "lstm": {"steps": 1000},
    "maf": {"steps": 1500, "width": 64},
}
"""Shorter fits than the defaults, which are made for tens of thousands of points: the demo has 1,797."""
TITLE = "klprobe's demo VAE on scikit-learn's digits"
HELP = """Estimate KL[q(z)||p(z)] of the small VAE in this package, which was trained on scikit-learn's digits.

klprobe demo --out report
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The part of the digits that is encoded."""

    split: Literal["train", "test", "all"] = "all"
    """Part of the digits to encode. Bounds of the population KL need points that the encoder was not trained on: test."""


def run(arguments: list[str]) -> int:
    """Estimate the KL of the demo checkpoint, with all flags of `klprobe estimate` except those of the source."""
    part, common, methods = parse_groups(arguments, "klprobe demo", HELP, Part, SMALL)
    say("the demo's fits are shorter than those of klprobe estimate")
    return answer(Source(checkpoint=CHECKPOINT, split=part.split), common, methods, ["demo", *arguments], TITLE)
