"""Tiles of exp(log q(z_i|x_n)), from which sums over whole data sets are streamed; no (M, N) matrix is ever in memory.

For diagonal Gaussians the same number is computed in one of three ways, chosen tile by tile from a-priori error bounds:

- *product*: the squared distances of a tile are one float64 matrix product, or, for very many latents, a sum of products
  over few of them, where the rounding error, bounded before anything is computed, stays below `PRODUCT_TOLERANCE`;
- *screen*: the product in float32, whose value plus its rounding error bounds a log-density from above. A term more
  than `log N + CUT` below a term already found is left out, which costs less than exp(-CUT) of the sum; the others,
  the survivors, are computed by differences in float64;
- *differences*: (z - mean) / std in float64 for every pair, which is right for any spread, and slow.

The component that a code was drawn from is kept apart, so that the leave-one-out density costs nothing and loses no digits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeGuard, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe.distributions.posteriors import LOG_2PI, DiagonalGaussian, exact_depth
from klprobe.runtime import parallel
from klprobe.types import CapabilityError, Posterior

Array = NDArray[np.float64]
Index = NDArray[np.int64]
T = TypeVar("T")

CUT = 30.0
"""Nats below the largest term, less log N, at which a term is left out; in all this is at most exp(-30), 1e-13, of the sum."""
ROWS, COLUMNS = 256, 2048
"""Number of codes and posteriors in a tile: 4 MB of float64, which stays in cache (measured: analyses/ours)."""
WAVE = 8
"""Number of chunks between two updates of the reference, fixed so that no bit depends on the number of threads."""
DENSE_SHARE = 0.04
"""Share of survivors above which the product is cheaper than evaluating them one by one."""
DEVICE_TILE = 8192
"""Number of codes and of posteriors in a tile on a GPU: 512 MB of float64."""
UNIT_ROUNDOFF_32 = 2.0**-24
LARGEST_32, UNDERFLOW_32 = 1e30, 1e-4
"""Largest feature, and weight, for which the screen is used; error in nats that weights below 1e-38 can cause in float32."""
PAIRS_AT_ONCE = 1 << 13
"""Number of survivors evaluated together, which limits memory."""


def is_tiled(posterior: Posterior) -> TypeGuard[DiagonalGaussian]:
    """Whether these are diagonal Gaussians in the CPU's memory, which use the tiles below; all others go through torch."""
    return isinstance(posterior, DiagonalGaussian) and posterior.mean.device.type == "cpu"


def need_density(posterior: Posterior) -> None:
    """Raise CapabilityError where the posterior has no density."""
    if not posterior.has_log_prob:
        raise CapabilityError(
            "The density of the aggregate posterior needs log q(z|x), but this encoder only gives samples. "
            "Use --methods classifier gmm maf lstm, or load an encoder that returns mean and logvar."
        )


def _our_share(num_points: int, columns: int, shared: bool) -> range:
    """First columns of the chunks that this process visits, which are all or a share of them."""
    rank, size = parallel.rank_and_size() if shared else (0, 1)
    return range(rank * columns, num_points, size * columns)


def matrices(
    posterior: Posterior, z: torch.Tensor, own: torch.Tensor | None, *, shared: bool
) -> Iterable[tuple[int, slice, torch.Tensor]]:
    """Yield tiles (first column, rows, log q(z_i|x_n)) of any posterior on any device, with left-out components at -inf."""
    on_device = z.device.type != "cpu"
    columns = min(DEVICE_TILE if on_device else 1024, posterior.num_points)
    height = DEVICE_TILE if on_device else max(1, (1 << 21) // (columns * posterior.dim))
    for start in _our_share(posterior.num_points, columns, shared):
        indices = torch.arange(start, min(start + columns, posterior.num_points))
        for top in range(0, len(z), height):
            block = slice(top, min(top + height, len(z)))
            matrix = posterior.log_prob_matrix(z[block], indices)
            if posterior.weights is not None:
                matrix = matrix + posterior.weights[indices].log().to(matrix.device)
            if own is not None:
                for column in (own[block].to(z.device) - start).reshape(len(matrix), -1).T:
                    inside = ((column >= 0) & (column < matrix.shape[1])).nonzero().flatten()
                    matrix[inside, column[inside]] = -math.inf
            yield start, block, matrix


def _leave_out(matrix: NDArray[np.floating], column: Index) -> None:
    """Set each row's own columns, shape (rows, k), to -inf where they lie in this tile."""
    row, place = np.nonzero((column >= 0) & (column < matrix.shape[1]))
    matrix[row, column[row, place]] = -np.inf


class Rows:
    """The codes, prepared once: centred, squared, in both precisions."""

    def __init__(self, q: DiagonalGaussian, z: torch.Tensor, own: Index) -> None:
        self.z, self.own = z.cpu().double().numpy(), own.reshape(len(z), -1)
        self.cut = CUT + math.log(q.num_points)
        self.centre = _centre(q)
        shifted = self.z - self.centre
        self.features = np.concatenate([shifted**2, shifted, np.ones((len(z), 1))], 1)
        with np.errstate(over="ignore"):
            self.features32 = self.features.astype(np.float32)

    def blocks(self) -> Iterable[slice]:
        """Slices of `ROWS` rows."""
        return (slice(top, min(top + ROWS, len(self.z))) for top in range(0, len(self.z), ROWS))


def _centre(q: DiagonalGaussian) -> Array:
    """A point in the middle of the means; subtracting it loses nothing and makes the rounding error of products smaller."""
    some = torch.arange(0, q.num_points, max(1, q.num_points // 4096))
    return q.rows(some)[0].mean(0).numpy()


def _rows(q: DiagonalGaussian, part: slice) -> tuple[Array, Array]:
    """Compute `q.rows` without torch, whose threads would compete with those of the pool that calls this."""
    mean, spread = q.mean[part].numpy().astype(np.float64), q.spread[part].numpy().astype(np.float64)
    if q.parametrization == "logvar":
        return mean, np.exp(0.5 * spread)
    return mean, np.sqrt(spread) if q.parametrization == "var" else spread


class Chunk:
    """Consecutive posteriors, prepared for products: log q(z|x_n) = features(z) @ weights[:, n]."""

    def __init__(self, q: DiagonalGaussian, start: int, rows: Rows) -> None:
        self.start = start
        self.mean, std = _rows(q, slice(start, start + COLUMNS))
        self.log_norm = -np.log(std).sum(1) - 0.5 * q.dim * LOG_2PI
        if q.weights is not None:
            self.log_norm += np.log(q.weights[start : start + COLUMNS].numpy())
        shifted = self.mean - rows.centre
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self.inverse = 1 / std
            precision = self.inverse**2
            linear = shifted * precision
            square = shifted * linear
            constant = self.log_norm - 0.5 * square.sum(1)
            self.weights = np.concatenate([(-0.5 * precision).T, linear.T, constant[None], np.ones((1, len(constant)))])
            self.weights32 = self.weights[:-1].astype(np.float32)  # its constants are written for each block
        self.magnitude = np.abs(self.weights[:-1])
        self.heaviest = self.magnitude.max(1)
        self.tile = np.empty((ROWS, len(self.mean)))  # reused for each block, because new memory costs as much as a product
        self.tile32 = np.empty((ROWS, len(self.mean)), np.float32)

    def evaluate(self, z: Array, row: Index, column: Index) -> Array:
        """log q(z_row|x_column) by differences, shape of `row`."""
        out = np.empty(len(row))
        for start in range(0, len(row), PAIRS_AT_ONCE):
            piece = slice(start, start + PAIRS_AT_ONCE)
            c = column[piece]
            difference = (z[row[piece]] - self.mean[c]) * self.inverse[c]
            out[piece] = self.log_norm[c] - 0.5 * np.einsum("ij,ij->i", difference, difference)
        return out


@dataclasses.dataclass(frozen=True)
class Tile:
    """exp(term - reference of its row): a whole matrix, or the (row, column) pairs that matter.

    A matrix uses its chunk's memory, and is valid until the next tile of the chunk.
    """

    shape: tuple[int, int]
    reference: Array
    weights: Array
    row: Index | None = None
    column: Index | None = None

    @property
    def is_dense(self) -> bool:
        """Whether it is a whole matrix."""
        return self.row is None

    @functools.cached_property
    def row_sums(self) -> Array:
        """Sums over columns of the weights."""
        if self.row is None:
            return self.weights @ np.ones(self.shape[1])
        return count(self.row, self.weights, self.shape[0])

    def column_sums(self) -> tuple[Array, Array]:
        """Sums over rows of the weights and of their squares."""
        if self.column is None:
            return self.weights.sum(0), np.einsum("ij,ij->j", self.weights, self.weights)
        return count(self.column, self.weights, self.shape[1]), count(self.column, self.weights**2, self.shape[1])

    def entries(self, least: float) -> tuple[Array, Index, Index]:
        """The weights above `least`, with the row and the column of each."""
        if self.row is None or self.column is None:
            row, column = np.divmod(np.flatnonzero(self.weights > least), self.shape[1])
            return self.weights[row, column], row, column
        keep = self.weights > least
        return self.weights[keep], self.row[keep], self.column[keep]


def finite(reference: Array) -> Array:
    """The reference, with 0 for rows in which nothing has been found, since exp(-inf - 0) = 0."""
    return np.where(np.isneginf(reference), 0.0, reference)


def count(index: Index, weights: Array, length: int) -> Array:
    """Sums of the weights by index, shape (length,)."""
    return np.bincount(index, weights, length).astype(np.float64, copy=False)


def tile_of(chunk: Chunk, rows: Rows, block: slice, floor: Array, screen: bool) -> Tile:
    """Compute the terms of one tile that can matter beside a sum of at least exp(floor)."""
    largest = np.abs(rows.features[block]).max(0)
    shape = (len(floor), len(chunk.mean))
    with np.errstate(over="ignore", invalid="ignore"):
        magnitude = largest @ chunk.magnitude
        # bounds: the largest features of any row with each column, or each row with the largest weights of any column
        most = min(magnitude.max(), (np.abs(rows.features[block]) @ chunk.heaviest).max())
        depth = exact_depth(most + np.abs(finite(floor)).max(), len(largest) + 1)
        if depth and not screen:
            return _dense(chunk, rows, block, floor, depth)
        slack = magnitude * (len(largest) + 6) * UNIT_ROUNDOFF_32
    own = rows.own[block] - chunk.start
    if not slack.max() < 1e30 or not max(largest.max(), chunk.heaviest.max()) <= LARGEST_32:
        every = np.zeros(shape)
        _leave_out(every, own)
        row, column = np.nonzero(every == 0)
    else:
        chunk.weights32[-1] = np.nextafter((chunk.weights[-2] + slack + UNDERFLOW_32).astype(np.float32), np.float32(np.inf))
        upper = np.matmul(rows.features32[block], chunk.weights32, out=chunk.tile32[: shape[0]])
        _leave_out(upper, own)
        best = upper.argmax(1)
        found = chunk.evaluate(rows.z[block], np.arange(shape[0]), best)
        floor = np.maximum(floor, np.where((own == best[:, None]).any(1), -np.inf, found))
        survives = upper > np.nextafter((floor - rows.cut).astype(np.float32), np.float32(-np.inf))[:, None]
        if depth and np.count_nonzero(survives) > DENSE_SHARE * survives.size:
            return _dense(chunk, rows, block, floor, depth)
        row, column = np.divmod(np.flatnonzero(survives), shape[1])
    values = chunk.evaluate(rows.z[block], row, column)
    reference = floor.copy()
    np.maximum.at(reference, row, values)
    return Tile(shape, reference, np.exp(values - reference[row]), row, column)


def _product(features: Array, weights: Array, depth: int, out: Array) -> Array:
    """Write features @ weights into `out`, `depth` terms of each sum at a time."""
    np.matmul(features[:, :depth], weights[:depth], out=out)
    for start in range(depth, len(weights), depth):
        out += features[:, start : start + depth] @ weights[start : start + depth]
    return out


def _dense(chunk: Chunk, rows: Rows, block: slice, floor: Array, depth: int) -> Tile:
    """Compute all terms of a tile by products of that depth, with the reference subtracted inside them."""
    own = rows.own[block] - chunk.start
    if np.isfinite(floor).all():
        features = np.concatenate([rows.features[block], -floor[:, None]], 1)
        matrix = _product(features, chunk.weights, depth, chunk.tile[: len(own)])
        _leave_out(matrix, own)
        with np.errstate(over="ignore"):
            tile = Tile(matrix.shape, floor, np.exp(matrix, out=matrix))
        if np.isfinite(tile.row_sums).all():
            return tile
    matrix = _product(rows.features[block], chunk.weights[:-1], depth, chunk.tile[: len(own)])
    _leave_out(matrix, own)
    reference = np.maximum(floor, matrix.max(1))
    matrix -= finite(reference)[:, None]
    return Tile(matrix.shape, reference, np.exp(matrix, out=matrix))


def waves(
    q: DiagonalGaussian,
    z: torch.Tensor,
    own: Index,
    visit: Callable[[Chunk, Rows, Array, bool], tuple[T, int]],
    floor: Array,
    *,
    threads: int | None,
    shared: bool,
) -> Iterable[tuple[list[T], int]]:
    """Visit all chunks, `WAVE` at a time, in parallel; yields each wave's results in order, and the columns done.

    `floor` holds a lower bound of each row's log-sum; the caller raises it in place between waves.
    """
    rows = Rows(q, z, own)
    tiles = len(list(rows.blocks()))
    starts, screen = _our_share(q.num_points, COLUMNS, shared), True
    with parallel.one_blas_thread(), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for first in range(0, len(starts), WAVE):
            wave, level = starts[first : first + WAVE], floor.copy()

            def work(start: int, level: Array = level, screen: bool = screen) -> tuple[T, int]:
                return visit(Chunk(q, start, rows), rows, level, screen)

            results = list(pool.map(work, wave))
            screen = screen and sum(dense for _, dense in results) < 0.5 * tiles * len(wave)
            yield [part for part, _ in results], min(wave[-1] + COLUMNS, q.num_points)
