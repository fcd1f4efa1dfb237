import math
import random
import time

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from klprobe.distributions import removal, tiles
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.posteriors import DEPTH, DiagonalGaussian, as_posterior, exact_depth


def log_sum_others(q, z, own, threads=None):
    return AggregatePosterior(q, threads=threads).log_sum(z, own)


def removal_losses(q, z, own, log_sums, threads=None):
    return removal.removal_losses(AggregatePosterior(q, threads=threads), z, own, log_sums)


def brute_force(q, z, own):
    """log sum_{n != own} q(z|x_n) by differences in float64, one latent at a time."""
    mean, std = q.rows(slice(None))
    norm = -std.log().sum(1) - 0.5 * q.dim * math.log(2 * math.pi)
    rows = []
    for i, row in enumerate(z):
        logits = norm - 0.5 * ((row - mean) / std).square().sum(1)
        if own is not None:
            logits[own[i]] = -math.inf
        rows.append(torch.logsumexp(logits, 0))
    return torch.stack(rows)


def posterior(n, d, seed, log_std=(-1.5, 0.5), reach=2.0):
    g = torch.Generator().manual_seed(seed)
    mean = (torch.rand(n, d, generator=g, dtype=torch.float64) * 2 - 1) * reach
    low, high = log_std
    return DiagonalGaussian(mean, std=torch.exp(low + (high - low) * torch.rand(n, d, generator=g, dtype=torch.float64)))


def draw(q, m, seed=1):
    g = torch.Generator().manual_seed(seed)
    own = torch.randint(q.num_points, (m,), generator=g)
    return q.sample_at(own, g), own


@pytest.mark.parametrize("d", [1, 3, 24, 25, 70])
@pytest.mark.parametrize("log_std", [(-4.0, -3.0), (-1.5, 0.5), (0.0, 2.0)])
def test_log_density_equals_brute_force_whether_posteriors_overlap_or_not(d, log_std):
    q = posterior(2300, d, seed=d, log_std=log_std)
    z, own = draw(q, 300)
    torch.testing.assert_close(log_sum_others(q, z, own), brute_force(q, z, own), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(log_sum_others(q, z, None), brute_force(q, z, None), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("std", [1e-60, 1e-20, 1e-6, 1e-3, 1.0, 1e3, 1e60])
@pytest.mark.parametrize("reach", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_log_density_is_right_from_tiny_to_huge_spreads_and_means(std, reach, offset):
    """With deviations of 1e-20 their inverse squares leave float32, in which codes are screened."""
    offset, reach = (0.0, reach * std) if std < 1e-6 else (offset, reach)  # elsewhere draws would not show them
    g = torch.Generator().manual_seed(3)
    mean = offset + reach * torch.randn(1500, 6, generator=g, dtype=torch.float64)
    q = DiagonalGaussian(mean, std=std * (0.5 + torch.rand(1500, 6, generator=g, dtype=torch.float64)))
    z, own = draw(q, 100)
    found, expected = log_sum_others(q, z, own), brute_force(q, z, own)
    assert ((found - expected).abs() <= torch.clamp(1e-12 * expected.abs(), min=1e-6)).all()


def test_log_density_is_right_when_narrow_collapsed_and_heavy_latents_are_mixed():
    g = torch.Generator().manual_seed(4)
    std = 10 ** (torch.rand(2500, 12, generator=g, dtype=torch.float64) * 9 - 6)
    mean = torch.randn(2500, 12, generator=g, dtype=torch.float64) * 1e3
    mean[1250:] = mean[:1250] + std[:1250] * torch.randn(1250, 12, generator=g, dtype=torch.float64)
    q = DiagonalGaussian(mean, std=std)
    z, own = draw(q, 200)
    found, expected = log_sum_others(q, z, own), brute_force(q, z, own)
    assert ((found - expected).abs() <= torch.clamp(1e-12 * expected.abs(), min=1e-6)).all()


@pytest.mark.parametrize("screen_everything", [True, False])
def test_the_screen_and_the_product_give_the_same_density(monkeypatch, screen_everything):
    monkeypatch.setattr(tiles, "DENSE_SHARE", 2.0 if screen_everything else -1.0)
    q = posterior(5000, 8, seed=2)
    z, own = draw(q, 300)
    torch.testing.assert_close(log_sum_others(q, z, own), brute_force(q, z, own), rtol=1e-12, atol=1e-9)


def test_sums_over_very_many_latents_are_added_up_in_parts_that_keep_their_digits():
    """A worst case of 2,002 terms at once would lose more than 5e-10 nats, and differences took 40 times as long."""
    assert exact_depth(2.0, 102) == 102
    assert exact_depth(4500.0, 2002) == DEPTH
    assert exact_depth(1e7, 2002) == 0
    q = posterior(300, 1000, seed=6, log_std=(0.0, 0.1), reach=0.05)
    z, own = draw(q, 60)
    rows = tiles.Rows(q, z, own.numpy())
    tile = tiles.tile_of(tiles.Chunk(q, 0, rows), rows, slice(0, 60), np.full(60, -np.inf), False)
    assert tile.is_dense
    expected = brute_force(q, z, own)
    torch.testing.assert_close(torch.from_numpy(tile.reference + np.log(tile.row_sums)), expected, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(log_sum_others(q, z, own), expected, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(q.log_prob_matrix(z, own).diagonal(), q.log_prob_at(z, own), rtol=1e-12, atol=1e-9)


def test_no_bit_depends_on_the_number_of_threads():
    q = posterior(20_000, 5, seed=5)
    z, own = draw(q, 300)
    assert torch.equal(log_sum_others(q, z, own, threads=1), log_sum_others(q, z, own, threads=3))


@pytest.mark.parametrize("share", [0.04, 2.0])
def test_removal_losses_keep_every_bit_in_whatever_order_their_threads_end(monkeypatch, share):
    """Each of 51 calls has its own pauses before the tiles, so that chunks end in another order; by products and by pairs."""
    monkeypatch.setattr(tiles, "COLUMNS", 64)
    monkeypatch.setattr(tiles, "DENSE_SHARE", share)
    q = posterior(700, 3, seed=9)
    z, own = draw(q, 60)
    log_sums = log_sum_others(q, z, own)
    tile, pauses, ended = tiles.tile_of, random.Random(0), []

    def late(chunk, *rest):
        time.sleep(0.002 * pauses.random())
        ended.append(chunk.start)
        return tile(chunk, *rest)

    monkeypatch.setattr(tiles, "tile_of", late)
    orders, found = set(), []
    for call in range(51):
        ended.clear()
        found.append(removal_losses(q, z, own, log_sums, threads=2 + call % 3))
        orders.add(tuple(ended))
    assert len(orders) > 25
    assert all(torch.equal(one.sums, found[0].sums) for one in found)
    assert {(one.squares, one.pairs) for one in found} == {(found[0].squares, found[0].pairs)}


def test_neither_tile_shape_nor_batch_changes_the_density(monkeypatch):
    q = posterior(3000, 4, seed=6)
    z, own = draw(q, 200)
    whole = log_sum_others(q, z, own)
    parts = torch.cat([log_sum_others(q, z[k : k + 7], own[k : k + 7]) for k in range(0, 200, 7)])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-11)
    monkeypatch.setattr(tiles, "ROWS", 13)
    monkeypatch.setattr(tiles, "COLUMNS", 77)
    torch.testing.assert_close(log_sum_others(q, z, own), whole, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("log_std", [(-1.5, 0.5), (-6.0, -5.0), (1.0, 2.0)])
def test_removal_losses_equal_brute_force(log_std):
    """From posteriors all alike to islands, where one neighbour carries a whole sum and leaving it out costs 10^5 nats."""
    diagonal = posterior(300, 3, seed=7, log_std=log_std)
    mean, std = diagonal.rows(slice(None))
    for q in (diagonal, as_posterior(MultivariateNormal(mean, scale_tril=torch.diag_embed(std)))):
        z, own = draw(q, 60)
        log_sums = log_sum_others(q, z, own)
        logits = q.log_prob_matrix(z, torch.arange(q.num_points))
        logits[torch.arange(len(z)), own] = -math.inf
        without = torch.stack([torch.logsumexp(logits.index_fill(1, torch.tensor([n]), -math.inf), 1) for n in range(300)], 1)
        loss = log_sums[:, None] - without
        found = removal_losses(q, z, own, log_sums)
        torch.testing.assert_close(found.sums, loss.sum(0), rtol=1e-3, atol=1e-9)
        assert found.squares == pytest.approx(float(loss.square().sum()), rel=2e-3)
        pairs = [float(loss[i] @ loss[j]) for i in range(60) for j in range(60) if i != j and own[i] == own[j]]
        assert found.pairs == pytest.approx(sum(pairs), rel=2e-3, abs=1e-3 * len(pairs))


def test_a_full_covariance_posterior_takes_the_general_path_to_the_same_density():
    diagonal = posterior(1500, 3, seed=8)
    mean, std = diagonal.rows(slice(None))
    full = as_posterior(MultivariateNormal(mean, scale_tril=torch.diag_embed(std)))
    z, own = draw(diagonal, 50)
    torch.testing.assert_close(log_sum_others(full, z, own), log_sum_others(diagonal, z, own), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("std", "reach"), [(0.3, 1.0), (1e-6, 1e3), (1e3, 1.0)])
def test_the_path_through_torch_that_accelerators_take_gives_the_same_density(monkeypatch, std, reach):
    g = torch.Generator().manual_seed(3)
    q = DiagonalGaussian(reach * torch.randn(1500, 6, generator=g).double(), std=std * torch.ones(1500, 6).double())
    z, own = draw(q, 100)
    tiled = log_sum_others(q, z, own)
    tiled_losses = removal_losses(q, z, own, tiled)
    monkeypatch.setattr(tiles, "is_tiled", lambda _: False)
    expected = brute_force(q, z, own)
    through_torch = log_sum_others(q, z, own)
    assert ((through_torch - expected).abs() <= torch.clamp(1e-12 * expected.abs(), min=1e-9)).all()
    torch.testing.assert_close(through_torch, tiled, rtol=1e-12, atol=1e-9)
    through_torch_losses = removal_losses(q, z, own, through_torch)
    torch.testing.assert_close(through_torch_losses.sums, tiled_losses.sums, rtol=1e-6, atol=1e-9)
    assert through_torch_losses[1:] == pytest.approx(tiled_losses[1:], rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("std", [1e-6, 0.3, 1e3])
def test_a_gpu_gives_the_density_of_the_cpu(std):
    g = torch.Generator().manual_seed(3)
    q = DiagonalGaussian(torch.randn(20_000, 6, generator=g).double(), std=std * torch.ones(20_000, 6).double())
    z, own = draw(q, 500)
    there = log_sum_others(q.to("cuda"), z.cuda(), own.cuda()).cpu()
    torch.testing.assert_close(there, log_sum_others(q, z, own), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("std", [1e15, 5e21])
def test_posteriors_too_wide_for_float32_give_the_density_of_float64(std):
    g = torch.Generator().manual_seed(0)
    q = DiagonalGaussian(torch.randn(700, 3, generator=g).double(), std=std * (1 + torch.rand(700, 3, generator=g).double()))
    z, own = draw(q, 40)
    torch.testing.assert_close(log_sum_others(q, z, own), brute_force(q, z, own), rtol=1e-12, atol=1e-9)


def test_a_point_far_from_every_other_has_a_finite_leave_one_out_density():
    mean = torch.zeros(3, 2, dtype=torch.float64)
    mean[2] = 1e6
    q = as_posterior(Independent(Normal(mean, torch.full_like(mean, 1e-3)), 1))
    z = mean[2:].clone()
    expected = math.log(2) - 1e6**2 / 1e-6 - 2 * math.log(1e-3) - math.log(2 * math.pi)
    assert float(log_sum_others(q, z, torch.tensor([2]))) == pytest.approx(expected, rel=1e-12)


def test_memory_mapped_posteriors_are_read_in_place(tmp_path):
    q = posterior(2000, 4, seed=9)
    for name, tensor in (("mean", q.mean), ("std", q.stddev)):
        np.save(tmp_path / f"{name}.npy", tensor.numpy())
    mapped = {name: torch.from_numpy(np.load(tmp_path / f"{name}.npy", mmap_mode="c")) for name in ("mean", "std")}
    z, own = draw(q, 30)
    assert torch.equal(log_sum_others(DiagonalGaussian(mapped["mean"], std=mapped["std"]), z, own), log_sum_others(q, z, own))


@pytest.mark.parametrize("below", [24.5, 27.5, 30.5, 33.0])
def test_what_the_screen_leaves_out_cannot_be_seen_in_twelve_digits(below):
    """One component lies at the code, the others so far away that together they are exp(-below) of its density."""
    n = 4000
    mean = torch.full((n, 1), math.sqrt(2 * (below + math.log(n))), dtype=torch.float64)
    mean[17] = 0
    z = torch.zeros(3, 1, dtype=torch.float64)
    found = log_sum_others(DiagonalGaussian(mean, std=torch.ones_like(mean)), z, None)
    known = -0.5 * math.log(2 * math.pi) + math.log1p((n - 1) / n * math.exp(-below))
    torch.testing.assert_close(found, torch.full_like(found, known), rtol=0, atol=1e-12)
