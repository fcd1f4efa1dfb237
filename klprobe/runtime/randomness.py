"""Random numbers of one's own: from a generator to torch's global ones, which come back as they were, and from them to one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """What is drawn inside from torch's global generators comes from `generator`; they come back as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def from_global() -> torch.Generator:
    """A generator on the CPU whose seed is drawn from torch's global one, which moves on."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))
