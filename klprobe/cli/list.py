"""`klprobe list`: everything that has a name on the command line, one line each."""

from __future__ import annotations

from dataclasses import dataclass

from klprobe import registry
from klprobe.cli.flags import parse
from klprobe.cli.output import answer

TITLES = {
    "estimators": "methods (--methods)",
    "trainers": "systems (klprobe train NAME)",
    "datasets": "data sets (--data, --dataset)",
    "formats": "checkpoint formats (--checkpoint)",
    "metrics": "metrics (klprobe evaluate --metrics)",
}


@dataclass(frozen=True)
class Flags:
    """List the methods, systems, data sets, checkpoint formats and metrics, one line each."""


def run(arguments: list[str]) -> int:
    """Print the registry."""
    parse(Flags, arguments, prog="klprobe list")
    for kind, title in TITLES.items():
        names = registry.names(kind)
        if names:
            answer(title)
        for name in names:
            answer(f"  {name:<20} {registry.describe(kind, name)}")
    return 0
