"""The data of an encoder: where they come from, and that every step in between is the one that was asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from klprobe.formats import Request
from klprobe.formats._inputs import open_inputs
from klprobe.types import InputError


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, colours):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for i, image in enumerate(colours):
        Image.fromarray(image).save(tmp_path / "images" / ("deep" if i > 3 else "") / f"z{i}.png")
    return tmp_path / "images"


def batch(**fields):
    return open_inputs(Request(**fields), "encoder.pt").batch(0, 10**6)


def test_bytes_become_numbers_from_0_to_1_and_channels_come_first(tmp_path, colours):
    np.save(tmp_path / "x.npy", colours)
    expected = torch.from_numpy(colours).movedim(-1, 1) / 255
    assert torch.equal(batch(data=str(tmp_path / "x.npy")), expected)
    assert torch.equal(batch(data=str(tmp_path / "x.npy"), value_range=(-1, 1)), 2 * expected - 1)
    assert batch(data=str(tmp_path / "x.npy"), flatten=True).shape == (5, 3 * 6 * 8)


def test_numbers_are_taken_as_they_are(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 7))
    np.save(tmp_path / "x.npy", x)
    assert torch.equal(batch(data=str(tmp_path / "x.npy")), torch.from_numpy(x).float())
    with pytest.raises(InputError, match=r"--range -1,1 maps bytes, or numbers in \[0, 1\]"):
        batch(data=str(tmp_path / "x.npy"), value_range=(-1, 1))


def test_gray_is_pillows(tmp_path, colours):
    np.save(tmp_path / "x.npy", colours)
    found = batch(data=str(tmp_path / "x.npy"), gray=True)
    expected = np.stack([np.array(Image.fromarray(image).convert("L")) for image in colours])[:, None] / 255
    assert found.shape == (5, 1, 6, 8)
    assert np.abs(found.numpy() - expected).max() <= 1 / 255


@pytest.mark.parametrize("size", [(12, 16), (3, 5)])
def test_resizing_is_pillows_bilinear(tmp_path, colours, size):
    np.save(tmp_path / "x.npy", colours)
    found = batch(data=str(tmp_path / "x.npy"), resize=size)
    resized = [np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)) for image in colours]
    assert np.abs(found.numpy() - np.stack(resized).transpose(0, 3, 1, 2) / 255).max() <= 1.01 / 255, "up to pillow's rounding"


def test_a_folder_of_images_is_read_in_the_order_of_their_paths(folder, colours):
    found = batch(data=str(folder))
    assert torch.equal(found, torch.from_numpy(colours[[4, 0, 1, 2, 3]]).movedim(-1, 1) / 255)


def test_images_of_several_sizes_need_a_size(folder):
    Image.new("RGB", (9, 9)).save(folder / "z9.png")
    with pytest.raises(InputError, match="give --resize"):
        batch(data=str(folder))
    assert batch(data=str(folder), resize=(4, 4), gray=True).shape == (6, 1, 4, 4)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "z9.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"z9\.png cannot be read"):
        batch(data=str(folder))


def test_an_npz_of_one_array_or_one_called_x(tmp_path):
    x = np.ones((4, 2), np.float32)
    np.savez(tmp_path / "one.npz", whatever=x)
    np.savez(tmp_path / "two.npz", x=x, labels=np.zeros(4))
    np.savez(tmp_path / "which.npz", a=x, b=x)
    assert batch(data=str(tmp_path / "one.npz")).shape == (4, 2)
    assert batch(data=str(tmp_path / "two.npz")).shape == (4, 2)
    with pytest.raises(InputError, match="call the data 'x'"):
        batch(data=str(tmp_path / "which.npz"))


@pytest.mark.parametrize("kind", ["tensor", "array", "dataset", "function"])
def test_data_from_python(tmp_path, monkeypatch, kind):
    (tmp_path / f"my_{kind}.py").write_text(
        "import numpy, torch\n"
        "x = torch.arange(12.0).reshape(6, 2)\n"
        "tensor, array = x, x.numpy()\n"
        "dataset = torch.utils.data.TensorDataset(x, torch.zeros(6))\n"
        "def function():\n    return dataset\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    assert torch.equal(batch(data=f"my_{kind}:{kind}"), torch.arange(12.0).reshape(6, 2))


def test_a_klprobe_data_set_by_name_knows_its_split():
    inputs = open_inputs(Request(data="digits", split="test"), "encoder.pt")
    assert (inputs.name, inputs.split, len(inputs)) == ("digits", "test", 355)
    facts = inputs.facts()
    assert facts["preprocessing"] == ["values as they are"]
    assert facts["input_shape"] == [64]


def test_every_step_is_written_down_in_its_order(tmp_path, colours):
    np.save(tmp_path / "x.npy", colours)
    request = Request(data=str(tmp_path / "x.npy"), gray=True, resize=(4, 5), value_range=(-1, 1), flatten=True)
    facts = open_inputs(request, "encoder.pt").facts()
    assert facts["preprocessing"] == ["bytes to [0, 1]", "gray", "resized to 4 x 5, bilinear", "[0, 1] to [-1, 1]", "flattened"]
    assert facts["stored"] == "uint8 (3, 6, 8)"
    assert facts["input_shape"] == [20]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "give --data"),
        ("digit", "Did you mean 'digits'"),
        ("missing/x.npy", "does not exist"),
        ("no_such_module:data", "cannot be imported"),
    ],
)
def test_data_that_are_not_there_are_refused_with_what_can_be_given(name, words):
    with pytest.raises(InputError, match=words):
        open_inputs(Request(data=name), "encoder.pt")


def test_bad_files_are_refused(tmp_path, malice):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("1 2 3")
    np.save(tmp_path / "pickled.npy", np.array([malice], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    for name, words in (
        ("empty", "holds no image"),
        ("x.txt", "neither"),
        ("pickled.npy", "never unpickles"),
        ("flat.npy", r"shape \(5,\)"),
    ):
        with pytest.raises(InputError, match=words):
            batch(data=str(tmp_path / name))
    with pytest.raises(InputError, match="--split test chooses among klprobe's data sets"):
        batch(data=str(tmp_path / "x.npy"), split="test")
    with pytest.raises(InputError, match="need images"):
        batch(data=str(tmp_path / "x.npy"), gray=True)
    assert not malice.mark.exists()


def test_images_of_8_and_of_16_bits_in_one_folder_are_on_one_scale(tmp_path):
    for i in range(4):
        level = np.full((4, 4), 51 * i, "u1")
        Image.fromarray(level if i % 2 else level.astype("u2") * 257).save(tmp_path / f"{i}.png")
    found = batch(data=str(tmp_path))
    assert torch.allclose(found[:, 0, 0, 0], torch.arange(4) / 5, rtol=1e-6)
    inputs = open_inputs(Request(data=str(tmp_path)), "encoder.pt")
    alone = torch.cat([inputs.batch(i, i + 1) for i in range(4)])
    assert torch.equal(alone, found)
    with pytest.raises(InputError, match="images of 8 and of 16 bits"):
        batch(data=str(tmp_path), scale=255.0)


def test_the_range_that_was_given_is_known_once_all_points_were(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 1], [2, 255]]))
    inputs = open_inputs(Request(data=str(tmp_path / "x.npy")), "encoder.pt")
    assert inputs.checks == ()
    inputs.batch(0, 1)
    assert inputs.range_note == "whole numbers from 0 to 1"
    inputs.batch(1, 2)
    assert inputs.range_note == "whole numbers from 0 to 255"
    assert not inputs.checks[0].passed
