"""Models that are trained once: a longer run goes on from a shorter one, and sessions that end leave checkpoints."""

import threading

import pytest
import torch

from analyses.machinery import models
from analyses.machinery.kept import lock
from analyses.machinery.session import Session, Stopped, Taken, within
from klprobe.training.checkpoint import read

MODEL = {
    "system": "vae",
    "dataset": "digits",
    "settings": {"latent_dim": 2, "width": 8, "batch_size": 16},
    "steps": 30,
    "seed": 0,
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(models, "CHECKPOINT_EVERY", {"cpu": 10})


def assert_same_run(first, second):
    """Weights, optimisers, settings, and rows of metrics.csv without their seconds."""
    (tensors, settings), (others, other_settings) = (read(run / models.CHECKPOINT) for run in (first, second))
    assert settings == other_settings
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    rows, other_rows = (
        [line.split(",")[:1] + line.split(",")[2:] for line in (run / models.METRICS).read_text().splitlines()]
        for run in (first, second)
    )
    assert rows == other_rows


def test_a_longer_run_goes_on_from_the_longest_shorter_one_to_the_same_bits(tmp_path, monkeypatch):
    whole = models.folder(MODEL)
    monkeypatch.setattr(models, "RUNS", tmp_path / "others")
    for steps in (10, 20):
        models.folder(MODEL | {"steps": steps})
    assert models.steps_done(MODEL) == 20
    monkeypatch.setattr(models, "dataset", counted := Counted(models.dataset))
    told = []
    with within(Session(tell=lambda what, done, steps: told.append(done))):
        by_parts = models.folder(MODEL)
    assert min(told) > 20
    assert counted.loads == 1
    assert_same_run(whole, by_parts)
    assert_same_run(models.folder(MODEL | {"steps": 20}), models.RUNS / f"{models.kind(MODEL)}-20")


class Counted:
    """Counts how often data are loaded, that is, how often training begins."""

    def __init__(self, dataset):
        self.dataset, self.loads = dataset, 0

    def __call__(self, name):
        self.loads += 1
        return self.dataset(name)


def test_a_run_whose_last_row_of_metrics_a_longer_one_has_not_is_not_taken_over():
    """Its last row is of 5 steps, and rows are written every 10."""
    models.folder(MODEL | {"steps": 5})
    assert models.steps_done(MODEL) == 0


def test_another_seed_or_setting_is_another_run():
    models.folder(MODEL | {"steps": 10})
    assert models.steps_done(MODEL | {"seed": 1}) == 0
    assert models.steps_done(MODEL | {"settings": MODEL["settings"] | {"width": 9}}) == 0


def test_a_session_that_ends_leaves_a_checkpoint_that_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = models.folder(MODEL)
    monkeypatch.setattr(models, "RUNS", tmp_path / "others")
    session = Session()

    def end(what, done, steps):
        session.end()

    session.tell = end
    with pytest.raises(Stopped), within(session):
        models.folder(MODEL)
    assert 0 < models.steps_done(MODEL) < 30
    assert_same_run(whole, models.folder(MODEL))


def test_a_model_that_another_process_trains_is_waited_for_or_left(tmp_path):
    with lock(models.RUNS / f"{models.kind(MODEL)}.lock", wait=True):
        with pytest.raises(Taken), within(Session(waits=False)):
            models.folder(MODEL)
        waiting = threading.Thread(target=models.folder, args=[MODEL])
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(60)
    assert models.run_of(MODEL).exists()


def test_work_that_cannot_be_resumed_is_cut_off_and_resumable_work_is_not():
    session, done = Session(), []

    def work():
        with session.until_checkpoint():
            session.end()
            done.append("to the checkpoint")
        done.append("and no further")

    with pytest.raises(Stopped):
        work()
    assert done == ["to the checkpoint"]
    with pytest.raises(Stopped):
        Session().end()


def test_an_interrupted_estimation_is_no_record():
    report = type("Report", (), {"not_done": [type("NotDone", (), {"reason": models.INTERRUPTED})()]})()
    with pytest.raises(KeyboardInterrupt):
        models.facts(report)
