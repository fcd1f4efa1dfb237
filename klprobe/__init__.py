"""klprobe: does the aggregate posterior q(z) match the prior p(z), by how many nats, and can I trust that number?

The public names are loaded when they are first used, so that `import klprobe` costs nothing.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klprobe.distributions import problems as problems
    from klprobe.distributions.aggregate import AggregatePosterior
    from klprobe.distributions.categorical import Classes
    from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, standard_normal
    from klprobe.estimation import holes as holes
    from klprobe.estimation import lightning as lightning
    from klprobe.estimation import tracking as tracking
    from klprobe.estimation.report import Report
    from klprobe.estimation.run import estimate
    from klprobe.estimation.tracking import track
    from klprobe.training.trained import TrainedSystem, load_system
    from klprobe.types import CapabilityError, Estimate, InputError

__version__ = "0.1.0"
_HOME = {
    "AggregatePosterior": "distributions.aggregate",
    "Classes": "distributions.categorical",
    "estimate": "estimation.run",
    "track": "estimation.tracking",
    "DiagonalGaussian": "distributions.posteriors",
    "SampleOnly": "distributions.posteriors",
    "standard_normal": "distributions.posteriors",
    "Report": "estimation.report",
    "TrainedSystem": "training.trained",
    "load_system": "training.trained",
    "Estimate": "types",
    "InputError": "types",
    "CapabilityError": "types",
}
__all__ = [
    "AggregatePosterior",
    "CapabilityError",
    "Classes",
    "DiagonalGaussian",
    "Estimate",
    "InputError",
    "Report",
    "SampleOnly",
    "TrainedSystem",
    "estimate",
    "load_system",
    "standard_normal",
    "track",
]

_SHORT = {
    "problems": "distributions.problems",
    "holes": "estimation.holes",
    "lightning": "estimation.lightning",
    "tracking": "estimation.tracking",
}
"""Modules that users import by a short name, as in `from klprobe.problems import paper_pair`, with their full names."""


class _ShortNames(MetaPathFinder, Loader):
    """Import `klprobe.problems` as the module `klprobe.distributions.problems` itself, one module under two names."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return spec_from_loader(fullname, self) if package == "klprobe" and name in _SHORT else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix("klprobe.")
        sys.modules[module.__name__] = import_module(f"klprobe.{_SHORT[name]}")  # the import system then returns this module


sys.meta_path.insert(0, _ShortNames())  # asked first, so that a file left over from an older version is not used


_RENAMED: dict[str, str] = {}
"""From a former name to today's: for one release the former is taken, with a warning, and then it goes."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(
            f"klprobe.{name} is now klprobe.{_RENAMED[name]}; the old name goes with the next release.",
            FutureWarning,
            stacklevel=2,
        )
        name = _RENAMED[name]
    if name in _SHORT:
        return import_module(f"klprobe.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'klprobe' has no attribute {name!r}")
    return getattr(import_module(f"klprobe.{_HOME[name]}"), name)
