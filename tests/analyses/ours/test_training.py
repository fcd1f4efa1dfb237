"""The benchmark of a training step: its loops do the same work, and its page is made of a record."""

import dataclasses

import pytest
import torch

from analyses.ours import training as benchmark

SMALL = tuple(
    dataclasses.replace(case, steps=4, settings=case.settings | {"width": 8}) for case in benchmark.CASES if case.shape == (2,)
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmark, "NUM_POINTS", 256)


@pytest.mark.parametrize("case", SMALL[1:], ids=lambda case: case.system)
def test_a_step_by_hand_and_one_of_klprobe_are_both_timed(case, quick):
    found = benchmark.overhead(case, 1)
    assert found["hand"] > 0
    assert found["klprobe"] > 0


@pytest.mark.parametrize("system", ["vae", "aae"])
def test_a_loop_by_hand_moves_every_network(system, quick, monkeypatch):
    kept = []
    case = next(case for case in SMALL if case.system == system)
    kind = type(benchmark.load("trainers", system)(**case.settings))
    build = kind.networks
    monkeypatch.setattr(kind, "networks", lambda self, shape: kept.append(build(self, shape)) or kept[-1])
    loop = benchmark.BY_HAND[system](case)
    next(loop)
    before = {name: value.clone() for name, value in kept[0].named_parameters()}
    next(loop)
    assert all(not torch.equal(before[name], value) for name, value in kept[0].named_parameters())


@pytest.mark.slow
def test_the_page_shows_overhead_and_ratios_of_a_measurement(quick, monkeypatch):
    pytest.importorskip("pythae")
    monkeypatch.setattr(benchmark, "CASES", (*SMALL, dataclasses.replace(benchmark.CASES[2], steps=2)))
    with torch.random.fork_rng():
        found = benchmark.measure(SMALL, 1, [1, 2])
    assert {row["threads"] for row in found["pythae"]} == {1, 2}
    text = benchmark.page(
        {"date": "2026-01-01", "versions": {"torch": "2", "pythae": "0.1.2"}, "rounds": 1, "machine": {"cores": 2, "load": 1.0}}
        | found
    )
    assert f"| {SMALL[0].label} |" in text
    assert "pythae's loader" in text
