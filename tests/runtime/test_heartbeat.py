"""A process that is killed, stopped, or holds other data ends all of them in seconds, with a sentence and the draws kept."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from klprobe.runtime.folder_lock import LOCK
from klprobe.runtime.heartbeat import LIMIT
from tests.runtime.test_parallel import free_port

ENDLESS = ["--methods", "monte-carlo", "--num-samples", "100000000", "--monte-carlo.max-samples", "100000000"]


@pytest.fixture
def posterior(tmp_path):
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(3000, 4)), rng.normal(size=(3000, 4)) - 2
    np.savez(tmp_path / "q.npz", mean=mean, logvar=logvar)
    mean[-1, -1] += 1e-9
    np.savez(tmp_path / "other.npz", mean=mean, logvar=logvar)
    return tmp_path / "q.npz"


def start(checkpoints, *flags):
    """`klprobe estimate` in one process a checkpoint, as srun would start them."""
    place = {"WORLD_SIZE": str(len(checkpoints)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "klprobe", "estimate", "--checkpoint", path, *flags],
            env=os.environ | place | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, path in enumerate(checkpoints)
    ]


def ends(process, timeout):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def test_processes_with_different_data_of_one_shape_are_refused(posterior):
    runs = start([posterior, posterior.with_name("other.npz")], "--methods", "monte-carlo", "--num-samples", "200", "--json")
    for code, out, err in [ends(run, 60) for run in runs]:
        assert code == 2
        assert out == ""
        assert "do not hold the same posterior and prior: process 1 differs" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT])
def test_when_one_process_is_lost_the_first_says_so_in_seconds_and_keeps_the_draws(number, posterior, tmp_path):
    out = tmp_path / "out"
    first, second = start([posterior, posterior], *ENDLESS, "--out", out)
    partial = out / "monte-carlo.partial.npz"
    while not (out / LOCK).exists():  # which is when they have joined
        time.sleep(0.1)
        assert first.poll() is None
    time.sleep(3)
    begun = time.monotonic()
    second.send_signal(number)
    code, _, err = ends(first, LIMIT + 20)
    second.kill()
    assert code == 130
    assert time.monotonic() - begun < LIMIT + 15
    assert "Traceback" not in err
    assert "process" in err
    assert partial.exists()


@pytest.mark.slow
def test_a_process_that_has_a_bad_file_ends_the_others(posterior, tmp_path):
    first, second = start([posterior, tmp_path / "none.npz"], *ENDLESS)
    code, _, err = ends(second, 60)
    assert code == 2
    assert "none.npz" in err
    code, _, err = ends(first, LIMIT + 20)
    assert code != 0
    assert "process" in err


@pytest.mark.slow
def test_a_process_that_computes_for_longer_than_the_limit_is_alive(tmp_path):
    program = f"""
import sys, time, torch
from klprobe.runtime import parallel
parallel.start("cpu")
rank, size = parallel.rank_and_size()
end = time.monotonic() + rank * {LIMIT + 5}
while time.monotonic() < end:
    torch.ones(300, 300) @ torch.ones(300, 300)
print(parallel.add_up(torch.tensor([1.0])).tolist())
parallel.stop()
"""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", program]
    runs = [
        subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    assert [json.loads(run.communicate(timeout=90)[0]) for run in runs] == [[2.0], [2.0]]
