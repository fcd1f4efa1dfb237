"""The benchmark of the sample-only estimators: its order, and its table, from records alone."""

import json

from analyses.ours import ratio_estimators as benchmark
from analyses.ours import ratio_estimators_page


def record(case, method, seed, value, *, truth=2.0, lower=None):
    estimates = {"kl": {"value": value, "std_error": 0.1, "bound": "none"}} if value is not None else {}
    if lower is not None:
        estimates["donsker-varadhan"] = {"value": lower, "std_error": 0.1, "bound": "lower"}
    return {"case": case, "method": method, "seed": seed, "truth": truth, "cpu_seconds": 5.0, "estimates": estimates} | (
        {"settings": {}} if value is not None else {"settings": {}, "failed": "diverged"}
    )


def test_the_best_methods_come_first_and_no_cell_twice():
    order = benchmark.cells(2)
    assert len(order) == len(set(order))
    assert order[0] == ("paper-1", "classifier", 0)
    assert {case for case, _, _ in order} == set(benchmark.GOALS)
    best = [(c, m) for c, methods in benchmark.BEST.items() for m in methods]
    assert {(c, m) for c, m, _ in order[: 2 * len(best)]} == set(best)


def test_the_table_gives_median_range_and_whether_the_goal_was_reached():
    rows = [record("paper-100", "denoising", i, v, lower=1.0) for i, v in enumerate((2.02, 1.9, 2.04))]
    rows += [record("paper-1", "knn", 0, 0.5, truth=0.2), record("paper-1", "critic", 0, None)]
    lines = benchmark.table(rows).splitlines()
    (denoising,) = (line for line in lines if "denoising" in line)
    assert "| 3 | +1.0% (reached) | -5.0% to +2.0% | 5.0% | +50.0% | 5 |" in denoising
    (knn,) = (line for line in lines if "knn" in line)
    assert "+0.300 |" in knn
    assert "reached" not in knn
    assert any("critic" in line and "diverged" in line for line in lines)


def test_cases_are_the_same_pair_for_every_method_and_another_for_every_seed():
    one, again, other = (benchmark.pair_of("warped-10", seed) for seed in (0, 0, 1))
    assert one.kl == again.kl != other.kl
    assert benchmark.pair_of("same-10", 0).kl == 0.0


def test_a_cell_runs_and_its_record_is_strict_json():
    small = {"num_samples": 300}
    found = benchmark.run("paper-1", "knn", 0, **small)
    json.dumps(found, allow_nan=False)
    assert abs(benchmark.headline(found)["value"] - found["truth"]) < 0.5
    assert found["settings"] == small


def test_the_page_says_goals_all_methods_and_what_was_left_out_from_records_alone():
    made = {"time": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2"}, "machine": {"processor": "ENIAC", "cores": 1}}
    rows = [record("paper-100", "denoising", i, v) | made for i, v in enumerate((2.02, 1.9, 2.04))]
    rows += [record("paper-100", "knn", 0, 0.5) | made, record("same-1", "classifier", 0, 0.5, truth=0.0) | made]
    page = ratio_estimators_page.page(rows)
    assert "| paper-100 | 3% | denoising | 3 | +1.0% | -5.0% to +2.0% | yes | 5 | knn -75.0% |" in page
    assert "| same-1 | 0.01 nats | classifier | 1 | +0.500 | +0.500 to +0.500 | no | 5 |  |" in page
    assert "ENIAC" in page
    assert "2026-01-02" in page
    for (method, dim), why in benchmark.SLOW.items():
        assert f"- {method} at D = {dim}: {why}" in page
