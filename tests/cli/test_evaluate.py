"""`klprobe evaluate`: from a checkpoint to a table and files, and what it refuses."""

import json

import pytest

from klprobe.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = ["--dataset", "digits", "--steps", "5", "--latent-dim", "2", "--width", "8", "--device", "cpu"]
    for name in ("vae", "dcgan"):
        assert main(["train", name, *small, "--pictures-every", "0", "--out", str(folder / name)]) == 0
    assert main(["train", "classifier", *small[:4], "--width", "8", "--device", "cpu", "--out", str(folder / "net")]) == 0
    return {name: str(folder / name / "checkpoint.safetensors") for name in ("vae", "dcgan", "net")}


def run(path, *flags, cache):
    return main(["evaluate", "--checkpoint", path, "--device", "cpu", "--cache", str(cache), "--num-samples", "150", *flags])


def test_the_table_names_the_net_and_the_files_are_there(trained, tmp_path, capsys):
    flags = [
        "--metrics",
        "fid",
        "ms-ssim,modes,latents",
        "--net-steps",
        "3",
        "--out",
        str(tmp_path / "out"),
        "--fid.divisions",
        "2",
    ]
    assert run(trained["vae"], *flags, cache=tmp_path / "cache") == 0
    out, err = capsys.readouterr()
    assert "Feature net: classifier of digits (3 steps" in out
    assert "150 samples against 150 test data of digits" in out
    assert "modes of digits are not known" in out
    assert "not comparable" in out
    assert "trained by klprobe" in err
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["settings"]["fid"] == {"divisions": 2}
    assert {row["metric"] for row in document["rows"]} == {"fid", "ms-ssim", "latents"}
    for name in ("reconstructions", "latents", "radius"):
        assert (tmp_path / "out" / f"evaluation-{name}.png").stat().st_size > 1000


def test_json_is_the_document_and_a_net_can_be_given(trained, tmp_path, capsys):
    flags = ["--metrics", "inception-score", "--net", trained["net"], "--json"]
    assert run(trained["dcgan"], *flags, cache=tmp_path) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["nets"][0].startswith("classifier of digits (5 steps")
    assert document["provenance"]["flags"]["net"] == trained["net"]


def test_help_shows_the_common_flags_and_on_demand_those_of_a_metric(capsys):
    assert main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--num-samples" in out
    assert "--prdc.points" not in out
    assert main(["evaluate", "--help", "fid"]) == 0
    assert "--fid.divisions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--metrics", "fud"], "Did you mean 'fid'"),
        (["--metrics", "elbo"], "No metric gave an answer"),
        (["--metrics", "fid", "--data", "ring"], "points of shape (2,)"),
        (["--metrics", "fid", "--net", "values", "--num-samples", "60"], "at least 65 samples"),
        (["--metrics", "fid", "--net", "nowhere.pt"], "no net nowhere.pt"),
        (["--metrics", "inception-score", "--net", "values"], "has no classes"),
        (["--metrics", "fid", "--net-shape", "big", "--net", "x.pt"], "not a shape"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(trained, tmp_path, capsys, flags, words):
    assert run(trained["dcgan"], *flags, cache=tmp_path) == 2
    assert words in capsys.readouterr().err
