"""The comparison of all systems: a cell of it on small data, and its page from made-up records."""

import dataclasses
import json

import pytest
import torch

from analyses import overview
from analyses.machinery import models
from analyses.machinery.cells import record_of
from analyses.ours import systems, systems_page, systems_settings, vae_mnist
from klprobe.runtime.records import read_records


@pytest.fixture
def small(monkeypatch, tmp_path):
    """scikit-learn's digits in MNIST's place, and runs kept in a scratch folder."""
    monkeypatch.setattr(systems_settings, "DATASET", "digits")
    for module in (models, systems):
        monkeypatch.setattr(module, "RUNS", tmp_path)


def record(system, seed, lower, *, average=None):
    kept = {
        "posterior": "deterministic" if average is None else "density",
        "average_kl": [average, None if average is None else 0.1],
        "brackets": {"population": {"lower": [lower, 0.1, "maf"], "upper": [average, None, None]}},
        "estimates": [
            ["maf", "kl", "population", "lower", lower, 0.1, 1.0],
            ["classifier", "nwj", "population", "lower", lower - 1, 0.1, 1.0],
        ],
    }
    quality = {"net": "classifier", "fid": [3.0, 0.1, 0.2], "inception-score": [9.0, 0.1, 9.8]}
    result = {"kl": kept, "reconstruction_errors": {"l1": [0.1, 0.01], "rms": [0.2, 0.01]}, "quality": quality}
    return {
        "cell": {"preset": "quick", "model": systems_settings.model("quick", system, seed)},
        "result": result,
        "cpu_seconds": 60.0,
    }


def test_every_trainer_of_images_is_compared_once_a_seed():
    cells = systems.cells("quick")
    assert (
        len({json.dumps(cell) for cell in cells})
        == len(cells)
        == len(systems_settings.SYSTEMS) * len(systems_settings.SEEDS["quick"])
    )
    assert {"vae", *systems_settings.CLAIM} <= set(systems_settings.SYSTEMS)


@pytest.mark.parametrize("system", ["vae", "age", "dcgan"])
def test_a_cell_runs_and_what_it_keeps_makes_a_page_and_a_figure(system, small, tmp_path):
    """One with a density, one whose prior has none, one without an encoder."""
    with torch.random.fork_rng():
        found = record_of(systems.work, {"preset": "tiny", "model": systems_settings.model("tiny", system, 0)})
    assert found["failed"] is None
    json.dumps(found, allow_nan=False)
    text, figure = systems.write([found], tmp_path)
    assert f"| {system} |" in text.read_text()
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_the_page_says_by_each_bound_and_seed_who_matches_better_beyond_the_error():
    records = [
        *(record("vae", seed, 2.0, average=20.0) for seed in (0, 1)),
        *(record("aae", seed, 1.0) for seed in (0, 1, 2)),
        *(record("aae-plus", seed, low) for seed, low in ((0, 2.1), (1, 3.0))),
        record("aae-gan", 0, 5.0),
    ]
    text = systems_page.page(records)
    assert "- aae by maf: 1.00, 1.00 against 2.00, 2.00 nats: better in 2 of 2." in text  # seed 2 has no VAE
    assert "- aae-plus by classifier: 1.10, 2.00 against 1.00, 1.00 nats: no different in 1, worse in 1 of 2." in text
    assert "- aae-gan by maf: 5.00 against 2.00 nats: worse in 1 of 1." in text
    seeds = {row.split(" | ")[0].strip("| "): row.split(" | ")[3] for row in text.splitlines() if row.startswith("| ")}
    assert (seeds["system"], seeds["vae"], seeds["aae"], seeds["aae-gan"]) == ("seeds", "2", "3", "1")


def test_the_overview_counts_each_cell_once_and_no_record_of_earlier_settings(monkeypatch, tmp_path):
    """Of three records one is of settings that are no cell any more, and one is of a cell that was run again."""
    old, first, again = record("age", 0, 8.0), record("age", 0, 3.0), record("age", 0, 4.0)
    old["cell"]["model"]["settings"] = {"lr": 1.0}
    (tmp_path / "records").mkdir()
    lines = [json.dumps(found | {"date": "2026-01-01"}) + "\n" for found in (old, first, again)]
    (tmp_path / "records" / systems.ITEM.records).write_text("".join(lines))
    monkeypatch.setattr(overview, "HERE", tmp_path)
    item = dataclasses.replace(systems.ITEM, folder=tmp_path)
    cells = len(systems.cells("quick"))
    assert f"at least, nats: age 4.00. {cells - 1} of {cells} cells not recorded yet" in overview.line("ours.systems", item)[5]


def test_the_overview_says_first_what_was_found_at_the_papers_size(monkeypatch, tmp_path):
    small, large = record("age", 0, 3.0), record("age", 0, 5.0)
    large["cell"] = {"preset": "paper", "model": systems_settings.model("paper", "age", 0)}
    (tmp_path / "records").mkdir()
    lines = [json.dumps(found | {"date": "2026-01-01"}) + "\n" for found in (small, large)]
    (tmp_path / "records" / systems.ITEM.records).write_text("".join(lines))
    monkeypatch.setattr(overview, "HERE", tmp_path)
    row = overview.line("ours.systems", dataclasses.replace(systems.ITEM, folder=tmp_path))
    first, second = row[5].split("age 5.00")
    assert first == "At the paper's size: KL[q(z)] from p(z) at least, nats: "
    assert "Preset quick: KL[q(z)] from p(z) at least, nats: age 3.00" in second
    assert row[3].startswith("≈ ")


def test_a_page_without_records_says_so():
    assert "No records yet" in systems_page.page([])


def test_the_page_of_the_vae_names_its_goals_from_the_records():
    text = vae_mnist.page(read_records(vae_mnist.RECORDS))
    assert "goal -105: reached" in text
    assert "Quantized Normal has" in text
