"""Seed torch's global generators from a given one, and restore them; make a generator from torch's global one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators from `generator` inside the block, and restore them afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def from_global() -> torch.Generator:
    """Make a generator on the CPU whose seed is drawn from torch's global one."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))
