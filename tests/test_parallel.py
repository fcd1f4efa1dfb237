"""Several processes give the number of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, sys
import torch
from klprobe import parallel
from klprobe.distributions import as_posterior
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.problems import linear_gaussian_encoder
torch.set_num_threads(1)
parallel.start("cpu")
problem = linear_gaussian_encoder(4, 9000, 0.3, generator=torch.Generator().manual_seed(0))
q = problem.posterior
if sys.argv[1] == "full":
    mean, std = q.rows(slice(0, 3000))
    q = torch.distributions.MultivariateNormal(mean, scale_tril=torch.diag_embed(std))
found = MonteCarlo(num_samples=300).estimate(q, problem.prior, generator=torch.Generator().manual_seed(1))
rank, _ = parallel.rank_and_size()
print(json.dumps([rank, [[e.value, e.std_error] for e in found]]))
parallel.stop()
"""


def run(processes, kind):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(processes):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-c", PROGRAM, kind]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    answers = [json.loads(p.communicate(timeout=120)[0]) for p in started]
    return [value for _, value in sorted(answers)]


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_one_two_and_three_processes_give_the_same_estimates(kind):
    (alone,), two, three = run(1, kind), run(2, kind), run(3, kind)
    for values in (*two, *three):
        for (value, error), (expected, expected_error) in zip(values, alone, strict=True):
            assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert error == pytest.approx(expected_error, rel=1e-9)
    assert two[0] == two[1]
    assert three[0] == three[1] == three[2]


@pytest.mark.slow
def test_torchrun_gives_the_report_of_one_process_and_prints_it_once(tmp_path):
    numbers = np.random.default_rng(0)
    np.savez(tmp_path / "q.npz", mean=numbers.normal(size=(5000, 4)), logvar=numbers.normal(size=(5000, 4)) - 2)
    flags = ["estimate", "--checkpoint", str(tmp_path / "q.npz"), "--methods", "monte-carlo", "--num-samples", "200", "--json"]
    alone = [sys.executable, "-m", "klprobe", *flags]
    both = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "klprobe", *flags]
    values = []
    for command in (alone, both):
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
        values.append([e["value"] for e in json.loads(printed)["estimates"]])
    assert values[0] == pytest.approx(values[1], rel=1e-12)
