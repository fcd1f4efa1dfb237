"""What leave-one-out densities lose when one more component is left out, which error bars need for each point's component."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from klprobe.distributions import tiles
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.tiles import Array, Index
from klprobe.runtime import parallel

SMALL_SHARE = 1e-3
"""Share w of a sum below which -log(1 - w) is replaced by w, with a relative error below 1 in 2,000."""


class RemovalLosses(NamedTuple):
    """Sums of the losses g_in, in nats, of the log-density of code i when component n is left out.

    Attributes:
        sums: The sums over codes, sum_i g_in, shape (N,).
        squares: The sum of squares, sum_n sum_i g_in^2.
        pairs: The sum over n of g_in g_jn over ordered pairs of different codes i, j of one component; terms of components
            with shares below `SMALL_SHARE` are left out.
    """

    sums: torch.Tensor
    squares: float
    pairs: float


def removal_losses(aggregate: AggregatePosterior, z: torch.Tensor, own: torch.Tensor, log_sums: torch.Tensor) -> RemovalLosses:
    """Compute how many nats the codes' leave-one-out log-densities lose when one more component is left out.

    With w_in = q(z_i|x_n) / sum_{j != own_i} q(z_i|x_j), leaving out n != own_i as well costs g_in = -log(1 - w_in); a
    component that carries most of a sum gets a sum without it, so that no digits cancel.

    Args:
        aggregate: Aggregate posterior of a posterior with a density.
        z: Codes, shape (m, D).
        own: Component of each code, shape (m,).
        log_sums: Values of `aggregate.log_sum(z, own)`, shape (m,).
    """
    posterior, threads, shared = aggregate.posterior, aggregate.threads, aggregate.shared
    tiles.need_density(posterior)
    nothing = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)  # a process without a share has these alone
    large: list[tuple[Array, Index, Index]] = [nothing]  # in the order of chunks, so that sums round alike
    sums, squares = np.zeros((2, posterior.num_points))

    def gather(tile: tiles.Tile, top: int, start: int) -> tuple[Array, Index, Index]:  # one thread writes a span of columns
        share, row, column = tile.entries(SMALL_SHARE)
        span = slice(start, start + tile.shape[1])
        sums[span] += tile.column_sums()[0]
        squares[span] += tile.column_sums()[1]
        return share, row + top, column + start

    if tiles.is_tiled(posterior):

        def visit(
            chunk: tiles.Chunk, rows: tiles.Rows, floor: Array, screen: bool
        ) -> tuple[list[tuple[Array, Index, Index]], int]:
            found, dense = [], 0
            for block in rows.blocks():
                tile = tiles.tile_of(chunk, rows, block, floor[block], screen and not dense)
                found.append(gather(tile, block.start, chunk.start))
                dense += tile.is_dense
            return found, dense

        for parts, _ in tiles.waves(
            posterior, z, own.cpu().numpy(), visit, log_sums.cpu().numpy(), threads=threads, shared=shared
        ):
            for part in parts:
                large += part
    else:
        for start, block, matrix in tiles.matrices(posterior, z, own, shared=shared):
            shares = torch.exp(matrix - log_sums[block, None]).cpu().numpy()
            large.append(gather(tiles.Tile(shares.shape, np.zeros(0), shares), block.start, start))
    share, row, column = (np.concatenate(parts) for parts in zip(*large, strict=True))
    loss = _losses(aggregate, z, own, log_sums, share, row, column)
    squares_of_small = squares.sum() - (share**2).sum()
    together = tiles.count(np.unique(own.cpu().numpy()[row] * len(sums) + column, return_inverse=True)[1], loss, len(loss))
    totals = np.array([squares_of_small + (loss**2).sum(), (together**2).sum() - (loss**2).sum()])
    sums += tiles.count(column, loss - share, len(sums))
    squared, paired = _added_up(torch.from_numpy(totals), shared).tolist()
    return RemovalLosses(_added_up(torch.from_numpy(sums), shared), squared, paired)


def _added_up(ours: torch.Tensor, shared: bool) -> torch.Tensor:
    """The sum over all processes that share the work."""
    return parallel.add_up(ours) if shared else ours


def _losses(
    aggregate: AggregatePosterior,
    z: torch.Tensor,
    own: torch.Tensor,
    log_sums: torch.Tensor,
    share: Array,
    row: Index,
    column: Index,
) -> Array:
    """Compute -log(1 - w) of the given shares w; above one half, from a sum without that component."""
    loss = -np.log1p(-np.minimum(share, 0.5))
    if aggregate.posterior.num_points == 2:
        return loss  # no component is left when both are left out
    main = np.full(len(z), -1)
    main[row[share > 0.5]] = column[share > 0.5]
    everywhere = parallel.gather(torch.from_numpy(main)) if aggregate.shared else [torch.from_numpy(main)]
    main = np.maximum.reduce([part.numpy() for part in everywhere])
    without = np.flatnonzero(main >= 0)
    if len(without):
        both = torch.stack([own.cpu()[without], torch.from_numpy(main[without])], 1).to(z.device)
        lost = np.zeros(len(z))
        lost[without] = (log_sums[without] - aggregate.log_sum(z[without], both)).cpu().numpy()
        loss = np.where(share > 0.5, lost[row], loss)
    return loss
