"""A worker takes cells in the order of the plan, one at a time, and ends at the deadline, at a signal, or with its parent."""

import dataclasses
import json
import math
import os
import re
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from analyses.machinery import cells, models, plan, worker
from analyses.machinery.kept import lock
from analyses.machinery.listing import listing
from analyses.machinery.notes import read_note
from analyses.machinery.plan import jobs_of, read_plan
from klprobe.estimators.classifier import Classifier
from klprobe.types import InputError

SETTINGS = {"latent_dim": 2, "width": 8, "batch_size": 16}
DONE: list[str] = []
"""What the cells of a test did, in order."""


def model(name, steps):
    return {"system": "vae", "dataset": "digits", "settings": SETTINGS, "steps": steps, "seed": ord(name)}


def work(cell):
    DONE.append(cell["name"])
    if "model" in cell:
        models.folder(cell["model"])
    if "sleep" in cell:
        time.sleep(cell["sleep"])
    if cell.get("fails"):
        raise InputError("no such data.")
    return {"name": cell["name"]}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """From cells to the orders of a worker without a deadline."""
    monkeypatch.setattr(models, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(worker, "WAIT", 0.1)
    DONE.clear()

    def of(*listed, seconds=math.inf, retried=None, costs=None):
        item = cells.Item(
            order=1,
            title="Cells",
            paper=cells.NO_PAPER,
            headline=lambda records: "",
            folder=tmp_path,
            records="cells.jsonl",
            cells=lambda preset: list(listed),
            work=work,
            write=lambda *_: [],
            costs=costs,
        )
        monkeypatch.setattr(plan, "_item", lambda name, path: item)
        (tmp_path / "plan.toml").write_text('[[part]]\nitem = "dmvi.cells"\nquestion = "Which?"\n')
        return worker.Orders(
            preset="tiny",
            plan=tmp_path / "plan.toml",
            out=None,
            deadline=time.time() + seconds,
            retried=retried or {},
            parent=os.getppid(),
        )

    return of


def jobs(orders):
    return jobs_of(read_plan(orders.preset, orders.plan, orders.out))


def records(orders):
    return plan.records_of, [record for job in jobs(orders) for record in plan.records_of(job)]


def names(orders):
    """Cells with a record that has a result."""
    return [record["cell"]["name"] for record in records(orders)[1] if record["result"]]


def test_cells_are_run_once_in_the_order_of_the_plan(planned):
    orders = planned({"name": "b"}, {"name": "a"}, {"name": "c"})
    for _ in range(2):
        worker.work_through(1, orders)
        assert DONE == ["b", "a", "c"]
    assert names(orders) == ["b", "a", "c"]


def test_a_cell_that_another_worker_has_is_left_to_it_and_taken_when_it_is_free(planned):
    orders = planned({"name": "a"}, {"name": "b"})
    with lock(jobs(orders)[0].lock, wait=True):
        timer = threading.Timer(0.5, lambda: DONE.append("the other lets a go"))
        timer.start()
        worker.WAIT, before = 0.1, worker.WAIT
        ended = planned({"name": "a"}, {"name": "b"}, seconds=1.0)
        worker.work_through(1, ended)  # until the deadline: a is never free
        worker.WAIT = before
    assert names(orders) == ["b"]
    worker.work_through(1, orders)
    assert names(orders) == ["a", "b"]
    assert DONE == ["b", "the other lets a go", "a"]


def test_a_cell_whose_model_another_worker_trains_is_left_to_it(planned):
    orders = planned({"name": "a", "model": model("m", 4)}, {"name": "b"}, seconds=1.5)
    with lock(models.RUNS / f"{models.kind(model('m', 4))}.lock", wait=True):
        worker.work_through(1, orders)
    assert names(orders) == ["b"]


@pytest.fixture
def time_is_over_in_the_midst_of_training(monkeypatch):
    """The clock that deadlines are read from jumps past all of them once a training has made some steps in a session."""
    over, tell, now = [], worker._Log.tell, time.time

    def told(log, what, done, steps):
        tell(log, what, done, steps)
        if done - log.first[what][0] >= 3:
            over.append(True)

    monkeypatch.setattr(worker._Log, "tell", told)
    monkeypatch.setattr(worker, "time", clock := SimpleNamespace(**vars(time)))
    clock.time = lambda: now() + (1e9 if over else 0.0)
    return over


def test_training_stops_at_a_checkpoint_at_the_deadline_and_goes_on_from_there(
    planned, time_is_over_in_the_midst_of_training, capsys
):
    orders = planned({"name": "long", "model": model("l", 10**6)}, {"name": "b"}, seconds=1000.0)
    worker.work_through(1, orders)
    assert not names(orders)
    reached = models.steps_done(model("l", 10**6))
    assert reached > 0
    assert f"stopped at a checkpoint, step {reached:,} of 1,000,000" in capsys.readouterr().out
    assert read_note(jobs(orders)[0].notes)["cpu_seconds"] > 0
    speed = re.search(r"step [\d,]+ of 1,000,000, (.*) left, without looking at it", listing(read_plan("tiny", orders.plan), 1))
    assert speed is not None  # at tens to thousands of steps a second, minutes to hours
    assert re.fullmatch(r"\d+ min|[\d.]+ h", speed[1])
    time_is_over_in_the_midst_of_training.clear()
    worker.work_through(1, orders)
    assert f"trains from step {reached:,} of 1,000,000" in capsys.readouterr().out
    assert models.steps_done(model("l", 10**6)) > reached


def test_work_in_one_piece_is_cut_off_at_the_deadline_and_not_begun_again_where_it_cannot_end(planned, capsys):
    orders = planned({"name": "piece", "sleep": 60.0}, seconds=2.0)
    begun = time.time()
    worker.work_through(1, orders)
    assert time.time() - begun < 20
    assert "cut off after 2 s" in capsys.readouterr().out
    worker.work_through(1, planned({"name": "piece", "sleep": 60.0}, seconds=1.5))
    assert DONE == ["piece"]
    assert "left out, for it needs 2 s in one piece, and" in capsys.readouterr().out


def test_sigterm_stops_a_worker_at_a_checkpoint(planned, monkeypatch):
    tell = worker._Log.tell

    def told(log, what, done, steps):
        tell(log, what, done, steps)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(worker._Log, "tell", told)
    orders = planned({"name": "long", "model": model("l", 10**6)})
    worker.work_through(1, orders)
    assert 0 < models.steps_done(model("l", 10**6)) < 10**6
    assert not names(orders)


def test_a_worker_whose_runner_is_gone_stops(planned):
    orders = planned({"name": "long", "model": model("l", 10**6)})
    worker.work_through(1, dataclasses.replace(orders, parent=orders.parent + 1))
    assert not names(orders)


def test_work_in_one_piece_that_was_not_measured_is_judged_by_its_operations(planned, capsys):
    """Half a million steps of a classifier of 5,000 units are days of a core, and no training that could stop."""
    costs = cells.Costs(methods={"train": [Classifier(preset="paper")]}, latents=50)
    worker.work_through(1, planned({"name": "piece"}, seconds=60.0, costs=lambda cell: costs))
    assert not DONE
    assert re.search(r"left out, for it needs about [\d.]+ days in one piece", capsys.readouterr().out)
    worker.work_through(1, planned({"name": "piece"}, costs=lambda cell: costs))
    assert DONE == ["piece"]


def test_a_failed_cell_is_recorded_and_run_again_only_when_told_to(planned):
    orders = planned({"name": "bad", "fails": True}, {"name": "good"})
    for _ in range(2):
        worker.work_through(1, orders)
    assert DONE == ["bad", "good"]
    again = planned({"name": "bad", "fails": True}, {"name": "good"}, retried={jobs(orders)[0].name: 1})
    for _ in range(2):
        worker.work_through(1, again)
    assert DONE == ["bad", "good", "bad"]


def test_a_record_has_the_seconds_of_all_sessions(planned):
    orders = planned({"name": "a", "model": model("a", 20)})
    job = jobs(orders)[0]
    job.notes.parent.mkdir(parents=True)
    job.notes.write_text(json.dumps({"cpu_seconds": 1000.0}))
    worker.work_through(1, orders)
    assert 1000 < records(orders)[1][0]["cpu_seconds"] < 1100


@pytest.fixture(autouse=True)
def signals_as_before():
    """A worker is a process of its own; here it runs in that of the tests."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
