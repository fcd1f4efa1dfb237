"""klprobe: does the aggregate posterior q(z) match the prior p(z), by how many nats, and can I trust that number?

The public names are loaded when they are first used, so that `import klprobe` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klprobe.categorical import Classes
    from klprobe.distributions import DiagonalGaussian, SampleOnly, standard_normal
    from klprobe.estimation import estimate
    from klprobe.report.document import Report
    from klprobe.tracking import track
    from klprobe.types import CapabilityError, Estimate, InputError

__version__ = "0.1.0"
_HOME = {
    "Classes": "categorical",
    "estimate": "estimation",
    "track": "tracking",
    "DiagonalGaussian": "distributions",
    "SampleOnly": "distributions",
    "standard_normal": "distributions",
    "Report": "report.document",
    "Estimate": "types",
    "InputError": "types",
    "CapabilityError": "types",
}
__all__ = [
    "CapabilityError",
    "Classes",
    "DiagonalGaussian",
    "Estimate",
    "InputError",
    "Report",
    "SampleOnly",
    "estimate",
    "standard_normal",
    "track",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'klprobe' has no attribute {name!r}")
    return getattr(import_module(f"klprobe.{_HOME[name]}"), name)
