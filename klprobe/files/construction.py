"""Building a network whose sizes come from a file: it can claim nothing that the file does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from klprobe.types import InputError

Network = TypeVar("Network", bound=nn.Module)
SLACK = 2
"""Factor on what the file holds: parts that are made and left out again, such as a weight before its normalisation."""
SPARE = 200
"""Tensors beyond that, for parts whose weights the file leaves out, such as a decoder."""
MODULES = 8
"""Modules for each tensor: layers without weights, and the containers around them."""
LARGEST_SIZE = 10**7
"""Largest whole number in settings: no width, depth or number of steps comes near it, and a list of that length is small."""


@contextmanager
def watched(held: int, label: str) -> Iterator[None]:
    """Stops the building of a network in this block when it has more parts than a file with so many tensors can fill.

    Elements need no count, where sizes alone are built (on the device `meta`): what they claim is compared before they are.

    Raises:
        InputError: it has more.
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
    """What `build` makes, without memory for its numbers: shapes alone, on the device `meta`."""
    with torch.random.fork_rng(), torch.device("meta"), watched(held, label):
        return build()


def differences(network: nn.Module, given: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of a network's tensors that are not given, given too much, or given in another shape or kind."""
    needed = network.state_dict()
    wrong = (n for n in given.keys() | needed.keys() if n not in given or n not in needed or given[n].shape != needed[n].shape)
    return sorted(wrong)


def num_elements(tensors: Mapping[str, torch.Tensor]) -> int:
    """Numbers in all tensors together."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())
