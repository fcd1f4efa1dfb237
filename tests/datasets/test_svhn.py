"""Street View House Numbers in its two MATLAB files, a few images each."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from klprobe.datasets.svhn import Svhn
from klprobe.types import InputError


def write(folder, part, images, labels):
    folder.mkdir(exist_ok=True)
    savemat(folder / f"{part}_32x32.mat", {"X": images, "y": labels}, do_compression=True)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def root(tmp_path, images):
    for part, which in (("train", slice(3)), ("test", slice(3, 5))):
        labels = np.array([[10], [1], [9], [2], [10]], np.uint8)[which]
        write(tmp_path / "svhn", part, images[which].transpose(2, 3, 1, 0), labels)
    return tmp_path


def test_images_come_back_and_class_ten_is_the_digit_zero(root, images):
    for split, which in (("train", slice(3)), ("test", slice(3, 5)), ("all", slice(5))):
        data = Svhn().load(split, root)
        assert torch.equal(data.x, torch.from_numpy(images[which]))
        assert data.labels.tolist() == [0, 1, 9, 2, 0][which]
    assert Svhn().locate(root) == root / "svhn"


@pytest.mark.parametrize("keep", [0, 100, 300, -20])
def test_a_truncated_file_is_named(root, keep):
    path = root / "svhn" / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train_32x32\.mat"):
        Svhn().load("train", root)


@pytest.mark.parametrize(
    ("shape", "labels", "words"),
    [
        ((32, 32, 3, 2), [[1]], "it holds X uint8"),
        ((28, 28, 3, 1), [[1]], r"X, uint8 of shape \(32, 32, 3, n\)"),
        ((32, 32, 3, 2), [[1], [11]], "labels 1 to 10"),
        ((32, 32, 3, 2), [[0], [1]], "labels 1 to 10"),
    ],
)
def test_wrong_sizes_and_labels_are_refused(tmp_path, shape, labels, words):
    write(tmp_path / "svhn", "test", np.zeros(shape, np.uint8), np.array(labels, np.uint8))
    with pytest.raises(InputError, match=words):
        Svhn().load("test", tmp_path)


def test_another_matlab_file_is_refused(tmp_path):
    (tmp_path / "svhn").mkdir()
    savemat(tmp_path / "svhn" / "test_32x32.mat", {"images": np.zeros(3)})
    with pytest.raises(InputError, match="it holds neither"):
        Svhn().load("test", tmp_path)
