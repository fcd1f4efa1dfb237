"""log sum_n q(z|x_n) over a whole data set: exact, streamed, never an (M, N) or (M, N, D) tensor in memory.

Diagonal Gaussians take one of three ways to the same number, chosen tile by tile from a-priori error bounds:

- *product*: the squared distances of a tile as one float64 matrix product, or, of very many latents, as a sum of products
  over few of them, where its rounding error, bounded before anything is computed, stays below `PRODUCT_TOLERANCE`;
- *screen*: the product in float32, whose value plus its rounding error bounds a log-density from above. What lies more
  than `log N + CUT` below a term already found is left out, which costs less than exp(-CUT) of the sum; the survivors
  are evaluated by differences in float64;
- *differences*: (z - mean) / std in float64 for every pair, which is right for any spread, and slow.

A latent's own component is kept apart, so that the leave-one-out density is free and loses no digits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeGuard, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from klprobe.distributions.posteriors import LOG_2PI, DiagonalGaussian, exact_depth
from klprobe.runtime import parallel
from klprobe.types import CapabilityError, Posterior, Progress, no_progress

Array = NDArray[np.float64]
Index = NDArray[np.int64]
T = TypeVar("T")

CUT = 24.0
"""Nats below the largest term, less log N, at which a term is left out: in all at most exp(-24) = 4e-11 of the sum."""
ROWS, COLUMNS = 256, 2048
"""Latents and posteriors in a tile: 4 MB of float64, which stays in cache (measured: analyses/ours)."""
WAVE = 8
"""Column chunks between two updates of the reference: fixed, so that no bit depends on the number of threads."""
DENSE_SHARE = 0.04
"""Share of survivors above which the product is cheaper than evaluating them one by one."""
DEVICE_TILE = 8192
"""Latents and posteriors in a tile on an accelerator: 512 MB of float64."""
UNIT_ROUNDOFF_32 = 2.0**-24
SMALL_SHARE = 1e-3
"""Share w of a sum below which -log(1 - w) is w, to one part in 2,000."""
LARGEST_32, UNDERFLOW_32 = 1e30, 1e-4
"""Features up to which the screen is used; nats by which weights that vanish in float32, below 1e-38, can fail there."""
PAIRS_AT_ONCE = 1 << 13
"""Survivors evaluated together: bounds memory."""


def log_sum_others(
    posterior: Posterior,
    z: torch.Tensor,
    own: torch.Tensor | None,
    *,
    progress: Progress = no_progress,
    threads: int | None = None,
) -> torch.Tensor:
    """log sum_{n != own_i} q(z_i|x_n) for every latent, in nats, shape (m,), float64.

    Args:
        posterior: With a density; diagonal Gaussians take the fast path.
        z: Codes, shape (m, D).
        own: Index of the component to leave out of each row's sum, shape (m,), or of k components, shape (m, k); None
            leaves none out.
        progress: Called with the number of posteriors visited and N.
        threads: CPU threads; None means all. The result does not depend on it.

    Raises:
        CapabilityError: the posterior has no density.
    """
    _need_density(posterior)
    if not _is_tiled(posterior):
        running = torch.full((len(z),), -math.inf, dtype=torch.float64, device=z.device)
        for start, block, matrix in _matrices(posterior, z, own):
            running[block] = torch.logaddexp(running[block], torch.logsumexp(matrix, 1))
            progress(start + matrix.shape[1], posterior.num_points)
        return functools.reduce(torch.logaddexp, parallel.gather(running))
    left_out = np.full(len(z), -1) if own is None else own.cpu().numpy()
    sums = _LogSums(np.full(len(z), -np.inf), np.zeros(len(z)))

    def visit(chunk: _Chunk, rows: _Rows, floor: Array, screen: bool) -> tuple[_LogSums, int]:
        reference, total, dense = floor.copy(), np.zeros(len(floor)), 0
        for block in rows.blocks():
            tile = _tile(chunk, rows, block, reference[block], screen and not dense)
            old, reference[block] = reference[block].copy(), tile.reference
            total[block] *= np.exp(old - _finite(tile.reference))
            total[block] += tile.row_sums
            dense += tile.is_dense
        return _LogSums(reference, total), dense

    for parts, done in _waves(posterior, z, left_out, visit, sums.reference, threads):
        for part in parts:
            sums.reference[:], sums.total[:] = sums.plus(part)
        progress(done, posterior.num_points)
    return torch.from_numpy(_over_processes(sums).log())


def general_rate(posterior: Posterior) -> float | None:
    """Pairs (latent, posterior) a second on the general path, timed on one small tile; None on the fast path."""
    _need_density(posterior)
    if isinstance(posterior, DiagonalGaussian):
        return None
    points = torch.arange(min(256, posterior.num_points))
    z = posterior.sample_at(points[:16], torch.Generator().manual_seed(0))
    posterior.log_prob_matrix(z[:1], points[:1])  # the first call pays for what later ones find ready
    started = time.perf_counter()
    posterior.log_prob_matrix(z, points)
    return len(z) * len(points) / (time.perf_counter() - started)


class RemovalLosses(NamedTuple):
    """What `removal_losses` gives, with g_in the nats that latent i loses with component n.

    Attributes:
        sums: sum_i g_in, shape (N,).
        squares: sum_n sum_i g_in^2.
        pairs: sum_n of g_in g_jn over ordered pairs of different latents i, j of one component; terms of components
            with shares below `SMALL_SHARE` are left out.
    """

    sums: torch.Tensor
    squares: float
    pairs: float


def removal_losses(
    posterior: Posterior, z: torch.Tensor, own: torch.Tensor, log_sums: torch.Tensor, *, threads: int | None = None
) -> RemovalLosses:
    """Nats that the latents' leave-one-out log-densities lose when one component more is left out.

    With w_in = q(z_i|x_n) / sum_{j != own_i} q(z_i|x_j), leaving out n != own_i as well costs g_in = -log(1 - w_in); a
    component that carries most of a sum gets a sum without it, so that no digits cancel.

    Args:
        posterior: With a density.
        z: Codes, shape (m, D); `own` their components, shape (m,).
        log_sums: What `log_sum_others(posterior, z, own)` gave, shape (m,).
        threads: CPU threads; None means all. The result does not depend on it.
    """
    _need_density(posterior)
    large: list[tuple[Array, Index, Index]] = []  # in the order of the chunks, not of their threads: sums of it round alike
    sums, squares = np.zeros((2, posterior.num_points))

    def gather(tile: _Tile, top: int, start: int) -> tuple[Array, Index, Index]:  # a span of columns has one thread
        share, row, column = tile.entries(SMALL_SHARE)
        span = slice(start, start + tile.shape[1])
        sums[span] += tile.column_sums()[0]
        squares[span] += tile.column_sums()[1]
        return share, row + top, column + start

    if _is_tiled(posterior):

        def visit(chunk: _Chunk, rows: _Rows, floor: Array, screen: bool) -> tuple[list[tuple[Array, Index, Index]], int]:
            found, dense = [], 0
            for block in rows.blocks():
                tile = _tile(chunk, rows, block, floor[block], screen and not dense)
                found.append(gather(tile, block.start, chunk.start))
                dense += tile.is_dense
            return found, dense

        for parts, _ in _waves(posterior, z, own.cpu().numpy(), visit, log_sums.cpu().numpy(), threads):
            for part in parts:
                large += part
    else:
        for start, block, matrix in _matrices(posterior, z, own):
            shares = torch.exp(matrix - log_sums[block, None]).cpu().numpy()
            large.append(gather(_Tile(shares.shape, np.zeros(0), shares), block.start, start))
    share, row, column = (np.concatenate(parts) for parts in zip(*large, strict=True))
    loss = _losses(posterior, z, own, log_sums, share, row, column, threads)
    squares_of_small = squares.sum() - (share**2).sum()
    together = _count(np.unique(own.cpu().numpy()[row] * len(sums) + column, return_inverse=True)[1], loss, len(loss))
    totals = np.array([squares_of_small + (loss**2).sum(), (together**2).sum() - (loss**2).sum()])
    sums += _count(column, loss - share, len(sums))
    squared, paired = parallel.add_up(torch.from_numpy(totals)).tolist()
    return RemovalLosses(parallel.add_up(torch.from_numpy(sums)), squared, paired)


def _losses(
    posterior: Posterior,
    z: torch.Tensor,
    own: torch.Tensor,
    log_sums: torch.Tensor,
    share: Array,
    row: Index,
    column: Index,
    threads: int | None,
) -> Array:
    """-log(1 - w) of the shares w given; above one half from a sum without that component."""
    loss = -np.log1p(-np.minimum(share, 0.5))
    if posterior.num_points == 2:
        return loss  # nothing is left when both are left out
    main = np.full(len(z), -1)
    main[row[share > 0.5]] = column[share > 0.5]
    main = np.maximum.reduce([part.numpy() for part in parallel.gather(torch.from_numpy(main))])
    without = np.flatnonzero(main >= 0)
    if len(without):
        both = torch.stack([own.cpu()[without], torch.from_numpy(main[without])], 1).to(z.device)
        lost = np.zeros(len(z))
        lost[without] = (log_sums[without] - log_sum_others(posterior, z[without], both, threads=threads)).cpu().numpy()
        loss = np.where(share > 0.5, lost[row], loss)
    return loss


def _is_tiled(posterior: Posterior) -> TypeGuard[DiagonalGaussian]:
    """Diagonal Gaussians in the CPU's memory take the tiles below; everything else goes through torch."""
    return isinstance(posterior, DiagonalGaussian) and posterior.mean.device.type == "cpu"


def _need_density(posterior: Posterior) -> None:
    if not posterior.has_log_prob:
        raise CapabilityError(
            "The density of the aggregate posterior needs log q(z|x), but this encoder only gives samples. "
            "Use --methods classifier gmm maf lstm, or load an encoder that returns mean and logvar."
        )


class _LogSums(NamedTuple):
    """Sums of exponentials kept as exp(reference) * total, one entry a row."""

    reference: Array
    total: Array

    def plus(self, other: _LogSums) -> _LogSums:
        top = np.maximum(self.reference, other.reference)
        safe = _finite(top)
        return _LogSums(top, self.total * np.exp(self.reference - safe) + other.total * np.exp(other.reference - safe))

    def log(self) -> Array:
        with np.errstate(divide="ignore"):
            return self.reference + np.log(self.total)


def _over_processes(sums: _LogSums) -> _LogSums:
    """The sums over every process's share of the posteriors."""
    parts = parallel.gather(torch.from_numpy(np.stack(sums)))
    return functools.reduce(_LogSums.plus, (_LogSums(*part.numpy()) for part in parts))


def _our_share(num_points: int, columns: int) -> range:
    """First columns of the chunks that this process visits."""
    rank, size = parallel.rank_and_size()
    return range(rank * columns, num_points, size * columns)


def _matrices(posterior: Posterior, z: torch.Tensor, own: torch.Tensor | None) -> Iterable[tuple[int, slice, torch.Tensor]]:
    """(first column, rows, log q(z_i|x_n)) tiles of any posterior on any device, the left-out component at -inf."""
    on_device = z.device.type != "cpu"
    columns = min(DEVICE_TILE if on_device else 1024, posterior.num_points)
    height = DEVICE_TILE if on_device else max(1, (1 << 21) // (columns * posterior.dim))
    for start in _our_share(posterior.num_points, columns):
        indices = torch.arange(start, min(start + columns, posterior.num_points))
        for top in range(0, len(z), height):
            block = slice(top, min(top + height, len(z)))
            matrix = posterior.log_prob_matrix(z[block], indices)
            if own is not None:
                for column in (own[block].to(z.device) - start).reshape(len(matrix), -1).T:
                    inside = ((column >= 0) & (column < matrix.shape[1])).nonzero().flatten()
                    matrix[inside, column[inside]] = -math.inf
            yield start, block, matrix


def _leave_out(matrix: NDArray[np.floating], column: Index) -> None:
    """Set each row's own columns, shape (rows, k), to -inf where they lie in this tile."""
    for one in column.T:
        inside = np.flatnonzero((one >= 0) & (one < matrix.shape[1]))
        matrix[inside, one[inside]] = -np.inf


class _Rows:
    """The latents, prepared once: centred, squared, in both precisions."""

    def __init__(self, q: DiagonalGaussian, z: torch.Tensor, own: Index) -> None:
        self.z, self.own = z.cpu().double().numpy(), own.reshape(len(z), -1)
        self.cut = CUT + math.log(q.num_points)
        self.centre = _centre(q)
        shifted = self.z - self.centre
        self.features = np.concatenate([shifted**2, shifted, np.ones((len(z), 1))], 1)
        with np.errstate(over="ignore"):
            self.features32 = self.features.astype(np.float32)

    def blocks(self) -> Iterable[slice]:
        return (slice(top, min(top + ROWS, len(self.z))) for top in range(0, len(self.z), ROWS))


def _centre(q: DiagonalGaussian) -> Array:
    """A point amid the means: taking it off loses nothing and shrinks the product form's rounding error."""
    some = torch.arange(0, q.num_points, max(1, q.num_points // 4096))
    return q.rows(some)[0].mean(0).numpy()


def _rows(q: DiagonalGaussian, part: slice) -> tuple[Array, Array]:
    """`q.rows` without torch, whose threads would crowd those of the pool that calls this."""
    mean, spread = q.mean[part].numpy().astype(np.float64), q.spread[part].numpy().astype(np.float64)
    if q.parametrization == "logvar":
        return mean, np.exp(0.5 * spread)
    return mean, np.sqrt(spread) if q.parametrization == "var" else spread


class _Chunk:
    """Consecutive posteriors, prepared for products: log q(z|x_n) = features(z) @ weights[:, n]."""

    def __init__(self, q: DiagonalGaussian, start: int, rows: _Rows) -> None:
        self.start = start
        self.mean, std = _rows(q, slice(start, start + COLUMNS))
        self.log_norm = -np.log(std).sum(1) - 0.5 * q.dim * LOG_2PI
        shifted = self.mean - rows.centre
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self.inverse = 1 / std
            precision = self.inverse**2
            linear = shifted * precision
            square = shifted * linear
            constant = self.log_norm - 0.5 * square.sum(1)
            self.weights = np.concatenate([(-0.5 * precision).T, linear.T, constant[None], np.ones((1, len(constant)))])
            self.weights32 = self.weights[:-1].astype(np.float32)  # its constants are set anew for each block
        self.magnitude = np.abs(self.weights[:-1])
        self.heaviest = self.magnitude.max(1)
        self.tile = np.empty((ROWS, len(self.mean)))  # written anew for each block: fresh memory costs as much as a product
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
class _Tile:
    """exp(term - reference of its row): a whole matrix, or the (row, column) pairs that matter.

    A matrix lives in its chunk's memory, until the next tile of the chunk.
    """

    shape: tuple[int, int]
    reference: Array
    weights: Array
    row: Index | None = None
    column: Index | None = None

    @property
    def is_dense(self) -> bool:
        return self.row is None

    @functools.cached_property
    def row_sums(self) -> Array:
        if self.row is None:
            return self.weights @ np.ones(self.shape[1])
        return _count(self.row, self.weights, self.shape[0])

    def column_sums(self) -> tuple[Array, Array]:
        """Sums over rows of the weights and of their squares."""
        if self.column is None:
            return self.weights.sum(0), np.einsum("ij,ij->j", self.weights, self.weights)
        return _count(self.column, self.weights, self.shape[1]), _count(self.column, self.weights**2, self.shape[1])

    def entries(self, least: float) -> tuple[Array, Index, Index]:
        """The weights above `least`, with the row and the column of each."""
        if self.row is None or self.column is None:
            row, column = np.divmod(np.flatnonzero(self.weights > least), self.shape[1])
            return self.weights[row, column], row, column
        keep = self.weights > least
        return self.weights[keep], self.row[keep], self.column[keep]


def _finite(reference: Array) -> Array:
    """The reference, with 0 for rows in which nothing has been found: exp(-inf - 0) is the 0 they need."""
    return np.where(np.isneginf(reference), 0.0, reference)


def _count(index: Index, weights: Array, length: int) -> Array:
    return np.bincount(index, weights, length).astype(np.float64, copy=False)


def _tile(chunk: _Chunk, rows: _Rows, block: slice, floor: Array, screen: bool) -> _Tile:
    """The terms of one tile that can matter beside a sum of at least exp(floor)."""
    largest = np.abs(rows.features[block]).max(0)
    shape = (len(floor), len(chunk.mean))
    with np.errstate(over="ignore", invalid="ignore"):
        magnitude = largest @ chunk.magnitude
        # the largest features of any row with each column, or each row with the largest weights of any column
        most = min(magnitude.max(), (np.abs(rows.features[block]) @ chunk.heaviest).max())
        depth = exact_depth(most + np.abs(_finite(floor)).max(), len(largest) + 1)
        if depth and not screen:
            return _dense(chunk, rows, block, floor, depth)
        slack = magnitude * (len(largest) + 6) * UNIT_ROUNDOFF_32
    own = rows.own[block] - chunk.start
    if not slack.max() < 1e30 or largest.max() > LARGEST_32:
        row, column = (a.ravel() for a in np.indices(shape))
        keep = (own[row] != column[:, None]).all(1)
        row, column = row[keep], column[keep]
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
    return _Tile(shape, reference, np.exp(values - reference[row]), row, column)


def _product(features: Array, weights: Array, depth: int, out: Array) -> Array:
    """features @ weights into `out`, `depth` terms of each sum at a time."""
    np.matmul(features[:, :depth], weights[:depth], out=out)
    for start in range(depth, len(weights), depth):
        out += features[:, start : start + depth] @ weights[start : start + depth]
    return out


def _dense(chunk: _Chunk, rows: _Rows, block: slice, floor: Array, depth: int) -> _Tile:
    """All terms of a tile by products of that depth, the reference taken off inside them."""
    own = rows.own[block] - chunk.start
    if np.isfinite(floor).all():
        features = np.concatenate([rows.features[block], -floor[:, None]], 1)
        matrix = _product(features, chunk.weights, depth, chunk.tile[: len(own)])
        _leave_out(matrix, own)
        with np.errstate(over="ignore"):
            tile = _Tile(matrix.shape, floor, np.exp(matrix, out=matrix))
        if np.isfinite(tile.row_sums).all():
            return tile
    matrix = _product(rows.features[block], chunk.weights[:-1], depth, chunk.tile[: len(own)])
    _leave_out(matrix, own)
    reference = np.maximum(floor, matrix.max(1))
    matrix -= _finite(reference)[:, None]
    return _Tile(matrix.shape, reference, np.exp(matrix, out=matrix))


def _waves(
    q: DiagonalGaussian,
    z: torch.Tensor,
    own: Index,
    visit: Callable[[_Chunk, _Rows, Array, bool], tuple[T, int]],
    floor: Array,
    threads: int | None,
) -> Iterable[tuple[list[T], int]]:
    """Visit all chunks, `WAVE` at a time, in parallel; yields each wave's results in order, and the columns done.

    `floor` holds what each row's sum is known to exceed; the caller raises it in place between waves.
    """
    rows = _Rows(q, z, own)
    tiles = len(list(rows.blocks()))
    starts, screen = _our_share(q.num_points, COLUMNS), True
    with parallel.one_blas_thread(), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for first in range(0, len(starts), WAVE):
            wave, level = starts[first : first + WAVE], floor.copy()

            def work(start: int, level: Array = level, screen: bool = screen) -> tuple[T, int]:
                return visit(_Chunk(q, start, rows), rows, level, screen)

            results = list(pool.map(work, wave))
            screen = screen and sum(dense for _, dense in results) < 0.5 * tiles * len(wave)
            yield [part for part, _ in results], min(wave[-1] + COLUMNS, q.num_points)
