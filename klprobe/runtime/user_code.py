"""Import `package.module:name`, the user's own code, only because the user named it, and never because a file did."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

from klprobe.types import InputError


def is_module(spec: str) -> bool:
    """Whether Python finds the module of `package.module:name`; its packages are imported for that."""
    _look_here()
    try:
        return importlib.util.find_spec(spec.partition(":")[0]) is not None
    except Exception:  # an error in the user's own package, when it is imported
        return False


def _look_here() -> None:
    """Let Python find the modules of the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def import_named(spec: str, flag: str) -> Any:
    """Import what `package.module:name` names; modules of the current folder are found, as with `python -m`.

    Raises:
        InputError: there is no such module or name, or the module has an error; the message names the flag.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise InputError(f"{flag} {spec} is not of the form package.module:name.")
    _look_here()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"{flag} {spec}: the module {module_name} cannot be imported ({type(error).__name__}: {error}): run klprobe where "
            "`python -c 'import " + module_name + "'` works."
        ) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")][:8]
        raise InputError(f"{flag} {spec}: {module_name} has no {attribute}; it has {', '.join(public) or 'nothing public'}.")
    return getattr(module, attribute)
