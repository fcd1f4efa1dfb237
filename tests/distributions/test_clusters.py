"""Copies and groups of rows: what belongs together, and what only looks like it."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from klprobe.distributions.clusters import (
    all_clusters,
    by_weight,
    clusters_of,
    entropy,
    most_information,
    with_rows,
    worth,
)
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior
from klprobe.types import InputError


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean, std=0.1):
    return DiagonalGaussian(mean, std=torch.full_like(mean, std))


@pytest.mark.parametrize("dim", [2, 4, 32])
@pytest.mark.parametrize("jitter", [0.0, 1e-8, 1e-6, 1e-4])
def test_a_second_copy_of_every_row_is_found_and_nothing_else(dim, jitter):
    once = normal(1000, dim)
    q = gaussian(torch.cat([once, once + jitter * normal(1000, dim, 1)]))
    found = clusters_of(q)
    assert found.num_copies == found.count == 1000
    assert torch.equal(found.ids[:1000], found.ids[1000:])
    assert (found.within > 0) == (jitter > 0)


@pytest.mark.parametrize("kind", ["samples", "full covariance", "half precision"])
def test_copies_are_found_whatever_the_rows_are(kind):
    once = normal(500, 3)
    twice = torch.cat([once, once + 1e-7])
    q = {
        "samples": SampleOnly(twice),
        "full covariance": as_posterior(MultivariateNormal(twice, scale_tril=0.1 * torch.eye(3).double())),
        "half precision": gaussian(torch.cat([once, once.half().double()])),
    }[kind]
    found = clusters_of(q)
    assert torch.equal(found.ids[:500], found.ids[500:])
    assert found.count == 500


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("num_points", [50, 3000])
def test_independent_rows_are_no_copies_however_dense_they_lie(dim, scale, num_points):
    assert clusters_of(gaussian(normal(num_points, dim) * scale, scale)) is None


def test_neither_an_outlier_nor_a_collapsed_latent_makes_copies_of_the_others():
    mean = normal(1000, 4)
    mean[7] = 1e9
    mean[:, 2] *= 1e-6
    assert clusters_of(gaussian(mean)) is None
    mean[20:40] = mean[20] + 1e-8 * normal(20, 4)
    found = clusters_of(gaussian(mean))
    assert found.num_copies == 19
    assert len(found.ids[20:40].unique()) == 1


def test_posteriors_too_narrow_to_touch_are_no_copies_however_near_their_means_are():
    once = normal(500, 3)
    assert clusters_of(gaussian(torch.cat([once, once + 1e-6]), 1e-9)) is None


def test_groups_that_share_a_copy_are_one_cluster():
    mean = normal(6, 2)
    mean[4] = mean[1]
    q = with_rows(gaussian(mean), groups=torch.tensor([7, 7, 3, 3, 9, 9]))
    found = clusters_of(q)
    assert found.ids[[0, 1, 4, 5]].unique().numel() == 1
    assert found.ids[2] == found.ids[3] != found.ids[0]
    assert found.grouped
    assert found.rows_of(found.ids[[2, 0]]).tolist() == [[2, 3, -1, -1], [0, 1, 4, 5]]


def test_rows_keep_their_groups_and_weights_when_some_are_chosen():
    q = with_rows(gaussian(normal(6, 2)), groups=torch.tensor([0, 0, 1, 1, 2, 2]), weights=torch.arange(1.0, 7.0))
    some = q.select(torch.tensor([5, 2, 3]))
    assert some.groups.tolist() == [2, 1, 1]
    torch.testing.assert_close(some.weights, torch.tensor([6.0, 3.0, 4.0]).double() / 3.5)
    assert all_clusters(some).count == 2
    assert gaussian(normal(6, 2)).weights is None


def test_weights_and_groups_that_cannot_be_are_refused_in_words():
    q = gaussian(normal(5, 2))
    for wrong in (torch.zeros(5), torch.tensor([1.0, 2.0, -1.0, 1.0, 1.0]), torch.full((5,), math.nan)):
        with pytest.raises(InputError, match="zero, negative or not finite"):
            with_rows(q, weights=wrong)
    with pytest.raises(InputError, match="one number for each of the N = 5 rows"):
        with_rows(q, weights=torch.ones(4))
    with pytest.raises(InputError, match="one group"):
        with_rows(q, groups=torch.zeros(5))


def test_rows_are_drawn_as_often_as_they_weigh():
    weights = torch.tensor([1.0, 0.0, 7.0, 2.0]).double()
    drawn = torch.bincount(by_weight(weights, 40_000, torch.Generator().manual_seed(0)), minlength=4) / 40_000
    assert drawn[1] == 0
    assert ((drawn - weights / 10).abs() < 4 * (0.25 / 40_000) ** 0.5).all()


def test_the_ceiling_of_information_is_the_entropy_of_weights_with_copies_taken_together():
    once = normal(50, 3)
    assert most_information(gaussian(once)) == math.log(50)
    assert most_information(gaussian(torch.cat([once, once]))) == pytest.approx(math.log(50))
    weights = torch.arange(1.0, 51.0).double()
    assert most_information(with_rows(gaussian(once), weights=weights)) == pytest.approx(entropy(weights))
    assert worth(torch.ones(50)) == pytest.approx(50)
    assert worth(torch.tensor([1.0, 1.0, 1e-9])) == pytest.approx(2)
