"""Folders of images, and arrays in files."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from klprobe import registry
from klprobe.datasets import _decoded
from klprobe.datasets.array_file import ArrayFile
from klprobe.datasets.image_folder import ImageFolder
from klprobe.training.data import Augment
from klprobe.types import InputError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path, pixels):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


def images(path, split="all", **settings):
    return ImageFolder(path=str(path), **settings).load(split)


def test_a_folder_is_read_in_the_order_of_paths_and_every_tenth_image_is_held_out(photos, pixels):
    x = torch.from_numpy(pixels).movedim(-1, 1)
    everything, train, test = (images(photos, split) for split in ("all", "train", "test"))
    assert torch.equal(everything.x, x)
    assert torch.equal(test.x, x[[9, 19]])
    assert torch.equal(train.x, x[[i for i in range(20) if i not in (9, 19)]])
    assert (train.labels, train.notes) == (None, ())
    assert torch.equal(images(photos, "train", held_out=0).x, x)
    assert len(images(photos, held_out=21)) == len(images(photos, "train", held_out=21)) == 20
    for settings in ({"held_out": 0}, {"held_out": 1}, {"held_out": 21}, {"held_out": -1}):
        with pytest.raises(InputError, match="held_out"):
            images(photos, "test", **settings)


def test_folders_train_and_test_are_the_splits_and_folders_of_classes_the_labels(photos, pixels):
    for part, which in (("train", range(12)), ("test", range(12, 20))):
        for i in which:
            (photos / part / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
            (photos / f"{i:02d}.png").rename(photos / part / ("cat", "dog")[i % 2] / f"{i:02d}.png")
    train, test = images(photos, "train"), images(photos, "test")
    assert train.labels.tolist() == 6 * [0] + 6 * [1]
    assert torch.equal(test.x, torch.from_numpy(pixels[[12, 14, 16, 18, 13, 15, 17, 19]]).movedim(-1, 1))
    assert len(images(photos)) == 20
    for file in (photos / "test" / "cat").iterdir():
        file.unlink()
    assert images(photos, "test").labels.tolist() == 4 * [1], "a class has its number in every split"
    (photos / "train" / "stray.png").write_bytes((photos / "train" / "cat" / "00.png").read_bytes())
    assert images(photos, "train").labels is None


def test_sizes_and_colours_are_made_equal_only_when_asked_for(photos):
    Image.new("RGB", (9, 9)).save(photos / "98.png")
    with pytest.raises(InputError, match=r"00\.png has shape \(3, 6, 8\) but 98\.png \(3, 9, 9\)"):
        images(photos)
    with pytest.raises(InputError, match=rf"name the set {photos}:resize=64"):
        images(photos)
    Image.new("L", (9, 9)).save(photos / "99.png")
    with pytest.raises(InputError, match=r"99\.png .*gray"):
        images(photos, resize="4x5")
    data = images(photos, resize="4x5", gray=True)
    assert (data.shape, len(data)) == ((1, 4, 5), 22)
    assert data.name == f"image-folder:path={photos}:resize=4x5:gray"
    with pytest.raises(InputError, match="resize 'big' is not a size"):
        images(photos, resize="big")


def test_an_image_that_does_not_decode_is_named_and_left_out_or_stops_everything(photos):
    (photos / "03.png").write_bytes((photos / "03.png").read_bytes()[:60])
    (photos / "05.png").write_bytes(b"")
    data = images(photos, "train")
    assert len(data) == 16
    assert data.notes == (f"{photos}: 2 of 18 images do not decode and are left out: 03.png, 05.png.",)
    with pytest.raises(InputError, match=r"03\.png cannot be read"):
        images(photos, strict=True)


def test_broken_links_and_floating_point_pixels_do_not_decode_and_folders_are_no_images(photos):
    (photos / "a.png").symlink_to("nowhere.png")
    (photos / "b.tif").mkdir()
    Image.fromarray(np.ones((6, 8), np.float32)).save(photos / "c.tif")
    data = images(photos)
    assert len(data) == 20
    assert data.notes == (f"{photos}: 2 of 22 images do not decode and are left out: a.png, c.tif.",)
    (photos / "a.png").unlink()
    with pytest.raises(InputError, match=r"c\.tif cannot be read as an image \(its pixels are floating-point numbers"):
        images(photos, strict=True)


def test_mini_batches_are_flipped_and_shifted_and_nothing_else_is(photos, pixels):
    x = torch.from_numpy(pixels).movedim(-1, 1) / 255
    for data in (
        images(photos, flip=True, shift=2),
        dataclasses.replace(images(photos), augment=Augment(flip=True, shift=2)),
    ):
        assert torch.equal(data.floats(), x)
        batch = data.batch(torch.arange(20)).x
        assert batch.shape == x.shape
        assert not torch.equal(batch, x)
    assert images(photos, flip=True, shift=2).name.endswith(":flip:shift=2")
    for kwargs in ({"shift": 6}, {"shift": -1}):
        with pytest.raises(InputError, match="less than a side"):
            images(photos, **kwargs)


def test_an_empty_folder_and_one_without_images_are_refused(tmp_path):
    (tmp_path / "text.txt").touch()
    with pytest.raises(InputError, match="holds no image"):
        images(tmp_path)


def test_a_large_folder_keeps_its_pixels_in_itself_and_they_are_no_images(photos, monkeypatch):
    monkeypatch.setattr(_decoded, "KEEP_FROM", 1)
    first = images(photos, "train", resize="4")
    assert {file.name for file in (photos / ".klprobe").iterdir()} == {"4-train.npy", "4-train.json"}
    monkeypatch.setattr(_decoded, "_blocks", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(images(photos, "train", resize="4").x, first.x)


def test_deep_grey_images_keep_their_brightness(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100], [65535, 257 * 7]], np.uint16)).save(tmp_path / "a.png")
    assert images(tmp_path, held_out=0, split="train").x.tolist() == [[[[0, 100], [255, 7]]]]


def arrays(path, split="all", **settings):
    return ArrayFile(path=str(path), **settings).load(split)


def test_an_npy_is_mapped_when_all_of_it_is_asked_for_and_channels_come_first(tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels)
    x = torch.from_numpy(pixels).movedim(-1, 1)
    assert torch.equal(arrays(tmp_path / "x.npy").x, x)
    assert torch.equal(arrays(tmp_path / "x.npy", "test").x, x[[9, 19]])
    assert torch.equal(arrays(tmp_path / "x.npy", "train", held_out=0).x, x)
    assert arrays(tmp_path / "x.npy").name == f"array-file:path={tmp_path / 'x.npy'}"


def test_an_npz_may_hold_labels_and_the_two_parts(tmp_path):
    x, y = np.arange(24.0).reshape(12, 2), np.arange(12)
    np.savez(tmp_path / "one.npz", x=x, y=y)
    test = arrays(tmp_path / "one.npz", "test")
    assert (test.x.tolist(), test.labels.tolist()) == ([[18, 19]], [9])
    np.savez(tmp_path / "two.npz", x_train=x[:7], x_test=x[7:], y_train=y[:7], y_test=y[7:])
    for split, which in (("train", slice(7)), ("test", slice(7, 12)), ("all", slice(12))):
        data = arrays(tmp_path / "two.npz", split)
        assert (data.x.tolist(), data.labels.tolist()) == (x[which].tolist(), y[which].tolist())
        assert data.floats().dtype == torch.float32
    np.savez(tmp_path / "three.npz", x_train=x[:7], x_test=x[7:])
    assert arrays(tmp_path / "three.npz").labels is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": np.zeros(5)}, r"shape \(5,\)"),
        ({"x": np.zeros((0, 5))}, r"x\.npz holds nothing"),
        ({"x": np.array(["a", "b"])[:, None]}, "<U1"),
        ({"x": np.array([[1.0], [np.nan], [np.inf]])}, "NaN or infinite numbers, first at point 1"),
        ({"x": np.zeros((5, 2)), "y": np.zeros(4, int)}, "5 points but labels"),
        ({"x": np.zeros((5, 2)), "y": np.zeros(5)}, "one integer for each point"),
        ({"x_train": np.zeros((5, 2)), "x_test": np.zeros((5, 2)), "y_train": np.zeros(5, int)}, None),
        ({"x": np.zeros((5, 2), complex)}, "complex128"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, content, words):
    np.savez(tmp_path / "x.npz", **content)
    if words is None:
        assert arrays(tmp_path / "x.npz").labels is None
        return
    with pytest.raises(InputError, match=words):
        arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint16, np.int64, np.float16, np.float64, np.longdouble, ">f4", ">i2"])
def test_numbers_of_every_kind_are_taken_as_they_are(tmp_path, kind):
    x = np.array([[0, 1], [1, 1], [1, 0]]).astype(kind)
    np.save(tmp_path / "x.npy", x)
    data = arrays(tmp_path / "x.npy")
    assert data.batch(torch.tensor([2, 0])).x.tolist() == [[1, 0], [0, 1]]
    assert data.floats().dtype == torch.float32


def test_parts_of_different_shapes_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((5, 2)), x_test=np.zeros((5, 3)))
    assert len(arrays(tmp_path / "x.npz", "train")) == 5
    with pytest.raises(InputError, match="shape"):
        arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("keep", [0, 5, 150])
def test_truncated_files_and_pickles_are_refused(tmp_path, name, keep):
    (np.save if name == "x.npy" else np.savez)(tmp_path / name, np.ones((50, 2)))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(InputError, match=r"x\.np"):
        arrays(tmp_path / name)


def test_a_zip_of_a_later_kind_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((20, 2)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 129  # the version that is needed to read it: 12.9
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz is damaged or cut short"):
        arrays(tmp_path / "x.npz")


def test_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[None], [1]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="never unpickles"):
        arrays(tmp_path / "x.npy")


def test_a_checkpoint_can_name_such_data(photos):
    name = images(photos, "train", resize="4", gray=True).name
    assert registry.create("datasets", name).load("test").shape == (1, 4, 4)


def test_a_block_holds_no_more_bytes_than_its_limit(photos, pixels, monkeypatch):
    taken = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda images: taken.append(len(images)) or stack(images))
    monkeypatch.setattr(_decoded, "BYTES_AT_ONCE", 3 * pixels[0].size)
    assert torch.equal(images(photos).x, torch.from_numpy(pixels).movedim(-1, 1))
    assert taken == [1, 3, 3, 3, 3, 3, 3, 1]


def test_an_image_of_another_shape_ends_its_block_before_the_others_are_kept(photos):
    small, large = torch.zeros(3, 6, 8, dtype=torch.uint8), torch.zeros(3, 60, 80, dtype=torch.uint8)
    files = _decoded.Files(
        "photos", ["a", "b"], {"a": small, "b": large}.__getitem__, False, photos, 0, ("mend it", "colour it")
    )
    blocks = _decoded._blocks(files, lambda *_: None)
    assert next(blocks) == ([small], [])
    with pytest.raises(InputError, match=r"a has shape \(3, 6, 8\) but b \(3, 60, 80\): mend it"):
        next(blocks)


def test_more_pixels_than_disk_and_memory_hold_are_one_sentence(photos, monkeypatch):
    monkeypatch.setattr(_decoded, "machine_bytes", lambda: 1000.0)
    with pytest.raises(InputError, match=r"20 images of 3 x 6 x 8 take 2\.88e-06 GB, for which neither"):
        images(photos)
