"""`klprobe data`, and training and estimating on one's own files."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from klprobe import registry
from klprobe.cli import main
from klprobe.datasets.svhn import Svhn
from klprobe.files.downloads import Download


def run(capsys, *arguments, code=0):
    found = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert found == code, out + err
    return err if code else out


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "photos" / f"{i:02d}.png")
    return tmp_path / "photos"


def test_list_says_of_each_set_whether_it_is_here_and_what_to_do(tmp_path, capsys):
    lines = run(capsys, "data", "list", "--data-root", tmp_path).splitlines()
    assert str(tmp_path) in lines[0]
    assert [line.split()[0] for line in lines[1:]] == list(registry.names("datasets"))
    assert max(map(len, lines)) <= 160
    said = "\n".join(lines)
    for words in ("klprobe data fetch svhn", "klprobe data fetch celeba says what to put where"):
        assert words in said
    (tmp_path / "cifar-10" / "cifar-10-batches-bin").mkdir(parents=True)
    assert any(
        line.startswith("cifar-10       partial") for line in run(capsys, "data", "list", "--data-root", tmp_path).splitlines()
    )
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / "cifar-10" / "cifar-10-batches-bin" / f"{name}.bin").touch()
    rows = {row["name"]: row for row in json.loads(run(capsys, "data", "list", "--data-root", tmp_path, "--json"))}
    assert rows["cifar-10"] == {
        "name": "cifar-10",
        "state": "here",
        "where": str(tmp_path / "cifar-10" / "cifar-10-batches-bin"),
    }
    assert {rows[name]["state"] for name in ("digits", "ring", "grid", "gaussians")} == {"built in"}
    assert {rows[name]["state"] for name in ("image-folder", "array-file")} == {"yours"}


def test_fetch_puts_the_files_where_the_set_looks_for_them(tmp_path, capsys, monkeypatch):
    downloads = []
    for part in ("train", "test"):
        source = tmp_path / f"{part}_32x32.mat"
        source.write_bytes(part.encode())
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        downloads.append(Download(f"svhn/{source.name}", (source.as_uri(),), digest))
    monkeypatch.setattr(Svhn, "downloads", tuple(downloads))
    printed = run(capsys, "data", "fetch", "svhn", "digits", "--data-root", tmp_path / "data").splitlines()
    paths = [str(tmp_path / "data" / "svhn" / f"{part}_32x32.mat") for part in ("train", "test")]
    assert printed == [*paths, "digits needs no download."]
    assert str(Svhn().locate(tmp_path / "data")) == str(tmp_path / "data" / "svhn")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["needs to be told what to do", "list, fetch, show"]),
        (["lst"], ["'lst'"]),
        (["fetch"], ["needs the names"]),
        (["fetch", "mnits"], ["Did you mean 'mnist'"]),
        (["fetch", "celeba", "--data-root", "nowhere"], ["mmlab", "nowhere/celeba"]),
        (["fetch", "mnist", "--dataroot", "x"], ["did you mean --data-root?"]),
        (["show"], ["the name of one data set"]),
        (["show", "mnist", "digits"], ["got 2"]),
        (["show", "mnist", "--data-root", "nowhere"], ["klprobe data fetch mnist"]),
        (["show", "digits", "--num", "0"], ["--num"]),
        (["show", "digits", "--split", "half"], ["'half'"]),
        (["show", "digits", "--split", "validation"], ["digits has no split validation", "digits:validation=1000"]),
        (["show", "digits", "--strict"], ["--strict is for data sets of image files"]),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused_in_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    err = run(capsys, "data", *arguments, code=2)
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not list(tmp_path.iterdir())


def test_help_names_the_three(capsys):
    out = run(capsys, "data", "--help")
    for word in ("list", "fetch", "show"):
        assert word in out
    assert "--num" in run(capsys, "data", "show", "--help")


def test_show_counts_the_classes_measures_the_range_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from sklearn.datasets import load_digits

    x = load_digits().data / 16
    facts = json.loads(run(capsys, "data", "show", "digits", "--split", "all", "--json", "--num", "9"))
    assert (facts["num_points"], facts["shape"], facts["dtype"], facts["range"]) == (1797, [64], "float32", [0, 1])
    assert facts["mean"] == pytest.approx(x.mean(), rel=1e-12)
    assert facts["std"] == pytest.approx(x.std(), rel=1e-12)
    assert facts["classes"] == {str(d): int(n) for d, n in enumerate(np.bincount(load_digits().target))}
    assert facts["picture"] == "digits.png"
    assert Image.open(tmp_path / "digits.png").size == (3 * 32 + 2, 3 * 32 + 2)
    out = run(capsys, "data", "show", "ring", "--out", tmp_path / "deep" / "ring.png")
    for words in ("ring (train): 50,000 points of shape 2, float32", "classes  8; 0: 6,", "ring.png"):
        assert words in out
    out = run(capsys, "data", "show", "gaussians:dim=3")
    assert "picture  none" in out
    assert "classes" not in out


def test_show_says_what_was_left_out_or_stops(photos, capsys, monkeypatch):
    monkeypatch.chdir(photos.parent)
    (photos / "03.png").write_bytes(b"no image")
    assert main(["data", "show", "photos", "--split", "all"]) == 0
    out, err = capsys.readouterr()
    assert "39 points of shape 1 x 8 x 8, uint8" in out
    assert err == "klprobe: photos: 1 of 40 images do not decode and are left out: 03.png.\n"
    assert "03.png cannot be read" in run(capsys, "data", "show", "photos", "--strict", code=2)


@pytest.mark.parametrize("kind", ["folder", "npy"])
def test_a_system_trained_on_ones_own_files_is_estimated_on_those_held_out(photos, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 6)))
    name = "photos" if kind == "folder" else "x.npy"
    if kind == "folder":
        name = "image-folder:path=photos:resize=28"
    flags = ["--steps", "2", "--batch-size", "8", "--latent-dim", "2", "--out", "run", "--device", "cpu"]
    run(capsys, "train", "vae", "--dataset", name, "--visible", "laplace", *flags)
    path = tmp_path / "run" / "checkpoint.safetensors"
    methods = ["--methods", "closed-form", "--device", "cpu", "--json"]
    document = json.loads(run(capsys, "estimate", "--checkpoint", path, "--split", "test", *methods))
    assert document["num_points"] == 4
    assert (document["provenance"]["split"], document["provenance"]["trained_on"]) == ("test", "train")
