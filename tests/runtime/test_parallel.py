"""Several processes give the number of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from klprobe import registry
from klprobe.runtime import parallel
from klprobe.trainers.vae import VAE
from klprobe.training import checkpoint
from klprobe.training.loop import train
from klprobe.types import InputError

PROGRAM = """
import json, sys
import torch
from klprobe.runtime import parallel
from klprobe.distributions.posteriors import as_posterior
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.distributions.problems import linear_gaussian_encoder
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_all(processes, arguments):
    """The program in several processes that find each other, in the order of their ranks."""
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", *arguments]
    return [
        subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]


def run(processes, kind):
    answers = [json.loads(p.communicate(timeout=120)[0]) for p in start_all(processes, [PROGRAM, kind])]
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


TRAINING = """
import sys
from dataclasses import dataclass
from pathlib import Path
import torch
from klprobe import registry
from klprobe.runtime import parallel
from klprobe.trainers.aae import AAE
from klprobe.trainers.vae import VAE
from klprobe.training.loop import train
torch.set_num_threads(1)
parallel.start("cpu")
kept = []

def watching(kind):
    @dataclass(frozen=True)
    class Watched(kind):
        def players(self, networks):
            kept.append(networks)
            return super().players(networks)
    return Watched

small = {"latent_dim": 3, "batch_size": 16, "width": 8, "layers": 1}
name, out = sys.argv[1], Path(sys.argv[2])
if name == "vae":  # on images, with noise and batch statistics
    data, system = registry.load("datasets", "digits")().load("train"), watching(VAE)(**small)
else:  # two players
    data = registry.load("datasets", "ring")().load("train")
    system = watching(AAE)(**small, code_width=8, code_layers=1, reconstruction_weight=5.0)
train(system, data, steps=10, out=out, log_every=5)
rank, _ = parallel.rank_and_size()
torch.save(kept[0].state_dict(), out / f"rank{rank}.pt")
parallel.stop()
"""


def trained(processes, name, out):
    out.mkdir()
    for program in start_all(processes, [TRAINING, name, str(out)]):
        assert program.wait(timeout=120) == 0
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize("name", ["vae", "aae"])
def test_two_processes_train_one_set_of_weights_and_write_them_once(name, tmp_path):
    first, second = trained(2, name, tmp_path / "two")
    assert all(torch.equal(first[key], second[key]) for key in first)
    saved, _ = checkpoint.read(tmp_path / "two" / "checkpoint.safetensors")
    assert all(torch.equal(saved[f"networks.{key}"], first[key]) for key in first)
    assert [line.split(",")[0] for line in (tmp_path / "two" / "metrics.csv").read_text().splitlines()] == ["step", "5", "10"]
    assert not all(torch.equal(first[key], value) for key, value in trained(1, name, tmp_path / "one")[0].items())


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "rank_and_size", lambda: (0, 3))
    with pytest.raises(InputError, match="3 processes cannot share batches of 64"):
        train(VAE(visible="laplace"), registry.load("datasets", "ring")().load("train"), steps=1, out=tmp_path)
