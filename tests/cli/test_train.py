"""`klprobe train`, `sample`, `reconstruct` and `estimate` over the systems."""

import pytest

from klprobe import registry
from klprobe.cli import main

SMALL = ["--dataset", "ring", "--steps", "4", "--latent-dim", "2", "--width", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of a system with an encoder and of one without, and the pictures that training left."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in (("dcgan", []), ("ali", ["--code-width", "8"])):
        assert main(["train", name, *SMALL, *flags, "--out", str(folder / name), "--pictures-every", "2"]) == 0
    return {name: folder / name / "checkpoint.safetensors" for name in ("dcgan", "ali")}


def refused(capsys, code, *words):
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize("name", registry.names("trainers"))
def test_every_system_has_its_own_help(name, capsys):
    assert main(["train", name, "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("--dataset", "--features" if name == "classifier" else "--latent-dim", "--resume", "Reference:"):
        assert word in out


def test_the_list_names_every_system_with_a_line(capsys):
    assert main(["list"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    said = {line[0]: line[1] for line in lines if len(line) == 2}
    for name in registry.names("trainers"):
        assert len(said[name]) > 20


def test_training_leaves_pictures_every_so_often(trained):
    names = {name: {p.name for p in path.parent.glob("*.png")} for name, path in trained.items()}
    samples = {"samples-0000002.png", "samples-0000004.png"}
    assert names["dcgan"] >= samples
    assert names["ali"] >= samples | {"reconstructions-0000002.png", "reconstructions-0000004.png"}


def test_sampling_depends_on_the_seed_alone(trained, tmp_path, capsys):
    content = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.png"
        flags = ["--checkpoint", str(trained["dcgan"]), "--out", str(out), "--seed", seed, "--num", "9", "--device", "cpu"]
        assert main(["sample", *flags]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        content.append(out.read_bytes())
    assert content[0] == content[1] != content[2]


def test_reconstructions_come_from_the_data_trained_on(trained, capsys):
    assert main(["reconstruct", "--checkpoint", str(trained["ali"]), "--num", "5"]) == 0
    assert capsys.readouterr().out.strip() == str(trained["ali"].with_name("reconstructions.png"))
    assert trained["ali"].with_name("reconstructions.png").stat().st_size > 1000


def test_what_cannot_be_done_is_refused_in_one_line(trained, capsys):
    gan, ali = str(trained["dcgan"]), str(trained["ali"])
    refused(capsys, main(["estimate", "--checkpoint", gan]), "dcgan, which has no encoder", "klprobe sample --checkpoint")
    refused(capsys, main(["reconstruct", "--checkpoint", gan]), "dcgan, which has no encoder", "klprobe sample --checkpoint")
    refused(capsys, main(["reconstruct", "--checkpoint", ali, "--data", "digits"]), "(2,)", "(64,)")
    refused(capsys, main(["reconstruct", "--checkpoint", ali, "--num", "1"]), "at least 2")
    refused(capsys, main(["sample", "--checkpoint", ali, "--num", "0"]), "at least 1")
    refused(capsys, main(["sample", "--checkpoint", "nowhere.safetensors"]), "no checkpoint nowhere")


def test_an_encoder_on_the_sphere_is_estimated_against_its_own_prior(tmp_path, capsys):
    assert main(["train", "age", *SMALL, "--out", str(tmp_path)]) == 0
    path = str(tmp_path / "checkpoint.safetensors")
    flags = ["--split", "test", "--methods", "classifier", "--classifier.steps", "2", "--device", "cpu"]
    assert main(["estimate", "--checkpoint", path, *flags]) == 0
    assert "deterministic" in capsys.readouterr().out
    refused(capsys, main(["estimate", "--checkpoint", path, "--methods", "monte-carlo"]), "density")
