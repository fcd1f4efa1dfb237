import json

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimators import monte_carlo
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.runtime.partial import Keeper
from klprobe.types import InputError, InterruptedEstimate, no_progress


@pytest.fixture
def problem():
    return linear_gaussian_encoder(3, 200, 0.4, generator=torch.Generator().manual_seed(0))


def run(problem, seed=1, progress=None, **settings):
    generator = torch.Generator().manual_seed(seed)
    return MonteCarlo(**settings).estimate(
        problem.posterior, problem.prior, generator=generator, progress=progress or no_progress
    )


def stop_after(draws):
    def progress(done, total, note=""):
        if done > draws:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("stop", [50, 150, 330])
def test_an_interrupted_run_resumes_to_the_bits_of_an_uninterrupted_one(problem, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(monte_carlo, "BATCH", 100)
    file = tmp_path / "draws.npz"
    whole = run(problem, num_samples=450)
    with pytest.raises(KeyboardInterrupt):
        run(problem, num_samples=450, partial=file, progress=stop_after(stop))
    assert file.exists()
    resumed = run(problem, num_samples=450, partial=file, resume=True)
    assert [(e.value, e.std_error) for e in resumed] == [(e.value, e.std_error) for e in whole]
    assert file.exists()  # until whoever has the result in safety removes it
    again = run(problem, num_samples=450, partial=file, resume=True, progress=stop_after(0))
    assert [(e.value, e.std_error) for e in again] == [(e.value, e.std_error) for e in whole]


def test_an_interrupted_run_reports_the_draws_it_has(problem, monkeypatch):
    monkeypatch.setattr(monte_carlo, "BATCH", 100)
    with pytest.raises(InterruptedEstimate) as stopped:
        run(problem, num_samples=450, progress=stop_after(250))
    assert {e.num_samples for e in stopped.value.estimates} == {200}
    assert stopped.value.estimates[0].value == run(problem, num_samples=200)[0].value


def test_work_is_kept_every_minute_and_not_more_often(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("klprobe.runtime.partial.time.monotonic", lambda: clock[0])
    keeper, written = Keeper(tmp_path / "kept.npz", {}), []
    for second in range(0, 200, 10):
        clock[0] = second
        keeper.save_now_and_then(lambda: {"x": written.append(clock[0]) or np.zeros(1)})
    assert written == [60, 120, 180]


def test_another_runs_work_is_refused_with_what_differs(problem, tmp_path):
    file = tmp_path / "draws.npz"
    keeper = Keeper(file, {"seed": 1, "N": 200})
    keeper.save(lambda: {"x": np.zeros(2)})
    with pytest.raises(InputError, match="seed was 1 and is 2"):
        Keeper(file, {"seed": 2, "N": 200}).load()
    file.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="cannot be resumed"):
        keeper.load()


def test_without_a_file_there_is_nothing_to_resume(problem, tmp_path):
    fresh = run(problem, num_samples=100, partial=tmp_path / "none.npz", resume=True)
    assert fresh[0].value == run(problem, num_samples=100)[0].value


def test_resuming_without_a_folder_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "q.npz", mean=np.zeros((30, 2)), std=np.ones((30, 2)))
    assert main(["estimate", "--checkpoint", str(tmp_path / "q.npz"), "--methods", "monte-carlo", "--resume"]) == 2
    assert "--out" in capsys.readouterr().err


def test_the_command_line_resumes_what_was_left_under_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monte_carlo, "BATCH", 100)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "q.npz", mean=rng.normal(size=(60, 2)), std=np.full((60, 2), 0.3))
    flags = ["estimate", "--checkpoint", str(tmp_path / "q.npz"), "--methods", "monte-carlo", "--num-samples", "300", "--json"]
    whole_sum = AggregatePosterior.log_sum
    calls = []

    def interrupted(self, z, left_out, **settings):
        if self.posterior.num_points == 60 and left_out.dim() == 1:  # a batch of draws, neither holes nor error bars
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
        return whole_sum(self, z, left_out, **settings)

    monkeypatch.setattr(AggregatePosterior, "log_sum", interrupted)
    assert main([*flags, "--out", str(tmp_path / "out")]) == 0
    first = json.loads(capsys.readouterr().out)
    assert "interrupted" in first["not_done"][0]["reason"]
    assert {e["num_samples"] for e in first["estimates"] if e["method"] == "monte-carlo"} == {200}
    assert main([*flags, "--out", str(tmp_path / "out"), "--resume"]) == 0
    resumed = json.loads(capsys.readouterr().out)["estimates"]
    assert main(flags) == 0
    whole = json.loads(capsys.readouterr().out)["estimates"]
    assert [(e["value"], e["std_error"]) for e in resumed] == [(e["value"], e["std_error"]) for e in whole]
    assert len(calls) == 3 + 1 + 3
    assert not (tmp_path / "out" / "monte-carlo.partial.npz").exists()


@pytest.mark.parametrize("harm", ["array", "missing", "fingerprint", "no zip", "empty"])
def test_a_file_that_is_not_what_was_kept_is_refused(problem, tmp_path, monkeypatch, harm):
    monkeypatch.setattr(monte_carlo, "BATCH", 100)
    file = tmp_path / "draws.npz"
    with pytest.raises(KeyboardInterrupt):
        run(problem, num_samples=450, partial=file, progress=stop_after(150))
    with np.load(file) as kept:
        arrays = dict(kept)
    if harm == "array":
        arrays["raw"] = arrays["raw"] + 1e-9
    elif harm == "missing":
        del arrays["generator"]
    elif harm == "fingerprint":
        arrays["fingerprint"] = np.array("[" * 10_000)
    np.savez(file, **arrays)
    if harm in ("no zip", "empty"):
        file.write_bytes(b"step,seconds" * (harm == "no zip"))
    with pytest.raises(InputError, match=r"cannot be resumed: it .*damaged"):
        run(problem, num_samples=450, partial=file, resume=True)
