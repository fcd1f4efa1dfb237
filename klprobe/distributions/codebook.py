"""A discrete code: every data point has entries of one codebook, at one place or at many, and its prior is uniform over them.

q(k|x_n) is the share of point n's places that hold entry k, which is the entry at a place drawn at random. So KL[q(k)||uniform]
speaks of how evenly the codebook is used, and not of how the entries of different places depend on each other.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.distributions import Categorical, Independent

from klprobe.types import InputError

MOST_NUMBERS = 1 << 28
"""Points times entries at most: 2 GB of shares in float64."""


class Codebook(NamedTuple):
    """A posterior of entry numbers, batch shape (N,) and event shape (1,), the uniform prior over the entries, and their use.

    Attributes:
        posterior, prior: Over the entry's number, 0 to K - 1.
        usage: `entries` K, `places` a point, `used`, `dead` entries, `perplexity` exp(H), `kl_to_uniform` log K - H in nats.
    """

    posterior: Independent
    prior: Independent
    usage: dict[str, Any]


def codebook_of(codes: torch.Tensor, entries: int, label: str) -> Codebook:
    """Describe a codebook's use by the entries that data points have.

    Args:
        codes: Entry numbers, shape (N, ...), one row a data point; any integer type.
        entries: K, the number of entries of the codebook, used or not.
        label: Where they come from, for messages.
    Raises:
        InputError: fewer than 2 points or entries, entries outside of the codebook, or more of both than memory is meant for.
    """
    codes = codes.long().reshape(len(codes), -1)
    n, places = codes.shape
    if n < 2 or places < 1 or entries < 2:
        raise InputError(f"{label}: a codebook needs 2 data points and 2 entries at least; got {n} points, {entries} entries.")
    if int(codes.min()) < 0 or int(codes.max()) >= entries:
        raise InputError(
            f"{label}: entries of a codebook of {entries:,} are numbered 0 to {entries - 1:,}, but codes reach from "
            f"{int(codes.min()):,} to {int(codes.max()):,}: give the size of the whole codebook."
        )
    if n * entries > MOST_NUMBERS:
        raise InputError(
            f"{label}: {n:,} points of {entries:,} entries are more than klprobe keeps in memory: give at most "
            f"{MOST_NUMBERS // entries:,} points."
        )
    counts = torch.zeros(n, entries, dtype=torch.float64)
    counts.scatter_add_(1, codes, torch.ones(codes.shape, dtype=torch.float64))
    share = counts.sum(0) / (n * places)
    entropy = float(-torch.xlogy(share, share).sum())
    used = int((share > 0).sum())
    usage = {
        "entries": entries,
        "places": places,
        "used": used,
        "dead": entries - used,
        "perplexity": math.exp(entropy),
        "kl_to_uniform": math.log(entries) - entropy,
    }
    posterior = Independent(Categorical(probs=(counts / places)[:, None], validate_args=False), 1)
    uniform = Independent(Categorical(probs=torch.ones(1, entries, dtype=torch.float64), validate_args=False), 1)
    return Codebook(posterior, uniform, usage)


def prior_name(usage: dict[str, Any]) -> str:
    """Say the prior in words."""
    return f"the uniform one over the {usage['entries']:,} entries of its codebook"
