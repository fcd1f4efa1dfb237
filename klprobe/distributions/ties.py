"""Find ties and atoms in clouds of samples, of q and of the prior: what takes few values has no density, and distances of 0.

Independent draws of a density never agree. Where many do, a latent is constant, discrete, rounded, or has an atom, such as the
0 of a ReLU, and the KL from, or to, something that has a density is infinite, which no estimate from samples shows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from klprobe.distributions.posteriors import SampleOnly
from klprobe.distributions.priors import Cloud
from klprobe.types import Check, InputError, Posterior

LOOKED_AT, FEW_VALUES = 4096, 256
"""Rows among which a latent's different values are counted, and how few of them make a lattice of it."""
ATOM_SHARE, ATOM_COUNT = 0.02, 20
"""Share, and number, of equal values from which one value is an atom among others that differ."""
REPEATED = 0.01
"""Share of rows that repeat another row from which nearest neighbours say more of the rounding than of the densities."""


class Ties(NamedTuple):
    """What the values of each latent of one cloud have in common.

    Attributes:
        distinct: How many different values, of at most 4096 rows; shape (D,).
        commonest: The most frequent value of each latent, shape (D,), and `share`, its share of the rows.
        values: The different values of each latent, and how often each was met; empty where they are more than 256.
        repeated: Share of rows that repeat another row, of the same rows.
        rows: How many rows were looked at.
    """

    distinct: torch.Tensor
    commonest: torch.Tensor
    share: torch.Tensor
    values: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    repeated: float
    rows: int

    @classmethod
    def of(cls, samples: torch.Tensor) -> Ties:
        """Look at samples of shape (M, D), evenly over all rows."""
        some = samples[:: -(-len(samples) // LOOKED_AT)].detach().double().cpu().contiguous()
        counts = [torch.unique(column, return_counts=True) for column in some.T]
        top = [int(count.argmax()) for _, count in counts]
        return cls(
            torch.tensor([len(values) for values, _ in counts]),
            torch.stack([values[k] for (values, _), k in zip(counts, top, strict=True)]),
            torch.tensor([float(count[k]) / len(some) for (_, count), k in zip(counts, top, strict=True)]),
            tuple((v, c) if len(v) <= FEW_VALUES else (v[:0], c[:0]) for v, c in counts),
            1 - len(np.unique((some + 0.0).numpy().view(f"V{8 * some.shape[1]}"))) / len(some),
            len(some),
        )

    @property
    def coarse(self) -> torch.Tensor:
        """Latents that take few values, shape (D,), bool."""
        return self.distinct <= min(FEW_VALUES, max(1, self.rows // 4))

    @property
    def atoms(self) -> torch.Tensor:
        """Latents in which one value is frequent among others that differ, shape (D,), bool."""
        return ~self.coarse & (self.share >= max(ATOM_SHARE, ATOM_COUNT / self.rows))

    def words(self, latent: int) -> str:
        """What a latent's values are like."""
        if self.distinct[latent] == 1:
            return f"latent {latent} is {self.commonest[latent]:g} throughout"
        if self.coarse[latent]:
            return f"latent {latent} takes {self.distinct[latent]} values in {self.rows:,} samples"
        return f"{self.share[latent]:.0%} of latent {latent} are exactly {self.commonest[latent]:g}"


def check_ties(posterior: Posterior, prior: Distribution) -> list[Check]:
    """Warn about constant, discrete or rounded samples, on either side; nothing where neither is a cloud of samples."""
    q = Ties.of(posterior.samples) if isinstance(posterior, SampleOnly) else None
    p = Ties.of(prior.samples) if isinstance(prior, Cloud) else None
    if q is None and p is None:
        return []
    problems = [*_one_sided("q", q, p), *_one_sided("p", p, q), *_both(q, p)]
    if not problems and q and p and (most := max(q.repeated, p.repeated)) > REPEATED:
        problems = [f"{most:.1%} of one side's samples repeat another one, as rounded numbers do: give them unrounded"]
    message = "; ".join(problems) if problems else "no ties or atoms in the samples"
    return [Check("ties", "warning", not problems, message)]


def _one_sided(name: str, ours: Ties | None, theirs: Ties | None) -> list[str]:
    """What this cloud has and the other side has not."""
    if ours is None:
        return []
    other = "p" if name == "q" else "q"
    rough = ours.coarse & ~_coarse_of(theirs, ours)
    found = []
    if rough.any():
        found.append(
            f"{name}'s samples are discrete where {other} has a density ({_some(ours, rough)}), so KL[q||p] is infinite, and "
            "estimates from samples do not show it: drop these latents from q and p, or give both alike"
        )
    same = torch.zeros_like(ours.atoms) if theirs is None else (theirs.commonest == ours.commonest) & (theirs.share > 0)
    alone = ours.atoms & ~(same & (_atoms_of(theirs, ours) | _coarse_of(theirs, ours)))
    if alone.any():
        infinite = ", so KL[q||p] is infinite" if name == "q" else ""
        found.append(f"{name}'s samples have an atom that {other} does not have ({_some(ours, alone)}){infinite}")
    return found


def _both(q: Ties | None, p: Ties | None) -> list[str]:
    """What both sides have."""
    if q is None or p is None:
        return []
    apart = torch.tensor([_never(ours, theirs) > REPEATED for ours, theirs in zip(q.values, p.values, strict=True)])
    apart &= q.coarse & p.coarse
    shared = (q.coarse & p.coarse | q.atoms & p.atoms) & ~apart
    found = []
    if apart.any():
        found.append(f"q's samples take values that p's never take ({_some(q, apart)}), so KL[q||p] is infinite")
    if shared.any():
        found.append(
            f"samples of both sides are discrete ({_some(q, shared)}): methods that take distances or densities refuse or err, "
            "and --methods classifier is right"
        )
    return found


def _never(ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Share of our samples whose value is none of theirs."""
    values, counts = ours
    return float(counts[~torch.isin(values, theirs[0])].sum() / counts.sum().clamp(min=1))


def _coarse_of(theirs: Ties | None, ours: Ties) -> torch.Tensor:
    return torch.zeros_like(ours.coarse) if theirs is None else theirs.coarse


def _atoms_of(theirs: Ties | None, ours: Ties) -> torch.Tensor:
    return torch.zeros_like(ours.atoms) if theirs is None else theirs.atoms


def _some(ties: Ties, which: torch.Tensor) -> str:
    latents = which.nonzero().flatten().tolist()
    more = f", and {len(latents) - 2} more latents" if len(latents) > 2 else ""
    return ", ".join(ties.words(latent) for latent in latents[:2]) + more


def refuse_ties(method: str, z_q: torch.Tensor | None, z_p: torch.Tensor | None, *, repeats: bool = True) -> None:
    """Raise InputError where codes of q or p, (m, D), take few values, have an atom, or, with `repeats`, repeat each other."""
    for name, z in (("q", z_q), ("p", z_p)):
        if z is None:
            continue
        ties = Ties.of(z)
        odd = ties.coarse | ties.atoms
        if odd.any():
            what = f"{name}'s are discrete ({_some(ties, odd)})"
        elif repeats and ties.repeated > REPEATED:
            what = f"{ties.repeated:.1%} of {name}'s repeat another one, as rounded numbers do"
        else:
            continue
        raise InputError(
            f"{method} measures distances between codes, and {what}: use --methods classifier, drop such latents from q and p, "
            "or give unrounded numbers."
        )


def shared_rows(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> int:
    """How many rows of ours are among theirs, 0 where no more than independent draws of discrete or rounded numbers have.

    Pairs that agree by chance are at most as frequent as the geometric mean of those within either side (Cauchy and Schwarz).

    Args:
        ours, theirs: A number for each row, equal for equal rows; shapes (N,) and (M,).
    """
    values, counts = np.unique(ours, return_counts=True)
    others, other_counts = np.unique(theirs, return_counts=True)
    common, i, j = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    if not len(common):
        return 0
    between = float((counts[i].astype(float) * other_counts[j]).sum())
    within = [float((c * (c - 1.0)).sum()) / (len(x) * (len(x) - 1.0)) for c, x in ((counts, ours), (other_counts, theirs))]
    chance = len(ours) * len(theirs) * (within[0] * within[1]) ** 0.5
    return int(counts[i].sum()) if between > 2 * chance + 4 * chance**0.5 else 0
