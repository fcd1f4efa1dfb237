import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from klprobe import registry
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.files import tensor_file
from klprobe.formats import Request, klprobe_checkpoint, sha256
from klprobe.formats.klprobe_checkpoint import KlprobeCheckpoint
from klprobe.trainers.vae import VAE
from klprobe.training import checkpoint
from klprobe.training.checkpoint import load_checkpoint
from klprobe.training.loop import train
from klprobe.training.trained import POINTS_AT_ONCE
from klprobe.types import CapabilityError, InputError


@pytest.fixture(scope="module")
def digits():
    return {split: registry.load("datasets", "digits")().load(split) for split in ("train", "test", "all")}


@pytest.fixture(scope="module")
def path(digits, tmp_path_factory):
    return train(VAE(latent_dim=3, width=16), digits["train"], steps=5, out=tmp_path_factory.mktemp("vae"))


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_the_posterior_is_what_the_encoder_says_of_each_point_in_eval_mode(path, digits, split):
    encoded = KlprobeCheckpoint().load(path, Request(split=split))
    trained = load_checkpoint(path)
    with torch.no_grad():
        q = trained.algorithm.encode(trained.networks, digits[split].x)
    assert isinstance(encoded.posterior, DiagonalGaussian)
    mean, std = encoded.posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), q.mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(std.float(), q.stddev, rtol=1e-4, atol=1e-6)
    assert (encoded.split, encoded.trained_on, encoded.prior) == (split, "train", None)
    assert split != "all" or len(mean) > POINTS_AT_ONCE, "several blocks are joined"


def test_all_points_are_asked_for_by_default_and_provenance_is_strict_json(path):
    encoded = KlprobeCheckpoint().load(path, Request())
    assert encoded.split == "all"
    told = json.loads(json.dumps(encoded.provenance, allow_nan=False))
    assert told["format"] == "klprobe-checkpoint"
    assert told["sha256"] == {path.name: sha256(path)}
    assert told["data"] == "digits"
    assert told["checkpoint"]["system"] == "vae"


def test_the_header_decides_what_matches(path, tmp_path):
    kind = KlprobeCheckpoint()
    assert kind.matches(path)
    arrays, garbage, empty = (tmp_path / f"{name}.safetensors" for name in ("arrays", "garbage", "empty"))
    save_file({"mean": torch.zeros(2, 2)}, arrays)
    garbage.write_bytes(b"\x93\x00garbage" * 99)
    empty.write_bytes(b"")
    renamed = tmp_path / "checkpoint.npz"
    renamed.write_bytes(path.read_bytes())
    for other in (arrays, garbage, empty, renamed, tmp_path, tmp_path / "missing.safetensors"):
        assert not kind.matches(other)


def test_data_of_another_shape_are_refused_with_both_shapes(path, shared_data):
    with pytest.raises(
        InputError, match=r"trained on digits, points of shape \(64,\), but mnist has points of shape \(1, 28, 28\)"
    ):
        KlprobeCheckpoint().load(path, Request(data="mnist", split="test", data_root=shared_data))


def test_an_unknown_data_set_names_the_nearest(path):
    with pytest.raises(InputError, match="Did you mean 'digits'"):
        KlprobeCheckpoint().load(path, Request(data="digit"))


@pytest.mark.parametrize(
    ("of_system", "data", "known"),
    [
        ("digits", "digits", True),
        ("digits:flat", "digits", True),
        ("mnist:flip:shift=2", "mnist:flat", True),
        ("cifar_10", "cifar-10:shift=4", True),
        ("mnist:validation=10", "mnist", False),  # what one keeps for validation, the other trains on
        ("mnist:validation=10", "mnist:validation=10:flat", True),
        ("array-file:path=a.npy", "array-file:path=b.npy", False),
        ("array-file:path=a.npy:held_out=2", "array-file:path=a.npy", False),
        ("mnist", "kmnist", False),
    ],
)
def test_how_points_look_does_not_hide_which_they_are(of_system, data, known):
    found = klprobe_checkpoint._trained_on({"dataset": of_system, "split": "train"}, data)
    assert found == ("train" if known else "unknown")


def test_points_that_the_encoder_never_saw_are_not_called_trained_on(path, digits, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Other:
        def load(self, split, root, progress):
            return dataclasses.replace(digits["all"], name="other")

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Other if name == "other" else load(kind, name))
    encoded = KlprobeCheckpoint().load(path, Request(data="other"))
    assert encoded.trained_on == "unknown"
    assert encoded.provenance["data"] == "other"


def test_a_system_without_an_encoder_is_refused(path, monkeypatch):
    monkeypatch.setattr(VAE, "capabilities", frozenset({"decode"}))
    with pytest.raises(CapabilityError, match="vae, which has no encoder"):
        KlprobeCheckpoint().load(path, Request())


def test_data_may_be_a_file_too_and_what_cannot_be_done_is_refused(path, digits, tmp_path):
    np.save(tmp_path / "x.npy", digits["test"].x.numpy())
    from_file = KlprobeCheckpoint().load(path, Request(data=str(tmp_path / "x.npy")))
    by_name = KlprobeCheckpoint().load(path, Request(split="test"))
    assert torch.equal(from_file.posterior.mean, by_name.posterior.mean)
    assert (from_file.split, from_file.trained_on) == ("unknown", "unknown")
    with pytest.raises(InputError, match="do not give --outputs"):
        KlprobeCheckpoint().load(path, Request(outputs="mean,logvar"))


@pytest.mark.parametrize("name", ["trap_of_a_file:x", "os:system", "x.npy", "digits.npy", "/dev/zero", "."])
def test_a_data_set_that_the_file_names_is_one_of_klprobes_and_no_python_code(path, tmp_path, monkeypatch, name):
    """--data package.module:dataset imports what it names, because the user named it; a file is no user."""
    (tmp_path / "trap_of_a_file.py").write_text("import pathlib\npathlib.Path(__file__).with_name('mark').touch()\n")
    monkeypatch.chdir(tmp_path)
    tensors, settings = checkpoint.read(path)
    tensor_file.write(tmp_path / "c.safetensors", tensors, {**settings, "dataset": name})
    with pytest.raises(InputError, match=r"no data set of klprobe's|does not import because a file says so"):
        KlprobeCheckpoint().load(tmp_path / "c.safetensors", Request())
    assert not (tmp_path / "mark").exists()
    assert len(KlprobeCheckpoint().load(tmp_path / "c.safetensors", Request(data="digits")).posterior.mean) == 1797


@pytest.mark.parametrize("name", ["gaussians:dim=1000000000", "celeba:size=9999", "image-folder:path=other:resize=9999x64"])
def test_a_data_set_whose_points_the_network_cannot_take_is_not_made(path, tmp_path, name):
    tensors, settings = checkpoint.read(path)
    tensor_file.write(tmp_path / "c.safetensors", tensors, {**settings, "dataset": name})
    with pytest.raises(InputError, match=r"points are not of shape \(64,\)"):
        KlprobeCheckpoint().load(tmp_path / "c.safetensors", Request())


def test_a_folder_of_other_files_is_not_searched_for_images(path, tmp_path):
    (tmp_path / "disk").mkdir()
    for number in range(10_001):
        (tmp_path / "disk" / str(number)).touch()
    tensors, settings = checkpoint.read(path)
    tensor_file.write(tmp_path / "c.safetensors", tensors, {**settings, "dataset": f"image-folder:path={tmp_path / 'disk'}"})
    with pytest.raises(InputError, match="mostly other files"):
        KlprobeCheckpoint().load(tmp_path / "c.safetensors", Request())
