"""`klprobe compare`: systems with and without an encoder, and arrays, side by side."""

import json

import numpy as np
import pytest

from klprobe.cli import main
from klprobe.types import InputError


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = ["--dataset", "digits", "--steps", "5", "--latent-dim", "2", "--width", "8", "--device", "cpu"]
    for name in ("vae", "dcgan"):
        assert main(["train", name, *small, "--pictures-every", "0", "--out", str(folder / name)]) == 0
    rng = np.random.default_rng(0)
    np.savez(folder / "arrays.npz", mean=rng.normal(size=(100, 2)), std=np.full((100, 2), 0.5))
    return [str(folder / name / "checkpoint.safetensors") for name in ("vae", "dcgan")] + [str(folder / "arrays.npz")]


def test_each_checkpoint_has_its_column_and_each_dash_a_reason(paths, tmp_path, capsys):
    flags = ["--metrics", "ms-ssim", "--device", "cpu", "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["compare", *paths, *flags]) == 0
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if line.startswith("quantity"))
    assert head.split() == ["quantity", "vae", "dcgan", "arrays.npz", "real", "data", "better"]
    assert "mutual information" in out
    assert "dcgan, KL: " in out
    assert "arrays.npz, metrics: the metrics need a checkpoint of klprobe train" in out
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [c["report"] is None for c in document["checkpoints"]] == [False, True, False]
    assert document["checkpoints"][0]["report"]["brackets"]["population"]["upper"]["value"] > 0


def test_without_metrics_it_is_about_the_kl_and_json_is_the_document(paths, capsys):
    assert main(["compare", paths[0], paths[2], "--device", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [c["evaluation"] for c in document["checkpoints"]] == [None, None]


def test_an_encoder_that_gives_samples_alone_has_its_bounds_from_them(paths, tmp_path, capsys, monkeypatch):
    asked = []

    def remember(*_, methods, **__):
        asked.append(methods)
        raise InputError("no more")

    monkeypatch.setattr("klprobe.cli.compare.estimate", remember)
    np.savez(tmp_path / "samples.npz", samples=np.random.default_rng(0).normal(size=(200, 2)))
    assert main(["compare", str(tmp_path / "samples.npz"), paths[0], "--device", "cpu"]) == 2
    assert main(["compare", paths[0], "--methods", "auto", "--device", "cpu"]) == 2
    assert asked == [["classifier", "gmm"], ["closed-form", "monte-carlo"], ["auto"]]


def test_what_cannot_be_compared_is_refused(paths, capsys):
    assert main(["compare", paths[1], "--device", "cpu"]) == 2
    assert "has no encoder" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "paths of checkpoints" in capsys.readouterr().err
    assert main(["compare", paths[0], "nowhere.npz"]) == 2
    assert "no checkpoint nowhere.npz" in capsys.readouterr().err


def test_data_that_do_not_fit_are_said_of_each_checkpoint(paths, capsys):
    assert main(["compare", paths[0], paths[2], "--data", "ring", "--metrics", "fid", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "vae, metrics: checkpoint.safetensors makes points of shape (64,)" in said
    assert "arrays.npz, KL: arrays.npz holds posteriors" in said
    assert ".." not in said
