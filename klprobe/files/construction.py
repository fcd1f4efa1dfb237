"""Build a network whose sizes come from a file, without using more memory than the tensors of the file justify."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from klprobe.types import InputError

Network = TypeVar("Network", bound=nn.Module)
SLACK = 2
"""Factor on the number of tensors in the file, for parts that are made and removed again, such as unnormalised weights."""
SPARE = 200
"""Number of tensors beyond that, for parts whose weights the file leaves out, such as a decoder."""
MODULES = 8
"""Number of modules for each tensor, which counts layers without weights, and containers."""
LARGEST_SIZE = 10**7
"""Largest whole number in settings; every width and depth is far smaller, and a list of that length is small."""


@contextmanager
def watched(held: int, label: str) -> Iterator[None]:
    """Stop building a network in this block when it has more parts than a file with that many tensors can fill.

    Elements are not counted, because on the device `meta` they take no memory, and sizes are compared before they do.

    Raises:
        InputError: the network has more parts.
    """
    left = {"tensors": SLACK * held + SPARE, "modules": MODULES * (SLACK * held + SPARE)}

    def count(kind: str) -> None:
        left[kind] -= 1
        if left[kind] < 0:
            raise InputError(
                f"{label} describes a network with far more {kind} than the {held:,} tensors of its file: it is damaged."
            )

    hooks = (
        register_module_parameter_registration_hook(lambda module, name, parameter: count("tensors")),
        register_module_module_registration_hook(lambda module, name, inner: count("modules")),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sizes_of(build: Callable[[], Network], held: int, label: str) -> Network:
    """Call `build` on the device `meta`, so that the network has shapes and no memory for its numbers."""
    with torch.random.fork_rng(), torch.device("meta"), watched(held, label):
        return build()


def differences(network: nn.Module, given: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of a network's tensors that are missing, superfluous, or of another shape or kind."""
    needed = network.state_dict()
    wrong = (n for n in given.keys() | needed.keys() if n not in given or n not in needed or given[n].shape != needed[n].shape)
    return sorted(wrong)
