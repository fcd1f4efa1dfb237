"""What leave-one-cluster-out densities lose with one cluster more, against a slow loop in float64."""

import math

import pytest
import torch

from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.clusters import all_clusters, with_rows
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.distributions.removal import AT_ONCE, cluster_losses, log_sum_outside


@pytest.mark.parametrize("std", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_whole_clusters_equal_a_slow_loop(std, weighted, monkeypatch):
    monkeypatch.setattr("klprobe.distributions.removal.AT_ONCE", 7)
    g = torch.Generator().manual_seed(0)
    n, m, d = 40, 30, 2
    mean = torch.randn(n, d, generator=g, dtype=torch.float64)
    groups = torch.randint(9, (n,), generator=g)
    weights = torch.rand(n, generator=g, dtype=torch.float64) + 0.1 if weighted else None
    q = with_rows(DiagonalGaussian(mean, std=torch.full_like(mean, std)), groups=groups, weights=weights)
    aggregate, clusters = AggregatePosterior(q), all_clusters(q)
    own = torch.randint(n, (m,), generator=g)
    z, ids = q.sample_at(own, g), clusters.ids
    log_sums = log_sum_outside(aggregate, clusters, z, ids[own])
    found = cluster_losses(aggregate, clusters, z, own, log_sums)

    w = torch.ones(n, dtype=torch.float64) if weights is None else weights / weights.mean()
    terms = torch.distributions.Normal(mean, std).log_prob(z[:, None, :]).sum(2) + w.log()
    losses = torch.zeros(m, clusters.count, dtype=torch.float64)
    for i in range(m):
        outside = ids != ids[own[i]]
        assert float(log_sums[i]) == pytest.approx(float(terms[i, outside].logsumexp(0)), abs=1e-9)
        whole = float(terms[i, outside].logsumexp(0)) - math.log(w[outside].sum())
        for h in range(clusters.count):
            rest = outside & (ids != h)
            if h != ids[own[i]]:
                losses[i, h] = whole - float(terms[i, rest].logsumexp(0)) + math.log(w[rest].sum())
    torch.testing.assert_close(found.sums, losses.sum(0), rtol=1e-9, atol=1e-9)
    assert found.squares == pytest.approx(float(losses.square().sum()), rel=1e-9)
    pairs = sum(float(losses[i] @ losses[j]) for i in range(m) for j in range(m) if i != j and own[i] == own[j])
    assert found.pairs == pytest.approx(pairs, rel=1e-9, abs=1e-12)
    assert AT_ONCE == 2048
