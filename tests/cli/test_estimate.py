"""`klprobe estimate --checkpoint q.npz --prior p.npz` with samples in both: KL between what two clouds were drawn from."""

import json

import numpy as np
import pytest

from klprobe.cli import main

QUICK = ["--knn.num-samples", "2000", "--json"]


@pytest.fixture
def clouds(tmp_path):
    random = np.random.default_rng(0)
    q = 0.5 + random.normal(size=(3000, 2))
    np.savez(tmp_path / "q.npz", samples=q)
    np.savez(tmp_path / "p.npz", samples=random.normal(size=(4000, 2)))
    np.savez(tmp_path / "gaussians.npz", mean=q, logvar=np.zeros_like(q))
    np.savez(tmp_path / "wide.npz", samples=random.normal(size=(400, 3)))
    np.savez(tmp_path / "few.npz", samples=random.normal(size=(10, 2)))
    return tmp_path


def run(clouds, prior, *flags, checkpoint="q.npz"):
    return main(["estimate", "--checkpoint", str(clouds / checkpoint), "--prior", prior, *map(str, flags)])


@pytest.mark.parametrize("prefix", ["", "samples:"])
@pytest.mark.parametrize("checkpoint", ["q.npz", "gaussians.npz"])
def test_two_files_of_samples_give_the_kl_between_them(clouds, capsys, prefix, checkpoint):
    """N((0.5, 0.5), I), or N(same, 2 I) when every sample is a Gaussian's mean, against N(0, I): 0.25 or 0.557 nats.

    2,000 neighbours of a narrower p see little of q's tails, and say 0.2 nats too little of the second.
    """
    assert run(clouds, f"{prefix}{clouds / 'p.npz'}", "--methods", "knn", *QUICK, checkpoint=checkpoint) == 0
    document = json.loads(capsys.readouterr().out)
    (e,) = document["estimates"]
    truth = 0.25 if checkpoint == "q.npz" else 0.5 * 2 * (2 - 1 - np.log(2)) + 0.25
    assert abs(e["value"] - truth) < (0.05 if checkpoint == "q.npz" else 0.2) + 4 * e["std_error"]
    assert "4000 samples" in document["provenance"]["prior"]


@pytest.mark.parametrize("method", ["monte-carlo", "gmm", "maf", "closed-form"])
def test_methods_that_need_a_density_of_the_prior_refuse_a_cloud_with_the_reason(clouds, capsys, method):
    assert run(clouds, str(clouds / "p.npz"), "--methods", method, checkpoint="gaussians.npz") == 2
    error = capsys.readouterr().err
    assert method in error
    assert "cloud of 4000 samples" in error


def test_what_is_no_cloud_of_the_right_size_is_refused(clouds, capsys):
    for prior, words in (
        (clouds / "wide.npz", "2 latents"),
        (clouds / "gaussians.npz", "mixture:"),
        (clouds / "none.npz", "does not exist"),
        ("samples:", "needs a file"),
    ):
        assert run(clouds, str(prior), "--methods", "knn", *QUICK) == 2
        assert words in capsys.readouterr().err
    assert run(clouds, str(clouds / "few.npz"), "--methods", "classifier") == 2
    assert "10 are too few" in capsys.readouterr().err
