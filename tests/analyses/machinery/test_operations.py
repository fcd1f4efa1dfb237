import json

import pytest

from analyses.machinery import operations
from analyses.machinery.declared import items
from klprobe.estimators.classifier import Classifier
from klprobe.estimators.monte_carlo import MonteCarlo

VAE = {
    "system": "vae",
    "dataset": "ring",
    "settings": {"latent_dim": 3, "width": 10, "layers": 1, "batch_norm": False, "batch_size": 8},
}


def test_a_step_of_an_mlp_has_the_operations_of_its_products():
    """Encoder 2 -> 10 -> 6, generator 3 -> 10 -> 2: two operations a weight forward, two for the weight's gradient, and two for
    that of the input but for the first layer of the encoder."""
    weights = 2 * 10 + 10 * 6 + 3 * 10 + 10 * 2
    assert operations.count(VAE) == {"operations": 8 * (6 * weights - 2 * 2 * 10), "updates": 1}


def test_operations_are_in_proportion_to_the_batch():
    larger = VAE | {"settings": VAE["settings"] | {"batch_size": 80}}
    assert operations.count(larger)["operations"] == 10 * operations.count(VAE)["operations"]


@pytest.mark.parametrize("name", items())
def test_the_time_of_every_item_at_the_papers_size_can_be_told(name):
    """Each of its models was counted."""
    for device in ("cpu", "cuda"):
        assert operations.seconds(items()[name], device) >= 0


def test_a_models_time_is_that_of_its_longest_run_and_counts_once():
    item = items()["dmvi.table_1_steps"]
    steps = {cell["latents"]: cell["model"]["steps"] for cell in item.cells("paper")}
    assert set(steps.values()) == {100_000}
    known = {operations.key(entry["model"]): entry for entry in json.loads(operations.COUNTED.read_text())}
    ends = [cell["model"] for cell in item.cells("paper") if cell["model"]["steps"] == 100_000]
    training = sum(100_000 * known[operations.key(model)]["operations"] / operations.RATE["cpu"] for model in ends)
    assert training < operations.seconds(item, "cpu") < 1.5 * training


def test_an_estimators_time_grows_with_what_it_does():
    small, large = Classifier(steps=1000), Classifier(steps=1000, width=5000)
    assert operations._fit(large, 1000, 50, "cpu") > 10 * operations._fit(small, 1000, 50, "cpu")
    one, two = (operations._fit(MonteCarlo(num_samples=n), 1000, 50, "cpu") for n in (100, 200))
    assert two == 2 * one > 0


def test_a_time_is_measured_once_every_cell_has_a_record_on_that_device():
    item = items()["ours.elbo_surgery"]
    records = [{"cell": cell, "result": {}, "failed": None, "cpu_seconds": 60.0} for cell in item.cells("paper")]
    assert operations.measured(item, records, "cpu") == 60.0 * len(records)
    assert operations.measured(item, records[1:], "cpu") is None
    assert operations.measured(item, records, "cuda") is None
    assert operations.measured(item, [record | {"device": "cuda"} for record in records], "cuda") == 60.0 * len(records)
