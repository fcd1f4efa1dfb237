"""Data as users hand them over on the command line: the right number, or one line that says what to type."""

import contextlib
import io
import json
import math
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from klprobe.cli import main

ENCODER = """
import torch
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, x):
        mean = x.flatten(1)[:, :3] * self.scale
        return mean, torch.full_like(mean, -1.0)
calls = []
def counted():
    calls.append(1)
    return Encoder()
"""
RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (200, 1, 4, 4))
LEVELS[0, 0, 0, :2] = 0, 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("own")
    (here / "own_encoder.py").write_text(ENCODER)
    torch.save({"scale": torch.ones(1)}, here / "weights.pt")
    unit = LEVELS / 255
    arrays = {
        "bytes": LEVELS.astype("u1"),
        "int64": LEVELS,
        "float255": LEVELS.astype("f4"),
        "float64": LEVELS.astype("f8"),
        "big": LEVELS.astype(">i4"),
        "u16": (LEVELS * 257).astype("u2"),
        "twelve": (LEVELS * 16).astype("u2"),
        "unit": unit.astype("f4"),
        "half": unit.astype("f2"),
        "last": unit.transpose(0, 2, 3, 1).astype("f4"),
        "fortran": np.asfortranarray(unit),
        "flat": LEVELS.reshape(200, 16),
        "codes": RNG.normal(size=(500, 3)),
        "one_dimension": RNG.normal(size=500),
        "empty": np.zeros((0, 3)),
        "hole": np.where(np.arange(600).reshape(200, 3) == 7, np.nan, 0.5),
        "complex": RNG.normal(size=(9, 3)) * 1j,
        "strings": np.array([["a", "b"]]),
    }
    for name, array in arrays.items():
        np.save(here / f"{name}.npy", array)
    np.save(here / "objects.npy", np.array([[1, 2], [3, 4]], dtype=object), allow_pickle=True)
    for name, white in (("png8", 255), ("png12", 4095), ("png16", 65535)):
        (here / name).mkdir()
        for i, image in enumerate(LEVELS[:40, 0]):
            stored = image.astype("u1") if white == 255 else (image * (white // 255)).astype("u2")
            Image.fromarray(stored).save(here / name / f"{i:02}.png")
    (here / "mixed").mkdir()
    for i, image in enumerate(LEVELS[:40, 0]):
        array = image.astype("u1")
        Image.fromarray(array if i == 30 else np.stack([array] * 3, 2)).save(here / "mixed" / f"{i:02}.png")
    (here / "mixed" / "._00.png").write_bytes(b"\0\5\x16\7")
    (here / "mixed" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (9, 9)).save(here / "mixed" / ".ipynb_checkpoints" / "00-checkpoint.png")
    pd.DataFrame(LEVELS.reshape(200, 16)).assign(label=3).to_csv(here / "table.csv")
    pd.DataFrame(unit.reshape(200, 16)).to_csv(here / "unit.tsv", sep="\t", index=False, header=False)
    pd.DataFrame({"a": [1.0, 2.0], "kind": ["x", "y"]}).to_csv(here / "text.csv", index=False)
    mean = RNG.normal(size=(300, 3))
    columns = [*(f"mean_{i}" for i in range(3)), *(f"logvar_{i}" for i in range(3))]
    pd.DataFrame(np.concatenate([mean, np.full((300, 3), -1.0)], 1), columns=columns).to_csv(here / "q.csv", index=False)
    np.savez(here / "q.npz", mean=mean, logvar=np.full((300, 3), -1.0))
    pd.DataFrame(arrays["codes"], columns=["z1", "z2", "z3"]).to_csv(here / "codes.csv", index=False)
    for prefix, part in (("train", slice(3)), ("t10k", slice(3, 5))):
        for kind, array in (("images-idx3", np.resize(LEVELS, (5, 28, 28))), ("labels-idx1", np.arange(5))):
            path = here / "MNIST" / "raw" / f"{prefix}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            head = bytes([0, 0, 8, array[part].ndim]) + struct.pack(f">{array.ndim}I", *array[part].shape)
            path.write_bytes(head + array[part].astype("u1").tobytes())
    return here


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))

    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def estimate(run):
    flags = ["--methods", "closed-form", "--json", "--device", "cpu"]
    encoder = ["--checkpoint", "weights.pt", "--encoder", "own_encoder:Encoder"]

    def estimate(*arguments, checkpoint=None):
        source = encoder if checkpoint is None else ["--checkpoint", checkpoint]
        return run("estimate", *source, *flags, *arguments)

    return estimate


def average(mean, logvar=-1.0):
    """The average KL to N(0, I), in nats."""
    return float((0.5 * (mean**2 + math.exp(logvar) - 1 - logvar)).sum(1).mean())


def answered(result):
    code, out, err = result
    assert code == 0, err
    document = json.loads(out)
    checks = {check["name"]: check for check in document["checks"]}
    return document["average_kl"]["value"], checks, err


UNIT = average(LEVELS.reshape(200, 16)[:, :3] / 255)
RAW = average(LEVELS.reshape(200, 16)[:, :3] * 1.0)


@pytest.mark.parametrize(
    ("data", "flags", "truth", "fits"),
    [
        ("bytes.npy", [], UNIT, True),
        ("unit.npy", [], UNIT, True),
        ("half.npy", [], UNIT, True),
        ("last.npy", [], UNIT, True),
        ("fortran.npy", [], UNIT, True),
        ("unit.tsv", [], UNIT, True),
        ("int64.npy", [], RAW, False),
        ("float255.npy", [], RAW, False),
        ("float64.npy", [], RAW, False),
        ("big.npy", [], RAW, False),
        ("flat.npy", [], RAW, False),
        ("table.csv", [], RAW, False),
        ("u16.npy", [], RAW * 0, False),
        ("int64.npy", ["--scale", 255], UNIT, True),
        ("float255.npy", ["--scale", 255], UNIT, True),
        ("float64.npy", ["--scale=255"], UNIT, True),
        ("big.npy", ["--scale", 255], UNIT, True),
        ("flat.npy", ["--scale", 255], UNIT, True),
        ("table.csv", ["--scale", 255], UNIT, True),
        ("u16.npy", ["--scale", 65535], UNIT, True),
        ("twelve.npy", ["--scale", 4080], UNIT, True),
        ("bytes.npy", ["--scale", 1], RAW, False),
    ],
)
def test_levels_are_scaled_when_that_is_asked_for_and_said_and_warned_of_when_not(estimate, data, flags, truth, fits):
    value, checks, err = answered(estimate("--data", data, *flags))
    if truth:
        assert value == pytest.approx(truth, rel=2e-3 if data == "half.npy" else 1e-6)
    assert checks["input-range"]["passed"] is fits
    assert "from 0 to 1" in err if fits else "whole numbers from 0 to" in err
    assert ("--scale" in checks["input-range"]["message"]) != fits


@pytest.mark.parametrize(
    ("name", "flags", "fits"),
    [("png8", [], True), ("png16", [], True), ("png12", [], False), ("png12", ["--scale", 4080], True)],
)
def test_images_of_12_bits_in_files_of_16_are_nearly_black_until_they_are_scaled(estimate, name, flags, fits):
    value, checks, _ = answered(estimate("--data", name, *flags))
    points = LEVELS[:40].reshape(40, 16)[:, :3] / 255
    assert value == pytest.approx(average(points if fits else points * 255 * 16 / 65535), rel=1e-5)
    assert checks["input-range"]["passed"] is fits
    assert fits or "nearly black" in checks["input-range"]["message"]


def test_one_grey_image_among_colours_becomes_colours_on_request_and_hidden_ones_are_counted(estimate, run):
    code, _, err = estimate("--data", "mixed")
    assert code == 2
    assert "--rgb to make grey images three equal channels" in err
    value, _, err = answered(estimate("--data", "mixed", "--rgb"))
    assert value == pytest.approx(average(LEVELS[:40].reshape(40, 16)[:, :3] / 255), rel=1e-6)
    assert "mixed: 2 hidden images were passed over" in err
    code, _, err = run("data", "show", "mixed", "--json", "--out", "mixed.png")
    assert code == 2
    assert "mixed:rgb" in err
    code, out, err = run("data", "show", "mixed:rgb:held_out=0", "--json", "--out", "mixed.png")
    assert (code, json.loads(out)["num_points"], json.loads(out)["shape"]) == (0, 40, [3, 4, 4])
    assert "2 hidden images" in err


def test_a_data_set_to_train_on_is_scaled_by_its_name(run):
    code, out, err = run("data", "show", "int64.npy", "--split", "all", "--out", "o.png")
    assert code == 0
    assert "int64.npy:scale=255 makes them [0, 1]" in err
    code, out, err = run("data", "show", "int64.npy:scale=255", "--split", "all", "--out", "o.png")
    assert (code, err) == (0, "")
    code, out, err = run("data", "show", "png12:held_out=0", "--out", "o.png")
    assert "nearly black" in err
    code, out, err = run("data", "show", "png12:held_out=0:scale=4080", "--out", "o.png", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["range"] == [0, 255]


def test_tables_of_mean_and_logvar_and_arrays_of_samples_are_posteriors_and_priors(estimate, run):
    value, _, _ = answered(estimate(checkpoint="q.csv"))
    assert value == pytest.approx(answered(estimate(checkpoint="q.npz"))[0], rel=1e-12)
    for codes in ("codes.npy", "codes.csv"):
        code, _, err = run("estimate", "--checkpoint", codes, "--methods", "gmm", "--gmm.steps", 50)
        assert code == 0, err
        assert "taken for samples" in err
        code, _, err = run("estimate", "--checkpoint", "q.npz", "--prior", codes, "--methods", "knn")
        assert code == 0, err


def test_the_layout_of_torchvision_is_mnist(estimate, run):
    value, _, _ = answered(estimate("--data", "mnist", "--data-root", ".", "--split", "test"))
    assert value == pytest.approx(average(np.resize(LEVELS, (5, 28, 28))[3:].reshape(2, -1)[:, :3] / 255), rel=1e-5)
    for given in ("MNIST", "MNIST/raw"):
        code, _, err = estimate("--data", given)
        assert code == 2
        assert "give the set by its name, such as mnist" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "Digits"], "Did you mean 'digits'"),
        (["--data", "FASHION_MNIST"], "Did you mean 'fashion-mnist'"),
        (["--data", "cifar10"], "Did you mean 'cifar-10'"),
        (["--data", ""], "--data is given without a value"),
        (["--data", "none.npy"], "does not exist"),
        (["--data", "none/photos"], "does not exist"),
        (["--data", "bytes.npy:flip"], "takes no settings here"),
        (["--data", "own_encoder.py"], "neither an array"),
        (["--data", "weights.pt"], "neither an array"),
        (["--data", "one_dimension.npy"], "data are numbers of shape (N, ...)"),
        (["--data", "empty.npy"], "holds nothing"),
        (["--data", "hole.npy"], "NaN or infinite numbers, first at point 2"),
        (["--data", "complex.npy"], "complex128"),
        (["--data", "strings.npy"], "<U1"),
        (["--data", "objects.npy"], "object array"),
        (["--data", "text.csv"], "column 'kind' holds text"),
        (["--data", "own_encoder:Encoder"], "which cannot be turned into data"),
        (["--data", "own_encoder:nothing"], "has no nothing"),
        (["--data", "no_module:x"], "cannot be imported"),
        (["--data", "/dev/null"], "neither an array"),
        (["--data", "codes.npy", "--gray"], "need images"),
        (["--data", "codes.npy", "--rgb"], "need images"),
        (["--data", "bytes.npy", "--rgb", "--gray"], "contradict each other"),
        (["--data", "codes.npy", "--scale", "0"], "above 0; got 0"),
        (["--data", "codes.npy", "--scale=-1"], "above 0; got -1"),
        (["--data", "codes.npy", "--scale", "nan"], "got nan"),
        (["--data", "codes.npy", "--scale", "white"], "--scale takes a number"),
        (["--data", "int64.npy", "--range=-1,1"], "give --scale the number that becomes 1"),
        (["--data", "bytes.npy", "--split", "Test"], "did you mean test?"),
        (["--data", "bytes.npy", "--split", "test"], "--split test chooses"),
        (["--Data", "bytes.npy"], "did you mean --data?"),
        (["--data", "bytes.npy", "--prior", "Normal"], "Did you mean 'normal'"),
        (["--data", "bytes.npy", "--prior", "none.npy"], "does not exist"),
        (["--data", "bytes.npy", "--prior", "samples:none.csv"], "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(estimate, flags, words, tmp_path):
    code, out, err = estimate(*flags, "--out", tmp_path / "report")
    assert (code, out) == (2, "")
    assert words in err, err
    last = err.splitlines()[-1]
    assert last.startswith("klprobe: ")
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.*")), "nothing is written"


@pytest.mark.parametrize(
    "flags",
    [
        ["--methods", "Monte-Carlo"],
        ["--methods", "gmm,montecarlo"],
        ["--methods", ","],
        ["--prior", "Sphere"],
        ["--prior", "none.npz"],
    ],
)
def test_names_are_checked_before_data_are_encoded(run, flags):
    import own_encoder

    own_encoder.calls.clear()
    code, _, err = run(
        "estimate", "--checkpoint", "weights.pt", "--encoder", "own_encoder:counted", "--data", "bytes.npy", *flags
    )
    assert (code, err.count("\n"), own_encoder.calls) == (2, 1, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Estimate"], "Did you mean 'estimate'"),
        (["train", "VAE"], "Did you mean 'vae'"),
        (["train", "vae", "--dataset", "Digits", "--steps", "1", "--out", "never"], "Did you mean 'digits'"),
        (["train", "vae", "--dataset", "none.csv", "--steps", "1", "--out", "never"], "does not exist"),
        (["train", "vae", "--dataset", "text.csv", "--steps", "1", "--out", "never"], "holds text"),
        (["data", "show", "KMnist"], "Did you mean 'kmnist'"),
        (["data", "fetch", "Svhn"], "Did you mean 'svhn'"),
        (["data", "show", "int64.npy:scale=-3"], "scale of at least 1"),
        (["data", "show", "png12:scale=100"], "above scale=100"),
        (["data", "show", "mixed:rgb:gray"], "gray or rgb"),
        (["compare", "q.npz", "--methods", "GMM"], "Did you mean 'gmm'"),
        (["evaluate", "--samples", "codes.npy", "--data", "codes.csv", "--metrics", "FID"], "Did you mean 'fid'"),
        (["evaluate", "--samples", "codes.npy"], "--samples needs --data"),
        (["evaluate", "--data", "codes.npy"], "got neither"),
        (["evaluate", "--samples", "codes.npy", "--checkpoint", "weights.pt", "--data", "codes.csv"], "got both"),
        (["evaluate", "--samples", "codes.npy", "--data", "bytes.npy"], "points of shape (3,)"),
        (["evaluate", "--samples", "none.npy", "--data", "bytes.npy"], "does not exist"),
        (["evaluate", "--samples", "codes.npy", "--data", "Mnist"], "Did you mean 'mnist'"),
        (["evaluate", "--samples", "mixed", "--data", "bytes.npy"], "mixed:rgb"),
    ],
)
def test_other_commands_say_what_is_wrong_in_one_line(run, folder, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err
    assert not list((folder / "never").glob("*")), "nothing is written"


def test_samples_alone_are_judged_against_data_without_a_checkpoint(run, tmp_path):
    flags = [
        "--metrics",
        "fid",
        "prdc",
        "c2st",
        "critic",
        "--critic.steps",
        5,
        "--critic.width",
        8,
        "--cache",
        tmp_path / "cache",
    ]
    code, out, err = run(
        "evaluate", "--samples", "codes.npy", "--data", "codes.csv", *flags, "--json", "--out", tmp_path / "out"
    )
    assert code == 0, err
    rows = {row["quantity"]: row for row in json.loads(out)["rows"]}
    assert rows["fid"]["value"] == pytest.approx(0, abs=1e-8)
    assert rows["precision"]["value"] == rows["coverage"]["value"] == 1
    assert {"critic-distance", "c2st-accuracy", "recall", "density"} <= set(rows)
    assert (tmp_path / "out" / "evaluation.html").exists()
    code, out, err = run(
        "evaluate", "--samples", "png8", "--data", "unit.npy", "--metrics", "ms-ssim", "prdc", "--num-samples", 40
    )
    assert code == 0, err
    assert "png8: 40 samples against 40 data of unit.npy" in out


def test_copies_among_samples_are_counted_on_the_screen(run, folder):
    np.save(folder / "copies.npy", np.repeat(RNG.normal(size=(20, 3)), 10, 0))
    code, out, err = run("evaluate", "--samples", "copies.npy", "--data", "codes.npy", "--metrics", "prdc", "--net", "values")
    assert code == 0, err
    assert "200 of 200 samples and 0 of 200 data have a radius of 0" in " ".join(out.split())


def test_whether_points_were_trained_on_is_held_out_trained_on_or_unknown(run, folder, tmp_path):
    assert (
        run(
            "train",
            "vae",
            "--dataset",
            "digits",
            "--steps",
            3,
            "--latent-dim",
            2,
            "--width",
            8,
            "--pictures-every",
            0,
            "--out",
            tmp_path,
        )[0]
        == 0
    )
    system = tmp_path / "checkpoint.safetensors"

    def check(*flags):
        code, out, err = run("estimate", "--checkpoint", system, "--methods", "closed-form", "--json", *flags)
        assert code == 0, err
        return next(check for check in json.loads(out)["checks"] if check["name"] == "held-out-points")

    assert check("--split", "test")["message"] == "the encoder was not trained on these points"
    assert "was trained on ('train')" in check("--split", "all")["message"]
    assert "was trained on ('train')" in check("--split", "train", "--data", "digits")["message"]
    np.save(folder / "digits.npy", RNG.uniform(size=(50, 64)).astype("f4"))
    for flags in (["--data", "digits.npy"], ["--data", "digits:validation=100"]):
        assert (check(*flags)["severity"], check(*flags)["passed"]) == ("unknown", False)
        assert "is unknown" in check(*flags)["message"]
    _, out, _ = run("estimate", "--checkpoint", system, "--methods", "closed-form", "--data", "digits.npy")
    assert "unknown held-out-points: whether the encoder was trained on these points is unknown" in out
    assert "not trained on these points" not in out
