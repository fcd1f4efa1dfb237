"""A name in a file is a stranger's word: every command looks it up among klprobe's own, imports nothing, and says so."""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from klprobe import registry
from klprobe.cli import main
from klprobe.datasets import PythonData, dataset
from klprobe.files.tensor_file import write
from klprobe.trainers.vae import VAE
from klprobe.training.checkpoint import read
from klprobe.training.loop import train
from klprobe.types import InputError

MODULE = "payload_module:x"
FEW = ("--device", "cpu", "--seed", "0")


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    data = registry.load("datasets", "digits")().load("train")
    return train(VAE(latent_dim=2, width=8), data, steps=3, out=tmp_path_factory.mktemp("vae"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a module whose import, and whose `x` when it is called, leave a mark."""
    mark = tmp_path / "ran"
    (tmp_path / "payload_module.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nimport torch\nx = torch.linspace(0, 1, 40 * 64).reshape(40, 64)\n"
    )
    np.savez(tmp_path / "q.npz", mean=np.random.default_rng(0).normal(size=(50, 2)), logvar=np.full((50, 2), -1.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("payload_module", None)


def forged(genuine, **said):
    """The genuine checkpoint, saying something else; settings of the system are given with a double underscore."""
    tensors, settings = read(genuine)
    settings["settings"] |= {key.removeprefix("set__"): value for key, value in said.items() if key.startswith("set__")}
    settings |= {key: value for key, value in said.items() if not key.startswith("set__")}
    write(path := Path("evil.safetensors"), tensors, settings)
    return str(path)


COMMANDS = {
    "estimate": lambda path: ["estimate", "--checkpoint", path, "--methods", "closed-form", *FEW],
    "holes": lambda path: ["holes", "--checkpoint", path, "--num-samples", "1000", *FEW],
    "sample": lambda path: ["sample", "--checkpoint", path, "--num", "4", *FEW],
    "reconstruct": lambda path: ["reconstruct", "--checkpoint", path, "--num", "4", *FEW],
    "evaluate": lambda path: [
        *("evaluate", "--checkpoint", path, "--metrics", "latents", "--net", "values", "--num-samples", "60", *FEW)
    ],
    "compare": lambda path: ["compare", path, "--methods", "closed-form", *FEW],
    "mixture": lambda path: [
        *("estimate", "--checkpoint", "q.npz", "--prior", f"mixture:{path}", "--methods", "monte-carlo", "--num-samples", "50")
    ],
    "samples": lambda path: ["estimate", "--checkpoint", "q.npz", "--prior", f"samples:{path}", "--methods", "monte-carlo"],
    "alone": lambda path: ["estimate", "--checkpoint", "q.npz", "--prior", path, "--methods", "monte-carlo"],
    "vampprior": lambda path: [*("estimate", "--checkpoint", path, "--prior", "vampprior:x.npy", "--methods", "closed-form")],
}
WITH_DATA = ("estimate", "holes", "reconstruct", "evaluate", "compare")
"""Commands whose --data gives the data of the checkpoint."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_module_named_as_data_set_is_not_imported_and_the_message_says_what_to_type(command, genuine, here, capsys):
    code = main(COMMANDS[command](forged(genuine, dataset=MODULE)))
    out, err = capsys.readouterr()
    assert not (here / "ran").exists()
    if command == "sample":  # which needs no data
        assert code == 0
        return
    assert code == 2
    assert out == ""
    remedy = "numpy.savez('prior.npz'" if command in ("mixture", "samples", "alone") else f"give --data {MODULE}."
    assert remedy in err
    assert "does not import because a file says so" in err


@pytest.mark.parametrize("command", WITH_DATA)
def test_a_module_that_the_user_types_is_obeyed(command, genuine, here, capsys):
    code = main([*COMMANDS[command](forged(genuine, dataset=MODULE)), "--data", MODULE])
    assert (code, (here / "ran").exists()) == (0, True), capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_genuine_checkpoint_does_what_it_did(command, genuine, here, capsys):
    np.save(here / "x.npy", registry.load("datasets", "digits")().load("test").x[:5].numpy())
    code = main(COMMANDS[command](str(genuine)))
    if command in ("samples", "alone"):  # a checkpoint with a density is no cloud
        assert code == 2
        assert "takes them as a mixture" in capsys.readouterr().err
    else:
        assert code == 0, capsys.readouterr().err


SETTINGS = [field.name for field in dataclasses.fields(VAE) if isinstance(field.default, str)]
PLACES = [{"system": MODULE}, {"split": MODULE}, {"seed": MODULE}, {"input_shape": MODULE}, {"settings": MODULE}]
PLACES += [{f"set__{name}": MODULE} for name in (*SETTINGS, "width", "nothing_known", "prior", "prior_distribution")]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: next(iter(place)))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_module_named_elsewhere_is_not_imported_either(command, place, genuine, here, capsys):
    code = main(COMMANDS[command](forged(genuine, **place)))
    err = capsys.readouterr().err
    assert not (here / "ran").exists()
    assert code in (0, 2), err
    if next(iter(place)) in ("system", "settings", "set__nothing_known", "set__width"):
        assert code == 2
        assert err.count("\n") == 1


ODD = [["digits"], 7, None, {"a": 1}, "", "x" * 10**5, "y:" * 10**5, "digits:nothing=1", "digits:validation=" + "9" * 5000]
ODD += ["digits:validation=-3", "digits:validation=10**9", "gaussians:dim=1000000000", "gaussians:seed=" + "9" * 30]
ODD += [
    "celeba:size=1000000000",
    "celeba:size=-1",
    "digits:\x1b[31m=2",
    "os:system",
    "klprobe.cli:main",
    "../../etc",
    "é\udcff",
]


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name)[:24])
def test_any_other_word_fails_in_one_short_line(name, genuine, here, capsys):
    assert main(COMMANDS["estimate"](forged(genuine, dataset=name))) == 2
    err = capsys.readouterr().err
    assert err.startswith("klprobe: ")
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert err[:-1].isprintable()


@pytest.mark.parametrize("thing", [["vae"], 3, None, {"vae": 1}, "v" * 10**6, "vae:" * 10**5], ids=lambda thing: str(thing)[:9])
@pytest.mark.parametrize("look_up", [registry.load, registry.create])
def test_the_registry_takes_no_name_for_an_answer_and_repeats_none_that_is_long(look_up, thing):
    with pytest.raises(InputError) as caught:
        look_up("trainers" if look_up is registry.load else "datasets", thing)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("made", ["image-folder:path=photos:resize=28:gray", "array-file:path=x.npy"])
def test_a_folder_or_file_that_it_was_trained_on_is_found_again_and_said(made, here, capsys):
    (here / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(here / "photos" / f"{i}.png")
    np.save(here / "x.npy", rng.random((40, 1, 28, 28)))
    name = "photos:resize=28:gray" if "photos" in made else "x.npy"
    few = ["--steps", "1", "--batch-size", "4", "--latent-dim", "2", "--pictures-every", "0", "--device", "cpu", "--out", "run"]
    assert main(["train", "vae", "--dataset", name, *few]) == 0, capsys.readouterr().err
    assert read(here / "run" / "checkpoint.safetensors")[1]["dataset"] == made
    for command in ("estimate", "holes", "reconstruct"):
        capsys.readouterr()
        assert main(COMMANDS[command]("run/checkpoint.safetensors")) == 0
        assert f"data from {name.partition(':')[0]}, as checkpoint.safetensors says" in capsys.readouterr().err
    (here / name.partition(":")[0]).rename("elsewhere")
    assert main(COMMANDS["estimate"]("run/checkpoint.safetensors")) == 2
    assert "run klprobe where it was trained, or give --data" in capsys.readouterr().err


def test_a_folder_that_a_file_names_is_read_and_not_written_to(here, monkeypatch):
    from klprobe.datasets import _decoded
    from klprobe.files.remembered import dataset_of_file

    monkeypatch.setattr(_decoded, "KEEP_FROM", 1)
    (here / "photos").mkdir()
    for i in range(20):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(here / "photos" / f"{i:02}.png")
    before = sorted(os.listdir("photos"))
    found = dataset_of_file("image-folder:path=photos", "a.safetensors", (1, 8, 8)).load("train")
    assert sorted(os.listdir("photos")) == before
    assert found.name == "image-folder:path=photos"
    assert torch.equal(found.x, dataset("photos").load("train").x)
    assert ".klprobe" in os.listdir("photos"), "a user's own folder keeps the pixels"


@pytest.mark.parametrize("path", ["/dev/zero", "pipe.npy", "//host/share/x.npy", "\\\\host\\x.npy", "folder/pipe"])
@pytest.mark.parametrize("kind", ["array-file", "image-folder"])
def test_a_device_a_pipe_and_another_machine_are_not_opened(kind, path, genuine, here, capsys):
    os.mkfifo(here / "pipe.npy")
    (here / "folder").mkdir()
    os.mkfifo(here / "folder" / "pipe")
    assert main(COMMANDS["estimate"](forged(genuine, dataset=f"{kind}:path={path}"))) == 2
    assert capsys.readouterr().err.startswith("klprobe: evil.safetensors was trained on")


def test_a_pipe_among_images_is_no_image(here):
    (here / "photos").mkdir()
    os.mkfifo(here / "photos" / "0.png")
    for i in range(1, 4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(here / "photos" / f"{i}.png")
    found = dataset("photos:held_out=0").load("train")
    assert len(found) == 3
    assert "0.png" in found.notes[0]


def test_the_users_own_python_data_have_the_splits_that_files_have(here, monkeypatch):
    (here / "own_data.py").write_text(
        "import numpy, torch, dataclasses\n"
        "x = numpy.arange(60.0).reshape(20, 3)\n"
        "pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.arange(20))\n"
        "def made():\n    return pairs\n"
        "class Splits:\n    def load(self, split, root, progress):\n        return ('own', split)\n"
        "splits = Splits()\n"
        "words = ['a', 'b']\nragged = [torch.zeros(2), torch.zeros(3)]\nbroken = torch.tensor([[float('nan')]])\n"
    )
    x = torch.arange(60.0, dtype=torch.float64).reshape(20, 3)
    assert torch.equal(dataset("own_data:x").load("test").stored, x[[9, 19]])
    assert dataset("own_data:x").load("train").labels is None
    for name in ("pairs", "made"):
        found = dataset(f"own_data:{name}").load("train")
        assert torch.equal(found.stored, x[[i for i in range(20) if i % 10 != 9]])
        assert found.labels.tolist() == [i for i in range(20) if i % 10 != 9]
        assert found.name == f"own_data:{name}"
    assert dataset("own_data:splits").load("test") == ("own", "test")
    for name in ("words", "ragged", "broken", "torch", "missing"):
        with pytest.raises(InputError, match=r"own_data:"):
            dataset(f"own_data:{name}").load("train")
    assert isinstance(dataset("own_data:x"), PythonData)
    with pytest.raises(InputError, match="Did you mean 'digits'"):
        dataset("digit:flip")
    sys.modules.pop("own_data", None)
