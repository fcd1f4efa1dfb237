import pytest
import torch

from klprobe.files import tensor_file
from klprobe.synthetic import kept
from klprobe.synthetic.kept import Keep, Paused
from klprobe.synthetic.run import Diverged, estimate, minimize, run_one
from klprobe.synthetic.settings import Settings
from klprobe.types import InputError

SMALL = Settings(classifier_layers=1, classifier_width=8, steps=40, logged=6, log_draws=50, report_draws=200)
OF_THE_CLOCK = ("cpu_seconds", "time")


def stopping_after(steps):
    """Asks to stop once so many steps were done."""
    asked = iter([False] * (steps - 1) + [True])
    return lambda: next(asked)


def what_was_found(record):
    return {name: value for name, value in record.items() if name not in OF_THE_CLOCK}


@pytest.mark.parametrize("run", [estimate, minimize])
def test_a_run_that_was_stopped_twice_finds_the_bits_of_one_that_was_not(run, tmp_path):
    """Right before a point of the curve, and between two."""
    whole = run(SMALL, 2, seed=1)
    for steps in (8, 9):
        with pytest.raises(Paused):
            run(SMALL, 2, seed=1, keep=Keep(tmp_path / "run.safetensors", stop=stopping_after(steps)))
    told = []
    keep = Keep(tmp_path / "run.safetensors", progress=lambda done, steps, note="": told.append((done, steps)))
    assert what_was_found(run(SMALL, 2, seed=1, keep=keep)) == what_was_found(whole)
    assert told[0] == (18, 40)
    assert told[-1] == (40, 40)
    assert not list(tmp_path.iterdir())


def test_a_run_that_died_goes_on_from_what_was_last_written(tmp_path, monkeypatch):
    whole = minimize(SMALL, 2, seed=0)
    path = tmp_path / "run.safetensors"

    def die(done, steps, note=""):
        if done == 17:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        minimize(SMALL, 2, seed=0, keep=Keep(path, seconds=0.0, progress=die))
    with tensor_file.opened(path) as file:
        assert '"step": 17' in file.header["klprobe.settings"]
    assert what_was_found(minimize(SMALL, 2, seed=0, keep=Keep(path))) == what_was_found(whole)


def test_a_run_keeps_nothing_before_it_is_time_to(tmp_path):
    assert minimize(SMALL, 2, seed=0, keep=Keep(tmp_path / "run.safetensors"))["diverged"] is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", [estimate, minimize])
def test_the_seconds_of_all_sessions_are_counted(run, tmp_path, monkeypatch):
    keep = Keep(tmp_path / "run.safetensors", stop=stopping_after(5))
    with pytest.raises(Paused):
        run(SMALL, 2, seed=0, keep=keep)
    tensors, header = whole_file(keep.path)
    header["spent"] = 1000.0
    tensor_file.write(keep.path, tensors, header, kind=kept.KIND)
    assert 1000 <= run(SMALL, 2, seed=0, keep=Keep(keep.path))["cpu_seconds"] < 1100


def whole_file(path):
    from klprobe.files import json_files

    with tensor_file.opened(path) as file:
        return file.tensors(), json_files.parse(file.header["klprobe.settings"], "header")


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"seed": 2}, "is of another run"),
        ({"dim": 3}, "is of another run"),
        ({"settings": Settings(**{**SMALL.__dict__, "generator_lr": 0.5})}, "is of another run"),
        ({"drop": "learned.optimiser.1.exp_avg"}, "is damaged"),
        ({"drop": "noise"}, "is damaged"),
        ({"kind": "checkpoint"}, "is no kept run"),
    ],
)
def test_what_is_kept_of_another_run_or_not_whole_is_refused_in_a_line(again, said, tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Paused):
        minimize(SMALL, 2, seed=1, keep=Keep(path, stop=stopping_after(5)))
    tensors, header = whole_file(path)
    tensors.pop(again.pop("drop", ""), None)
    tensor_file.write(path, tensors, header, kind=again.pop("kind", kept.KIND))
    wanted = {"settings": SMALL, "dim": 2, "seed": 1} | again
    with pytest.raises(InputError, match=said) as refused:
        minimize(**wanted, keep=Keep(path))
    assert "\n" not in str(refused.value)
    assert "delete it, and the run begins anew" in str(refused.value)


def test_a_run_that_diverges_leaves_nothing_behind(tmp_path):
    wild = Settings(**{**SMALL.__dict__, "classifier_lr": 1e30})
    keep = Keep(tmp_path / "run.safetensors", seconds=0.0)
    with pytest.raises(Diverged):
        estimate(wild, 2, seed=0, keep=keep)
    assert run_one("estimate", 2, 0, wild, keep=keep)["diverged"]
    assert not list(tmp_path.iterdir())
    assert torch.isfinite(torch.tensor(run_one("minimize", 2, 0, SMALL, keep=keep)["curve"]["true_kl"])).all()
