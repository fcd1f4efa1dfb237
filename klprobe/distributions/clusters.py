"""Rows that are not independent: those of one group, and copies of one data point, exact or but for rounding.

A copy of a row tells the leave-one-out density what the row itself would have told it, and a group's rows tell each other
much of it. What speaks of the population leaves out, splits and counts whole clusters: groups and copies joined.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe.distributions.families import row_parameters
from klprobe.distributions.posteriors import (
    ROWS_AT_ONCE,
    ConditionalDistribution,
    DiagonalGaussian,
    SampleOnly,
    TorchPosterior,
)
from klprobe.types import InputError, Posterior

Array = NDArray[np.float64]
Index = NDArray[np.int64]

NEAREST = tuple(10.0**-k for k in range(3, 10))
"""Distances, in the spread of the numbers, within which rows may be copies but for rounding: float16's and finer."""
GAP = 0.8
"""Share of the rows with a neighbour within ten times the distance that must have it within the distance: copies stand apart
from all other rows, and chance neighbours do not."""
COMPACT = 4.0
"""Distances from the first of its rows to any other, in a cluster of copies; in a chain of chance neighbours it is more."""
TOUCHING = 10.0
"""Standard deviations between two means, a latent, beyond which neither is in the other's way, whatever else they are."""
DIRECTIONS, NEIGHBOURS, LINKS = 6, 4, 16
"""Random directions that rows are compared along, and neighbours looked at: to find copies, and to link them."""
SEEN = 1e-4
"""Least spread of a latent's means, in posterior standard deviations: in a collapsed latent they differ by rounding alone."""
MISPLACED = 0.01
"""Largest share of q's mass that one point a cluster may put elsewhere than all points do."""
LOOKED_AT = 4096
"""Rows that tell the spread of the numbers."""
FIXED, RESOLVED = 1e-6, 1e-4
"""Least spread over magnitude: of numbers that are all the same among the rows looked at, and of others, where float32's own
rounding would be more than a thousandth of it."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which rows belong together.

    Attributes:
        ids: Cluster of each row, shape (N,), int64, counted from 0.
        copies: The same for copies alone, without the groups.
        grouped: Whether groups were given.
        within: Largest distance at which rows count as copies, in the spread of the numbers; 0 for exact ones alone.
    """

    ids: torch.Tensor
    copies: torch.Tensor
    grouped: bool
    within: float

    @functools.cached_property
    def count(self) -> int:
        """How many clusters."""
        return int(self.ids.max()) + 1

    @property
    def num_copies(self) -> int:
        """Rows that repeat another's posterior."""
        return len(self.copies) - int(self.copies.max()) - 1

    @property
    def alone(self) -> bool:
        """Whether every row is a cluster of its own."""
        return self.count == len(self.ids)

    @functools.cached_property
    def sizes(self) -> torch.Tensor:
        """Rows of each cluster, shape (count,)."""
        return torch.bincount(self.ids, minlength=self.count)

    @functools.cached_property
    def order(self) -> torch.Tensor:
        """Rows, cluster after cluster."""
        return self.ids.argsort(stable=True)

    @functools.cached_property
    def starts(self) -> torch.Tensor:
        """Where each cluster begins in `order`, shape (count + 1,)."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.sizes.cumsum(0)])

    def rows_of(self, ids: torch.Tensor) -> torch.Tensor:
        """All rows of each of some clusters, shape (m, k), -1 where a cluster has no more."""
        place = torch.arange(int(self.sizes[ids].max()))
        found = self.order[(self.starts[ids, None] + place).clamp(max=len(self.order) - 1)]
        return torch.where(place < self.sizes[ids, None], found, -1)


def all_clusters(posterior: Posterior) -> Clusters:
    """The clusters of its rows, each row by itself where nothing else is known."""
    if not isinstance(posterior, ConditionalDistribution):
        alone = torch.arange(posterior.num_points)
        return Clusters(alone, alone, False, 0.0)
    if posterior.clusters is None:
        posterior.clusters = _find(posterior)
    found: Clusters = posterior.clusters
    return found


def clusters_of(posterior: Posterior) -> Clusters | None:
    """The clusters of its rows; None where every row is one by itself."""
    found = all_clusters(posterior)
    return None if found.alone else found


def cluster_ids(posterior: Posterior, points: torch.Tensor) -> torch.Tensor:
    """What is counted as one where the population is spoken of: the points' clusters, or the points themselves."""
    found = clusters_of(posterior)
    return points if found is None else found.ids[points]


def one_of_each(posterior: Posterior, generator: torch.Generator, who: str) -> torch.Tensor:
    """All points in random order, one of each group or set of copies, for what needs independent points.

    Raises:
        InputError: groups so uneven that the points chosen are of another law than all points are.
    """
    order, clusters = torch.randperm(posterior.num_points, generator=generator), clusters_of(posterior)
    if clusters is None:
        return order
    misplaced = 0.5 * float((clusters.sizes / posterior.num_points - 1 / clusters.count).abs().sum())
    if misplaced > MISPLACED:
        raise InputError(
            f"{who} takes one point of each group or set of copies, and these have from {int(clusters.sizes.min()):,} to "
            f"{int(clusters.sizes.max()):,} points, so that {misplaced:.0%} of q would be misplaced: leave it out, or give "
            "groups of one size."
        )
    first = np.unique(clusters.ids[order].numpy(), return_index=True)[1]
    return order[torch.from_numpy(np.sort(first))]


def with_rows(posterior: Any, *, weights: torch.Tensor | None = None, groups: torch.Tensor | None = None) -> Any:
    """The same posterior, its rows weighed and grouped.

    Args:
        weights: Shape (N,), positive; only their ratios matter. None leaves them as they are.
        groups: Shape (N,), any numbers, equal for rows that are not independent of each other. None leaves them.
    Raises:
        InputError: another length, a weight that is not positive and finite, or fewer than 2 groups.
    """
    n = posterior.num_points
    for name, given in (("weights", weights), ("groups", groups)):
        if given is not None and tuple(given.shape) != (n,):
            raise InputError(f"{name} have one number for each of the N = {n:,} rows; got shape {tuple(given.shape)}.")
    changed = posterior.again()
    if weights is not None:
        w = weights.detach().cpu().double()
        if bad := int((~(w.isfinite() & (w > 0))).sum()):
            raise InputError(
                f"{bad:,} of {n:,} weights are zero, negative or not finite: leave rows without weight out of the file, and "
                "give the others positive numbers."
            )
        changed.weights = w / w.mean()
    if groups is not None:
        ids = torch.from_numpy(np.unique(groups.detach().cpu().numpy(), return_inverse=True)[1].reshape(-1).astype(np.int64))
        if int(ids.max()) == 0:
            raise InputError(f"All {n:,} rows are of one group: nothing is left of q(z) without it. Give at least 2 groups.")
        changed.groups = ids
    changed.clusters = None
    return changed


def in_words(groups: torch.Tensor | None, weights: torch.Tensor | None) -> str:
    """What was said of the rows, in a sentence."""
    words = []
    if groups is not None:
        count = len(groups.unique())
        words.append(f"{count:,} groups of points, left out, split and counted whole")
    if weights is not None:
        words.append(f"weights that leave {worth(weights.double()):,.0f} points of equal weight")
    return " and ".join(words)


def by_weight(weights: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Rows drawn independently, in proportion to their weights; shape (count,)."""
    edges = weights.cumsum(0)
    chance = torch.rand(count, generator=generator, dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, chance, right=True).clamp(max=len(weights) - 1)


def entropy(weights: torch.Tensor) -> float:
    """Entropy of the weights divided by their sum, in nats."""
    share = weights / weights.sum()
    return 0.0 - float(torch.xlogy(share, share).sum())  # 0, and not -0


def most_information(posterior: Posterior) -> float:
    """The most mutual information that the rows can show: log N, or the entropy of their weights, copies taken together."""
    found, weights = clusters_of(posterior), posterior.weights
    if weights is None and (found is None or not found.num_copies):
        return math.log(posterior.num_points)
    weights = torch.ones(posterior.num_points, dtype=torch.float64) if weights is None else weights
    if found is not None and found.num_copies:
        weights = torch.zeros(int(found.copies.max()) + 1, dtype=torch.float64).index_add_(0, found.copies, weights)
    return entropy(weights)


def worth(weights: torch.Tensor) -> float:
    """Rows of equal weight that give a mean of the same error (Kish 1965)."""
    return float(weights.sum() ** 2 / weights.square().sum())


def row_hashes(columns: list[torch.Tensor]) -> NDArray[np.uint64]:
    """64 bits for each row of tensors of shape (N, ...), the same for rows that are equal bit by bit as float64."""
    hashes = []
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        total = np.zeros(min(ROWS_AT_ONCE, len(columns[0]) - start), np.uint64)
        for k, tensor in enumerate(columns):
            bits = (tensor[start : start + ROWS_AT_ONCE].double().cpu().contiguous() + 0.0).numpy().view(np.uint64)
            keys = np.random.default_rng(k).integers(1, 2**63, bits.shape[1], np.uint64) | np.uint64(1)
            mixed = (bits ^ (bits >> np.uint64(29))) * keys
            total += ((mixed ^ (mixed >> np.uint64(32))) * keys).sum(1, dtype=np.uint64)
        hashes.append(total)
    return np.concatenate(hashes)


def _find(posterior: ConditionalDistribution) -> Clusters:
    """Copies, exact and near, joined with the groups."""
    n, within = posterior.num_points, 0.0
    columns = _columns(posterior)
    copies: Index = np.arange(n)
    if columns:
        _, first, copies = np.unique(row_hashes(columns), return_index=True, return_inverse=True)
        copies = copies.reshape(-1)
        near, within = _near(posterior, columns, first)
        copies = near[copies]
    ids = copies if posterior.groups is None else _joined(copies, posterior.groups.cpu().numpy())
    return Clusters(torch.from_numpy(ids), torch.from_numpy(copies), posterior.groups is not None, within)


def _columns(posterior: ConditionalDistribution) -> list[torch.Tensor]:
    """What says all of each row, each of shape (N, k); none where that is not known."""
    if isinstance(posterior, DiagonalGaussian):
        return [posterior.mean, posterior.spread]
    if isinstance(posterior, SampleOnly):
        return [posterior.samples]
    if not isinstance(posterior, TorchPosterior):
        return []
    found = row_parameters(posterior.distribution)
    if not found or any(len(t) != posterior.num_points for t in found):
        return []
    return [t.detach().flatten(1) for t in found]


def _joined(copies: Index, groups: Index) -> Index:
    """Clusters of rows that share a copy or a group, directly or through others."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes = int(copies.max()) + 1
    size = nodes + int(groups.max()) + 1
    graph = coo_matrix((np.ones(len(copies)), (copies, nodes + groups)), (size, size))
    labels = connected_components(graph, directed=False)[1][copies]
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


class _Numbers:
    """Rows as vectors in which copies lie near each other: means, logarithms of spreads, each in units of its own spread."""

    def __init__(self, posterior: ConditionalDistribution, columns: list[torch.Tensor]) -> None:
        self.posterior, self.columns = posterior, columns
        some = np.unique(np.linspace(0, posterior.num_points - 1, LOOKED_AT).astype(np.int64))
        values = self._plain(np.random.default_rng(0).permutation(some))
        steps = np.abs(np.diff(values, axis=0))
        steps[steps == 0] = np.nan
        varies = np.isfinite(steps).any(0)
        self.centre = np.median(values, 0)
        magnitude = np.median(np.abs(values), 0)
        self.unit = np.maximum(FIXED * magnitude, np.finfo(np.float64).tiny)  # what never varies is no copy where it does
        self.unit[varies] = np.maximum(np.nanmedian(steps[:, varies], 0), RESOLVED * magnitude[varies])
        if isinstance(posterior, DiagonalGaussian):
            std = posterior.rows(torch.from_numpy(some))[1].median(0).values.cpu().numpy()
            self.unit[: posterior.dim] = np.maximum(self.unit[: posterior.dim], SEEN * std)

    def _plain(self, rows: Index) -> Array:
        index = torch.from_numpy(rows)
        if isinstance(self.posterior, DiagonalGaussian):
            mean, std = self.posterior.rows(index)
            return np.concatenate([mean.cpu().numpy(), np.log(std.cpu().numpy())], 1)
        return torch.cat([t[index.to(t.device)].double().cpu() for t in self.columns], 1).numpy()

    def seen_along(self, rows: Index, directions: Array) -> Array:
        """Rows along some directions, shape (m, directions)."""
        blocks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
        return np.concatenate([((self._plain(block) - self.centre) / self.unit) @ directions for block in blocks])

    def distances(self, one: Index, other: Index) -> Array:
        """Root mean square over the numbers, of pairs of rows; infinite where two posteriors do not touch."""
        found = np.empty(len(one))
        for start in range(0, len(one), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            difference = (self._plain(one[part]) - self._plain(other[part])) / self.unit
            found[part] = np.sqrt(np.square(difference).mean(1))
            if isinstance(self.posterior, DiagonalGaussian):
                (mean, std), (mean_2, std_2) = (self.posterior.rows(torch.from_numpy(r[part])) for r in (one, other))
                apart = ((mean - mean_2) / torch.minimum(std, std_2)).square().mean(1).sqrt().cpu().numpy()
                found[part][apart > TOUCHING] = np.inf
        return found


def _near(posterior: ConditionalDistribution, columns: list[torch.Tensor], first: Index) -> tuple[Index, float]:
    """Clusters of rows that are equal but for rounding, among rows that are not equal, and how near they are.

    Args:
        first: The rows to compare, no two of them equal.
    Returns:
        Cluster of each of them, counted from 0, and the distance within which they are.
    """
    alone = np.arange(len(first)), 0.0
    blocks = (t[start : start + ROWS_AT_ONCE] for t in columns for start in range(0, len(t), ROWS_AT_ONCE))
    if len(first) < 3 or not all(bool(torch.isfinite(block).all()) for block in blocks):
        return alone
    with np.errstate(all="ignore"):  # spreads that are none are refused elsewhere
        numbers = _Numbers(posterior, columns)
        width = len(numbers.unit)
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(width, min(DIRECTIONS, width))))[0]
        seen = numbers.seen_along(first, turn)
        if not np.isfinite(seen).all():
            return alone
        reach = 20 * NEAREST[0] * math.sqrt(turn.shape[1])
        one, other = _neighbours(seen, np.arange(len(first)), NEIGHBOURS, reach)
        nearest = np.full(len(first), np.inf)
        np.minimum.at(nearest, one, numbers.distances(first[one], first[other]))
    counts = [np.count_nonzero(nearest <= scale * NEAREST[0]) for scale in 10.0 ** -np.arange(-1, len(NEAREST))]
    for i, within in enumerate(NEAREST):
        # apart from the rest by a gap, and no nearer scale shows most of them as well
        finer = counts[i + 2] if i + 2 < len(counts) else 0
        if counts[i + 1] < max(GAP * counts[i], 1) or finer > GAP * counts[i + 1]:
            continue
        within = min(10 * within, NEAREST[0])  # the few that lie in the tail
        some = np.flatnonzero(nearest <= within)
        one, other = _neighbours(seen, some, LINKS + 1, reach)
        linked = numbers.distances(first[one], first[other]) <= within
        labels = _joined_pairs(len(first), one[linked], other[linked])
        leader = np.unique(labels, return_index=True)[1][labels]
        away = np.flatnonzero(leader != np.arange(len(first)))
        if (numbers.distances(first[away], first[leader[away]]) <= COMPACT * within).all():
            return labels, within
    return alone


def _neighbours(seen: Array, some: Index, count: int, reach: float) -> tuple[Index, Index]:
    """Pairs of neighbouring rows among some of them, by what is seen of them."""
    from scipy.spatial import cKDTree

    tree = cKDTree(seen[some], balanced_tree=False, compact_nodes=False)
    found = tree.query(seen[some], k=min(count, len(some)), distance_upper_bound=reach)[1].reshape(len(some), -1)
    one = np.repeat(np.arange(len(some)), found.shape[1])
    other = found.ravel()
    real = (other < len(some)) & (other != one)
    return some[one[real]], some[other[real]]


def _joined_pairs(count: int, one: Index, other: Index) -> Index:
    """Clusters of rows that the pairs link, numbered by their first row."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    labels = connected_components(coo_matrix((np.ones(len(one)), (one, other)), (count, count)), directed=False)[1]
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
