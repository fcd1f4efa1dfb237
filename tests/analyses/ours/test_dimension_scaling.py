"""The dimension scaling: its cells, its limit of CPU, and what its page makes of records."""

import json
import time

import pytest
import torch

from analyses.ours import dimension_scaling, dimension_scaling_page, dimension_scaling_settings, dimension_scaling_summary
from klprobe import registry
from klprobe.distributions.posteriors import as_posterior

NAMES = registry.names("estimators")


def record(method, dim, kl, seed, value, *, error=0.1, lower=None, failed=None, seconds=2.0):
    estimates = [{"quantity": "kl", "target": "population", "bound": "none", "value": value, "std_error": error}]
    if lower is not None:
        estimates.append({"quantity": "kl", "target": "population", "bound": "lower", "value": lower, "std_error": error})
    made = {"time": "2026-01-02T03:04:05+00:00", "machine": {"processor": "ENIAC", "cores": 1}}
    found = {"estimates": [] if failed else estimates, "failed": failed, "cpu_seconds": seconds}
    return {"method": method, "dim": dim, "kl": kl, "seed": seed} | found | made


def test_the_grid_has_every_estimator_once_in_each_cell_and_is_whole_for_one_seed_first():
    order = dimension_scaling.cells()
    assert (
        len(order)
        == len(set(order))
        == len(NAMES)
        * len(dimension_scaling_settings.DIMS)
        * len(dimension_scaling_settings.KLS)
        * dimension_scaling_settings.SEEDS
    )
    assert {seed for *_, seed in order[: len(order) // dimension_scaling_settings.SEEDS]} == {0}


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_is_given_what_it_requires_and_no_more(name):
    requires = registry.load("estimators", name).requires
    problem = dimension_scaling.problem_for(requires, 3, 5.0, 0)
    assert as_posterior(problem.posterior).has_log_prob == ("posterior-density" in requires)
    assert getattr(problem.prior, "has_log_prob", True) == bool(requires & {"posterior-density", "prior-density"})
    assert problem.population_kl == 5.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", dimension_scaling_settings.DIMS)
def test_settings_are_ones_that_the_estimator_takes(name, dim):
    kind = registry.load("estimators", name)
    fields = set(kind.__dataclass_fields__)
    chosen = dimension_scaling_settings.settings_of(name, dim, fields)
    kind(**chosen)
    assert (
        set(dimension_scaling_settings.OF.get(name, {})) | set(dimension_scaling_settings.OF_AT.get((name, dim), {})) <= fields
    )


@pytest.mark.parametrize("name", ["knn", "closed-form", "gmm"])
def test_a_cell_is_strict_json_with_values_near_the_truth(name):
    found = dimension_scaling.run((name, 2, 1.0, 0), **({"num_samples": 2000} if name != "closed-form" else {}))
    json.dumps(found, allow_nan=False)
    assert found["failed"] is None
    (cell,) = dimension_scaling_summary.grid([found]).values()
    assert abs(cell.point.bias - (5.0 if name == "closed-form" else 0.0)) < 0.4, "an upper bound is off by what codes tell"


def test_a_fit_beyond_the_limit_is_stopped_and_recorded():
    found = dimension_scaling.run(("classifier", 2, 1.0, 0), limit=0.3, steps=100_000)
    assert found["failed"] == "not done after 0.3 s of CPU"
    assert found["estimates"] == []


def busy(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        torch.ones(100).sum()


def test_the_limit_counts_cpu_and_is_gone_afterwards():
    with dimension_scaling.cpu_limit(0.05):
        time.sleep(0.2)
    with pytest.raises(dimension_scaling.OverBudget), dimension_scaling.cpu_limit(0.05):
        busy(10.0)
    busy(0.2)


def test_harder_cases_of_what_took_too_long_are_not_tried():
    slow = record("lstm", 1000, 1.0, 0, 0.0, failed="not done after 30 s of CPU", seconds=30.1)
    refused = record("knn", 1000, 1.0, 0, 0.0, failed="codes coincide", seconds=0.1)
    assert "at 1 nats, seed 0" in dimension_scaling.hopeless(("lstm", 1000, 5.0, 2), [slow, refused])
    for cell in (("lstm", 1000, 0.0, 1), ("lstm", 100, 5.0, 0), ("knn", 1000, 5.0, 0)):
        assert dimension_scaling.hopeless(cell, [slow, refused]) is None


def test_bias_spread_errors_and_broken_bounds_come_from_the_seeds():
    rows = [record("gmm", 10, 5.0, i, v, lower=low) for i, (v, low) in enumerate(((5.1, 5.9), (5.3, 6.0), (5.5, 6.1)))]
    rows.append(record("gmm", 10, 20.0, 0, 0.0, failed="not done"))
    cells = dimension_scaling_summary.grid(rows)
    cell = cells["gmm", 10, 5.0]
    assert (cell.point.bias, cell.point.spread, cell.point.said) == pytest.approx((0.3, 0.2, 0.1))
    assert cell.lower.bias == pytest.approx(1.0)
    assert cell.bound_broken, "1 nat above the truth with an error of 0.1 / sqrt(3)"
    page = dimension_scaling_summary.page(cells, ["gmm"], [10], [5.0, 20.0], dimension_scaling_page.head(rows))
    assert "| gmm | 10 | +0.300 ± 0.2 (0.1) | no answer |" in page
    assert "| gmm | 10 | **+1 ± 0.1 (0.1)** | no answer |" in page
    assert "ENIAC" in page


def test_figures_are_drawn_from_a_part_of_the_grid():
    rows = [record("knn", 10, 5.0, i, 5.0 + i) for i in range(2)]
    cells = dimension_scaling_summary.grid([*rows, record("lstm", 1000, 0.0, 0, 0.0, failed="slow")])
    drawn = dimension_scaling_page.draw(
        cells, dimension_scaling_page.ordered(), lambda cell: cell.point, lambda number: number.said, "title"
    )
    assert sum(axes.get_visible() for axes in drawn.axes) == len(NAMES)
    dimension_scaling_page.draw_seconds(cells, dimension_scaling_page.ordered()).canvas.draw()
