import gzip
import hashlib
import struct
import tracemalloc

import pytest
import torch

from klprobe import registry
from klprobe.files.images import find_images
from klprobe.training.data import Data, fits
from klprobe.types import InputError

IDX = ["mnist", "fashion-mnist", "kmnist"]


def write_idx(path, array, kind=8):
    header = bytes([0, 0, kind, array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + bytes(array.flatten().tolist())))


@pytest.fixture(params=IDX)
def tiny(request, tmp_path):
    """A data set in the official layout: 3 train and 2 test images; its name, folder and images."""
    folder, images = tmp_path / request.param, torch.arange(5 * 28 * 28).remainder(256).reshape(5, 28, 28)
    for prefix, part in (("train", slice(3)), ("t10k", slice(3, 5))):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[part])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", torch.arange(5)[part])
    return request.param, folder, images


def load(tiny, split="all"):
    return registry.load("datasets", tiny[0])().load(split, tiny[1].parent)


def test_idx_files_come_back_as_written(tiny):
    images = tiny[2].to(torch.uint8).unsqueeze(1)
    for split, part in (("train", slice(3)), ("test", slice(3, 5)), ("all", slice(5))):
        data = load(tiny, split)
        assert (data.name, data.split, data.shape) == (tiny[0], split, (1, 28, 28))
        assert torch.equal(data.x, images[part])
        assert torch.equal(data.labels, torch.arange(5)[part])


def test_the_root_is_the_argument_then_the_environment_then_the_folder_data(tiny, monkeypatch):
    load_from = registry.load("datasets", tiny[0])().load
    monkeypatch.delenv("KLPROBE_DATA", raising=False)
    monkeypatch.chdir(tiny[1].parent)
    with pytest.raises(InputError, match="data"):
        load_from("all")
    monkeypatch.setenv("KLPROBE_DATA", str(tiny[1].parent))
    assert len(load_from("all")) == 5
    monkeypatch.setenv("KLPROBE_DATA", "elsewhere")
    assert len(load_from("all", tiny[1].parent)) == 5
    monkeypatch.delenv("KLPROBE_DATA")
    tiny[1].rename(tiny[1].parent / "aside")
    (tiny[1].parent / "data").mkdir()
    (tiny[1].parent / "aside").rename(tiny[1].parent / "data" / tiny[0])
    assert len(load_from("all")) == 5


def test_a_missing_file_is_named_with_its_folder_and_only_when_it_is_needed(tiny):
    (tiny[1] / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(load(tiny, "train")) == 3
    with pytest.raises(InputError, match=r"lacks t10k-labels-idx1-ubyte\.gz\. Put") as caught:
        load(tiny, "test")
    assert str(tiny[1]) in str(caught.value)
    assert "KLPROBE_DATA" in str(caught.value)


def test_flat_images_are_the_same_bytes_as_vectors(tiny):
    flat = registry.load("datasets", tiny[0])(flat=True).load("test", tiny[1].parent)
    assert flat.name == f"{tiny[0]}:flat"
    assert torch.equal(flat.x, load(tiny, "test").x.flatten(1))


@pytest.mark.parametrize("keep", [0, 9, 25, -1])
def test_a_truncated_file_is_named(tiny, keep):
    path = tiny[1] / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is damaged or cut short"):
        load(tiny)


@pytest.mark.parametrize("at", [2, 40, -2])
def test_a_corrupt_file_is_named(tiny, at):
    path = tiny[1] / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz"):
        load(tiny)


def test_a_whole_gzip_with_too_few_pixels_is_refused(tiny):
    path = tiny[1] / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(InputError, match="promises 3 x 28 x 28 = 2352 bytes but holds 2351"):
        load(tiny)


def test_a_file_that_unpacks_to_far_more_than_it_promises_is_refused_without_unpacking_it(tiny):
    """48 MB of zeros behind a header for 16 bytes: less than 1 MB of it is ever in memory."""
    bomb = bytes([0, 0, 8, 3]) + (1).to_bytes(4, "big") + (4).to_bytes(4, "big") * 2 + bytes(48 << 20)
    (tiny[1] / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb, 1))
    tracemalloc.start()
    with pytest.raises(InputError, match="promises 1 x 4 x 4 = 16 bytes but holds more"):
        load(tiny)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_that_promises_nothing_or_more_than_there_can_be_is_refused(tiny):
    write_idx(tiny[1] / "train-images-idx3-ubyte.gz", torch.zeros(0, 28, 28))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz holds nothing"):
        load(tiny)
    head = bytes([0, 0, 8, 3]) + (1 << 31).to_bytes(4, "big") * 3
    (tiny[1] / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head))
    with pytest.raises(InputError, match="bytes but holds 0"):
        load(tiny)


@pytest.mark.parametrize("kind", [9, 13])
def test_another_kind_of_idx_file_is_refused(tiny, kind):
    write_idx(tiny[1] / "train-labels-idx1-ubyte.gz", torch.arange(3), kind)
    with pytest.raises(InputError, match="not an idx file of 1-dimensional uint8"):
        load(tiny)


def test_images_and_labels_of_different_numbers_are_refused(tiny):
    write_idx(tiny[1] / "train-labels-idx1-ubyte.gz", torch.arange(4))
    with pytest.raises(InputError, match=r"holds 3 images but .* 4 labels"):
        load(tiny)


@pytest.mark.parametrize("name", ["digits", *IDX])
def test_an_unknown_split_lists_the_known(name, tmp_path):
    with pytest.raises(InputError, match="Unknown split 'valid'; known: train, validation, test, all"):
        registry.load("datasets", name)().load("valid", tmp_path)


def test_digits_split_into_disjoint_parts_with_every_fifth_of_each_class_held_out():
    train, test, everything = (registry.load("datasets", "digits")().load(s) for s in ("train", "test", "all"))
    assert (len(train), len(test), len(everything)) == (1442, 355, 1797)
    assert torch.equal(everything.x, torch.cat([train.x, test.x]))
    assert torch.equal(everything.labels, torch.cat([train.labels, test.labels]))
    assert torch.equal(test.labels.bincount(), everything.labels.bincount() // 5)


def test_digits_are_the_whole_of_scikit_learns_in_the_unit_interval():
    from sklearn.datasets import load_digits

    data = registry.load("datasets", "digits")().load("all")
    assert data.shape == (64,)
    assert data.x.dtype == torch.float32
    assert sorted((16 * data.x).tolist()) == sorted(load_digits().data.tolist())


def test_uint8_becomes_the_unit_interval_and_float_stays():
    ints, floats = torch.tensor([[0, 51, 255]], dtype=torch.uint8), torch.tensor([[-3.0, 0.5, 7.0]])
    assert torch.equal(Data("a", "all", ints).floats(), torch.tensor([[0.0, 0.2, 1.0]]))
    assert torch.equal(Data("a", "all", floats).floats(), floats)


def test_numbers_of_any_kind_become_float32():
    for kind in (torch.float64, torch.float16, torch.int32):
        assert torch.equal(Data("a", "all", torch.tensor([[3]], dtype=kind)).floats(), torch.tensor([[3.0]]))


def test_grey_images_are_tinted_when_they_are_looked_at_and_stay_grey_in_memory():
    grey = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2) * 30
    data = Data("a", "all", grey, tint=torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    assert (data.shape, data.stored.shape, data.x.dtype) == ((3, 2, 2), (2, 1, 2, 2), torch.uint8)
    assert torch.equal(data.x[0], torch.stack([grey[0, 0], torch.zeros_like(grey[0, 0]), (grey[0, 0] / 2).round().byte()]))
    for which in (torch.tensor([1, 0, 1]), slice(1, 2)):
        assert torch.equal(data.points(which), data.x[which])
        assert torch.equal(data.floats(which), data.x[which] / 255)
    assert torch.equal(data.batch(torch.tensor([1])).x, data.x[1:] / 255)


def test_data_that_do_not_fit_a_device_stay_and_their_batches_go(monkeypatch):
    data = Data("a", "all", torch.arange(12, dtype=torch.uint8).reshape(6, 2), torch.arange(6))
    assert data.to(torch.device("meta")).stored.device.type == "meta"
    monkeypatch.setattr("klprobe.training.data.fits", lambda x, device: False)
    moved = data.to(torch.device("meta"))
    assert moved.stored is data.stored
    batch = moved.batch(torch.tensor([4, 1]))
    assert (batch.x.device.type, batch.labels.device.type, batch.x.shape) == ("meta", "meta", (2, 2))


def test_a_gpu_takes_data_of_up_to_half_its_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (200, 1000))
    device = torch.device("cuda")
    assert fits(torch.zeros(100, dtype=torch.uint8), device)
    assert not fits(torch.zeros(101, dtype=torch.uint8), device)
    assert not fits(torch.zeros(26, dtype=torch.float32), device)
    assert fits(torch.zeros(10**6), torch.device("cpu"))


def test_a_batch_holds_the_points_asked_for_in_their_order():
    data = Data("a", "all", torch.arange(12.0).reshape(6, 2), torch.arange(6))
    batch = data.batch(torch.tensor([4, 1]))
    assert torch.equal(batch.x, torch.tensor([[8.0, 9.0], [2.0, 3.0]]))
    assert torch.equal(batch.labels, torch.tensor([4, 1]))
    assert Data("a", "all", data.x).batch(torch.tensor([0])).labels is None


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files_have_their_known_sizes_and_classes(name, shared_data):
    data = registry.load("datasets", name)().load("all", shared_data)
    assert data.x.shape == (70000, 1, 28, 28)
    assert data.x.dtype == torch.uint8
    assert torch.equal(
        data.labels[60000:].bincount(), registry.load("datasets", name)().load("test", shared_data).labels.bincount()
    )
    assert data.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_known_sha256_are_those_of_the_original_files(name, shared_data):
    for download in registry.load("datasets", name)().downloads:
        assert hashlib.sha256((shared_data / download.path).read_bytes()).hexdigest() == download.sha256


def test_mnist_has_its_published_mean_and_spread(shared_data):
    x = registry.load("datasets", "mnist")().load("train", shared_data).floats()
    assert x.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert x.std().item() == pytest.approx(0.3081, abs=1e-4)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_the_layout_of_torchvision_is_found_packed_and_unpacked(tmp_path, below, packed):
    images = torch.arange(5 * 28 * 28).remainder(256).reshape(5, 28, 28)
    for root, values in (("MNIST", images), ("FashionMNIST", 255 - images)):
        for prefix, part in (("train", slice(3)), ("t10k", slice(3, 5))):
            for kind, array in (("images-idx3", values), ("labels-idx1", torch.arange(5))):
                path = tmp_path / root / "raw" / f"{prefix}-{kind}-ubyte.gz"
                write_idx(path, array[part])
                if not packed:
                    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
                    path.unlink()
    data = registry.load("datasets", "mnist")().load("all", tmp_path / below)
    assert torch.equal(data.x, images.byte().unsqueeze(1))
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    if not below:
        assert torch.equal(registry.load("datasets", "fashion-mnist")().load("all", tmp_path).x, 255 - data.x)
        assert registry.load("datasets", "color-mnist")().load("all", tmp_path).shape == (3, 28, 28)
    with pytest.raises(InputError, match="kmnist is read from"):
        registry.load("datasets", "kmnist")().load("all", tmp_path / below)


def test_a_folder_of_idx_files_says_how_to_name_the_set(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz", torch.zeros(3, 28, 28).byte())
    for below in ("MNIST", "MNIST/raw", "."):
        with pytest.raises(InputError, match=rf"give the set by its name, such as mnist, and --data-root {tmp_path}\."):
            find_images(tmp_path / below)
