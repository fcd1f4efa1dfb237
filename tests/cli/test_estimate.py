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


@pytest.fixture
def donors(tmp_path):
    """40 groups of 10 points that are nearly the same, with a table of whose they are."""
    random = np.random.default_rng(0)
    mean = np.repeat(random.normal(size=(40, 2)), 10, 0) + 0.01 * random.normal(size=(400, 2))
    np.savez(tmp_path / "q.npz", mean=mean, std=np.full_like(mean, 0.4))
    rows = "".join(f"d{i // 10},{1 + i % 3}\n" for i in range(400))
    (tmp_path / "table.csv").write_text("donor,w\n" + rows, encoding="utf-8")
    return tmp_path


def bound(donors, capsys, *flags):
    status = main(["estimate", "--checkpoint", str(donors / "q.npz"), "--methods", "monte-carlo", "--json", *flags])
    document = json.loads(capsys.readouterr().out)
    (e,) = [e for e in document["estimates"] if e["quantity"] == "leave-one-out"]
    assert status == 0
    return document, e


def test_groups_and_weights_come_from_a_table(donors, capsys):
    _, alone = bound(donors, capsys)
    document, grouped = bound(donors, capsys, "--groups", f"{donors / 'table.csv'}:donor")
    assert grouped["value"] < alone["value"] - 0.1
    assert grouped["std_error"] > 1.5 * alone["std_error"]
    assert document["provenance"]["rows"].startswith("40 groups of points")
    document, _ = bound(donors, capsys, "--groups", f"{donors / 'table.csv'}:donor", "--weights", f"{donors / 'table.csv'}:w")
    assert "weights that leave" in document["provenance"]["rows"]


@pytest.mark.parametrize("flags", [("--groups", "table.csv:owner"), ("--weights", "table.csv:donor"), ("--groups", "none.csv")])
def test_a_column_that_cannot_be_used_is_refused_in_one_line(donors, capsys, monkeypatch, flags):
    monkeypatch.chdir(donors)
    assert main(["estimate", "--checkpoint", "q.npz", "--methods", "monte-carlo", *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip().splitlines()[-1].startswith(f"klprobe: {flags[0]}")
