"""What leave-one-out densities lose when one more component is left out, which error bars need for each point's component."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from klprobe.distributions import tiles
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.clusters import Clusters
from klprobe.distributions.tiles import Array, Index
from klprobe.runtime import parallel
from klprobe.types import Posterior

AT_ONCE = 2048
"""Rows whose clusters' shares are evaluated together: bounds memory."""
INDICES = 1 << 23
"""Rows named together that are left out: bounds memory."""
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


def log_sum_outside(
    aggregate: AggregatePosterior,
    clusters: Clusters,
    z: torch.Tensor,
    *left_out: torch.Tensor,
) -> torch.Tensor:
    """`aggregate.log_sum` of the components outside some clusters of each draw, shape (m,).

    Args:
        z: Codes, shape (m, D).
        left_out: Clusters that are left out, each of shape (m,).
    """
    found = [torch.zeros(0, dtype=torch.float64, device=z.device)]
    widest = int(sum(clusters.sizes[some].max() for some in left_out)) if len(z) else 1
    for some in torch.arange(len(z)).split(max(INDICES // widest, 1)):
        rows = torch.cat([clusters.rows_of(ids[some]) for ids in left_out], 1)
        found.append(aggregate.log_sum(z[some.to(z.device)], rows))
    return torch.cat(found)


def cluster_losses(
    aggregate: AggregatePosterior, clusters: Clusters, z: torch.Tensor, own: torch.Tensor, log_sums: torch.Tensor
) -> RemovalLosses:
    """The same where whole clusters are left out: each draw's own, and one cluster more.

    With w_ih the share of cluster h in the sum at draw i, leaving it out costs -log(1 - w_ih), and the mixture of what is left
    has less mass to be divided by: g_ih = -log(1 - w_ih) + log(1 - W_h / W_i), W_h the weight of cluster h, W_i that of all
    but the draw's own. The shares are evaluated in blocks of whole clusters, all terms of them.

    Args:
        aggregate: The aggregate of a posterior with a density.
        z: Codes, shape (m, D); `own` the rows that they were drawn at, shape (m,), on the CPU.
        log_sums: What `log_sum_outside` gave for the draws' own clusters, shape (m,).
    Returns:
        `sums` and `squares` over clusters; `pairs` over draws at one row.
    """
    tiles.need_density(aggregate.posterior)
    ids, mass, home = clusters.ids, cluster_weights(aggregate.posterior, clusters), clusters.ids[own]
    left = aggregate.total - mass[home]
    rows, place = own.unique(return_inverse=True)
    sums, squares, pairs, first = torch.zeros(clusters.count, dtype=torch.float64), 0.0, 0.0, 0
    while first < clusters.count:
        begin = int(clusters.starts[first])
        last = max(int(torch.searchsorted(clusters.starts, begin + AT_ONCE, right=True)) - 1, first + 1)
        share = torch.zeros(len(z), last - first, dtype=torch.float64)
        for some in clusters.order[begin : int(clusters.starts[last])].split(AT_ONCE):
            terms = aggregate.posterior.log_prob_matrix(z, some).cpu() - log_sums[:, None]
            if aggregate.weights is not None:
                terms += aggregate.weights[some].log()
            share.index_add_(1, ids[some] - first, terms.exp_())
        loss = -torch.log1p(-share.clamp(max=0.5))
        large = (share > 0.5).nonzero()  # from a sum without that cluster, so that no digits cancel
        large = large[(large[:, 1] + first != home[large[:, 0]]) & (left[large[:, 0]] > mass[large[:, 1] + first])]
        if len(large):
            draw, cluster = large.T
            without = log_sum_outside(aggregate, clusters, z[draw.to(z.device)], home[draw], cluster + first).cpu()
            loss[draw, cluster] = log_sums[draw] - without
        loss += torch.log1p(-(mass[first:last] / left[:, None]).clamp(max=0.5))
        inside = ((home >= first) & (home < last)).nonzero().flatten()
        loss[inside, home[inside] - first] = 0.0
        sums[first:last] = loss.sum(0)
        square = float(loss.square().sum())
        squares += square
        pairs += float(torch.zeros(len(rows), last - first).double().index_add_(0, place, loss).square().sum()) - square
        first = last
    return RemovalLosses(sums, squares, pairs)


def cluster_weights(posterior: Posterior, clusters: Clusters) -> torch.Tensor:
    """What the rows of each cluster weigh together, shape (count,); all rows weigh N."""
    if posterior.weights is None:
        return clusters.sizes.double()
    return torch.zeros(clusters.count, dtype=torch.float64).index_add_(0, clusters.ids, posterior.weights)
