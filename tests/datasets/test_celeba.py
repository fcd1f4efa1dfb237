"""CelebA from the folder or the zip file of a few aligned JPEGs, and how pixels are kept."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from klprobe.datasets import _decoded
from klprobe.datasets.celeba import BOX, Celeba
from klprobe.types import InputError

PARTS = [0, 0, 1, 2, 0, 2]


def faces():
    """Smooth pictures, which JPEG keeps: each in its own colour, brighter to the right."""
    ramp = np.linspace(0, 100, 178)[None, :, None]
    colours = np.random.default_rng(0).integers(50, 150, (len(PARTS), 1, 1, 3))
    return (np.broadcast_to(ramp, (218, 178, 3)) + colours).astype(np.uint8)


@pytest.fixture(params=["folder", "zip"])
def root(request, tmp_path):
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(PARTS))]
    for name, pixels in zip(names, faces(), strict=True):
        Image.fromarray(pixels).save(folder / name, quality=95)
    lines = [f"{name} {part}" for name, part in zip(names, PARTS, strict=True)]
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    if request.param == "zip":
        zipped(folder)
    return tmp_path


def zipped(folder):
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"img_align_celeba/{file.name}")
            file.unlink()
    folder.rmdir()


def rewrite(root, name, content):
    """Replace one image, in the folder or in the zip file."""
    folder = root / "celeba" / "img_align_celeba"
    if folder.is_dir():
        (folder / name).write_bytes(content)
        return
    with zipfile.ZipFile(folder.with_suffix(".zip")) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for entry, old in files.items():
            archive.writestr(entry, content if entry.endswith(name) else old)


@pytest.mark.parametrize("size", [64, 128])
def test_the_official_splits_hold_the_cut_faces(root, size):
    """Up to what JPEG and rounding change, here less than 4 of 255."""
    left, top, right, bottom = BOX
    for split, wanted in (("train", [0]), ("validation", [1]), ("test", [2]), ("all", [0, 1, 2])):
        data = Celeba(size=size).load(split, root)
        which = [i for i, part in enumerate(PARTS) if part in wanted]
        cut = [Image.fromarray(faces()[i]).crop((left, top, right, bottom)) for i in which]
        small = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) for image in cut])
        assert (data.shape, data.x.dtype, data.labels) == ((3, size, size), torch.uint8, None)
        assert np.abs(data.x.numpy().astype(int) - small.transpose(0, 3, 1, 2)).max() < 4
    assert data.name == ("celeba" if size == 64 else "celeba:size=128")


def test_an_image_that_does_not_decode_is_named_and_left_out_or_stops_everything(root):
    rewrite(root, "000002.jpg", b"\xff\xd8\xff no more")
    data = Celeba().load("train", root)
    assert len(data) == 2
    assert data.notes == ("celeba (train): 1 of 3 images do not decode and are left out: 000002.jpg.",)
    with pytest.raises(InputError, match=r"000002\.jpg"):
        Celeba(strict=True).load("train", root)
    assert Celeba().load("test", root).notes == ()


def test_none_that_decodes_is_an_error(root):
    for name in ("000004.jpg", "000006.jpg"):
        rewrite(root, name, b"nothing")
    with pytest.raises(InputError, match=r"celeba \(test\): none of the 2 images can be decoded, such as 000004\.jpg"):
        Celeba().load("test", root)


def test_images_of_another_size_are_not_the_aligned_ones(root, tmp_path):
    Image.new("RGB", (178, 178)).save(tmp_path / "a.jpg")
    rewrite(root, "000005.jpg", (tmp_path / "a.jpg").read_bytes())
    with pytest.raises(InputError, match=r"000005\.jpg is 178 x 178; images of 218 x 178 are needed"):
        Celeba().load("train", root)


def test_pixels_are_decoded_once_kept_beside_the_data_and_made_again_when_the_data_change(root, monkeypatch):
    monkeypatch.setattr(_decoded, "KEEP_FROM", 1)
    monkeypatch.setattr(_decoded, "AT_ONCE", 2)
    rewrite(root, "000001.jpg", b"nothing")
    first = Celeba().load("train", root)
    kept = root / "celeba" / "klprobe-64-train.npy"
    assert f"celeba (train): 2 images were decoded, and their pixels are kept in {kept}." in first.notes
    assert np.array_equal(np.load(kept)[:2], first.x.numpy())
    assert {file.name for file in (root / "celeba").glob("klprobe*")} == {kept.name, kept.with_suffix(".json").name}

    blocks = _decoded._blocks
    monkeypatch.setattr(_decoded, "_blocks", lambda *_: pytest.fail("decoded again"))
    again = Celeba().load("train", root)
    assert torch.equal(again.x, first.x)
    assert again.notes == first.notes[1:], "what was left out is said every time"
    with pytest.raises(InputError, match=r"000001\.jpg.* do not give strict"):
        Celeba(strict=True).load("train", root)

    monkeypatch.setattr(_decoded, "_blocks", blocks)
    zip_file = root / "celeba" / "img_align_celeba.zip"
    if zip_file.exists():
        rewrite(root, "000002.jpg", b"nothing either")
        assert len(Celeba().load("train", root)) == 1
    for spoil in (lambda path: path.write_text("{"), lambda path: path.write_text(json.dumps({"fingerprint": "other"}))):
        spoil(kept.with_suffix(".json"))
        made = Celeba().load("train", root)
        assert "kept in" in made.notes[0]
    kept.write_bytes(kept.read_bytes()[:-1])
    assert torch.equal(Celeba().load("train", root).x, made.x)


def test_a_stop_in_the_middle_leaves_nothing_behind(root, monkeypatch):
    monkeypatch.setattr(_decoded, "KEEP_FROM", 1)
    monkeypatch.setattr(_decoded, "AT_ONCE", 1)

    def stop(done, total, note=""):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Celeba().load("train", root, stop)
    assert not list((root / "celeba").glob("klprobe*"))


def test_where_nothing_can_be_kept_memory_does(root, monkeypatch):
    monkeypatch.setattr(_decoded, "KEEP_FROM", 1)
    monkeypatch.setattr(_decoded.shutil, "disk_usage", lambda _: type("Full", (), {"free": 0}))
    data = Celeba().load("train", root)
    assert (len(data), data.notes) == (3, ())
    assert not list((root / "celeba").glob("klprobe*"))


def test_missing_and_damaged_parts_are_named(root, tmp_path):
    partition = tmp_path / "celeba" / "list_eval_partition.txt"
    good = partition.read_text()
    partition.write_text(good + "000007.jpg 0\n")
    with pytest.raises(InputError, match=r"lacks 1 of 4 images, such as 000007\.jpg"):
        Celeba().load("train", root)
    partition.write_text(good.replace(" 0", " train"))
    with pytest.raises(InputError, match=r"list_eval_partition\.txt is damaged"):
        Celeba().load("train", root)
    partition.unlink()
    with pytest.raises(InputError, match=r"lacks list_eval_partition\.txt.*mmlab"):
        Celeba().load("train", root)


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_truncated_zip_is_named(tmp_path, keep):
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    path = tmp_path / "celeba" / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img_align_celeba/000001.jpg", b"x" * 500)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"img_align_celeba\.zip is damaged or cut short"):
        Celeba().load("train", tmp_path)


def test_a_link_to_a_device_and_a_file_beyond_the_limit_are_left_out(root, monkeypatch):
    folder = root / "celeba" / "img_align_celeba"
    if not folder.is_dir():
        folder.with_suffix(".zip").unlink()
        folder.with_suffix(".zip").symlink_to("/dev/zero")
        with pytest.raises(InputError, match=r"lacks img_align_celeba\.zip|is no plain file"):
            Celeba().load("test", root)
        return
    (folder / "000004.jpg").unlink()
    (folder / "000004.jpg").symlink_to("/dev/zero")
    assert "000004.jpg" in Celeba().load("test", root).notes[0]
    monkeypatch.setattr("klprobe.datasets.celeba.LARGEST", 150)
    with pytest.raises(InputError, match=r"none of the 2 images can be decoded"):
        Celeba().load("test", root)
