"""Each check finds what is right, by the way that it is named for, and finds what was spoiled."""

import functools

import numpy as np
import pytest
import torch

from klprobe.distributions import aggregate, control_variates, marginals, removal, tiles
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.estimation import known_answers as known

SMALL = {way: (600, 16) if case.latents < 100 else (200, 8) for way, case in known.WAYS.items()}


def right(result):
    return result.error <= result.allowed


@pytest.fixture
def ways_taken(monkeypatch):
    """How many terms of a product were added at once, of how many; and how many pairs were evaluated by differences."""
    depths, pairs = [], []
    product, evaluate = tiles._product, tiles.Chunk.evaluate

    def seen_product(features, weights, depth, out):
        depths.append((depth, len(weights)))
        return product(features, weights, depth, out)

    def seen_evaluate(self, z, row, column):
        pairs.append(len(row))
        return evaluate(self, z, row, column)

    monkeypatch.setattr(tiles, "_product", seen_product)
    monkeypatch.setattr(tiles.Chunk, "evaluate", seen_evaluate)
    return depths, pairs


@pytest.mark.parametrize("way", known.WAYS)
def test_each_case_is_right_and_takes_the_way_that_it_is_named_for(way, ways_taken):
    points, codes = SMALL[way]
    assert right(known.log_sums(known.WAYS[way], points, codes))
    depths, pairs = ways_taken
    others = codes * (points - 1)
    if way == "product":
        assert depths
        assert all(depth >= terms for depth, terms in depths)
    elif way == "product in parts":
        assert depths
        assert all(depth < terms for depth, terms in depths)
    elif way == "screen":
        assert not depths
        assert codes < sum(pairs) < 0.1 * others
    else:
        assert not depths
        assert sum(pairs) == others


@pytest.mark.parametrize("way", known.WAYS)
def test_torchs_matrix_is_right_too(way):
    assert right(known.log_sums_by_torch(known.WAYS[way], *SMALL[way]))


def products(dtype):
    return known.products(lambda a, b: (a.astype(dtype) @ b.astype(dtype)).astype(a.dtype), single=False)


CHECKS = {
    "full covariances": functools.partial(known.log_sums_of_covariances, 300, 20),
    "threads": functools.partial(known.threads, 5000, 40),
    "removals": functools.partial(known.removals, 300, 40),
    "marginals": functools.partial(known.marginals, 60),
    "controls": functools.partial(known.controls, 50),
    "equal posteriors": functools.partial(known.monte_carlo_where_no_point_differs, 2),
    "posteriors apart": functools.partial(known.monte_carlo_where_no_points_overlap, 4),
    "one latent": functools.partial(known.monte_carlo_in_one_latent, 30),
    "population": functools.partial(known.monte_carlo_of_a_population, 2),
    "products": functools.partial(products, np.float64),
}


@pytest.mark.parametrize("name", CHECKS)
def test_every_other_check_is_right_here(name):
    assert right(CHECKS[name]())


def spoil(monkeypatch, owner, name, change):
    """Replace a function by one whose result is changed."""
    before = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **settings: change(before(*args, **settings)))


def of_screen(monkeypatch):
    monkeypatch.setattr(tiles, "CUT", -8.0)
    return known.log_sums(known.WAYS["screen"], *SMALL["screen"])


def of_product(way):
    def check(monkeypatch):
        spoil(monkeypatch, tiles, "_product", lambda matrix: np.multiply(matrix, 1 + 1e-9, out=matrix))
        return known.log_sums(known.WAYS[way], *SMALL[way])

    return check


def of_differences(monkeypatch):
    spoil(monkeypatch, tiles.Chunk, "evaluate", lambda values: values + 1e-8)
    return known.log_sums(known.WAYS["differences"], *SMALL["differences"])


def of_covariances(monkeypatch):
    spoil(monkeypatch, tiles, "matrices", lambda found: ((s, b, m + 1e-8) for s, b, m in found))
    return CHECKS["full covariances"]()


def of_threads(monkeypatch):
    before = aggregate.AggregatePosterior.log_sum

    def log_sum(self, *args):
        return before(self, *args) * (1 + (self.threads is None) * 2.0**-52)

    monkeypatch.setattr(aggregate.AggregatePosterior, "log_sum", log_sum)
    return CHECKS["threads"]()


def of_removals(monkeypatch):
    spoil(monkeypatch, removal, "_losses", lambda loss: loss * (1 + 1e-7))
    return CHECKS["removals"]()


def of_marginals(monkeypatch):
    spoil(monkeypatch, marginals, "integral", lambda found: found._replace(value=found.value + 1e-3))
    return CHECKS["marginals"]()


def of_controls(monkeypatch):
    spoil(monkeypatch, control_variates.GaussianControls, "at", lambda both: (both[0] + 0.2, both[1]))
    return CHECKS["controls"]()


def of_monte_carlo(name, change):
    def check(monkeypatch):
        spoil(monkeypatch, aggregate.AggregatePosterior, "log_sum", change)
        return CHECKS[name]()

    return check


def of_products(monkeypatch):
    return products(np.float32)


SPOILED = {
    "screen": of_screen,
    "product": of_product("product"),
    "product in parts": of_product("product in parts"),
    "differences": of_differences,
    "full covariances": of_covariances,
    "threads": of_threads,
    "removals": of_removals,
    "marginals": of_marginals,
    "controls": of_controls,
    "equal posteriors": of_monte_carlo("equal posteriors", lambda sums: sums + 1e-3),
    "one latent": of_monte_carlo("one latent", lambda sums: sums + 0.1),
    "population": of_monte_carlo("population", lambda sums: sums - 1.0),
    "float32 for float64": of_products,
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_computation_is_wrong(name, monkeypatch):
    assert not right(SPOILED[name](monkeypatch))


def test_spoiled_draws_of_posteriors_that_lie_apart_are_wrong(monkeypatch):
    spoil(monkeypatch, DiagonalGaussian, "log_prob_at", lambda logs: logs + 1.0)
    assert not right(CHECKS["posteriors apart"]())


def test_brute_force_is_that_of_torch():
    q, z, own = known.WAYS["product"].make(50, 5)
    mean, std = q.rows(slice(None))
    logs = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1).log_prob(z[:, None])
    logs[torch.arange(5), own] = -np.inf
    np.testing.assert_allclose(known.brute_force(q, z, own), torch.logsumexp(logs, 1).numpy(), rtol=1e-13)
