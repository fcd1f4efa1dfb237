"""Street View House Numbers in its two MATLAB files, a few images each."""

import struct

import numpy as np
import pytest
import torch
from scipy.io import savemat

from klprobe.datasets.svhn import Svhn, open_mat
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


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind, dims, rest):
    """A variable X of MATLAB 5: its class, its sizes, its name, and what follows."""
    sizes = struct.pack(f"<{len(dims)}i", *dims)
    return element(14, element(6, struct.pack("<II", kind, 0)) + element(5, sizes) + element(1, b"X") + rest)


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"


def test_cells_in_cells_and_arrays_beyond_the_limit_are_refused_before_they_are_read(tmp_path):
    """Cells in cells crash the reader by its stack; zeros are packed a thousandfold."""
    (tmp_path / "svhn").mkdir()
    path = tmp_path / "svhn" / "test_32x32.mat"
    depth, level = (
        100_000,
        element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<2i", 1, 1)) + bytes([1, 0, 0, 0] * 2),
    )
    inner = b"".join(struct.pack("<II", 14, (depth - i) * (8 + len(level))) + level for i in range(depth))
    path.write_bytes(HEADER + matrix(1, (1, 1), inner))
    with pytest.raises(InputError, match=r"test_32x32\.mat"):
        Svhn().load("test", tmp_path)
    claimed = matrix(9, (32, 32, 3, 300_000), struct.pack("<II", 2, 8)) + bytes(8)
    labels = matrix(9, (300_000, 1), element(2, bytes(300_000))).replace(element(1, b"X"), element(1, b"y"))
    path.write_bytes(HEADER + claimed + labels)
    with pytest.raises(InputError, match=r"test_32x32\.mat"):
        Svhn().load("test", tmp_path)


def test_more_images_than_svhn_has_are_refused_before_they_are_unpacked(root, monkeypatch):
    monkeypatch.setattr("klprobe.datasets.svhn.MOST_IMAGES", 2)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(InputError, match=r"n at most 2; it holds X uint8 \(32, 32, 3, 3\)"):
        open_mat(str(root / "svhn" / "train_32x32.mat"))


def test_a_reader_that_crashes_or_takes_too_much_is_one_sentence(root, monkeypatch):
    def crashes(path):
        raise MemoryError

    monkeypatch.setattr("scipy.io.loadmat", crashes)
    monkeypatch.setattr("scipy.io.whosmat", crashes)
    with pytest.raises(InputError, match="takes more memory than its images need"):
        open_mat(str(root / "svhn" / "train_32x32.mat"))
    assert len(Svhn().load("train", root)) == 3, "another process reads it"
