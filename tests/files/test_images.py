"""Image files to tensors: what pillow gives, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from klprobe.files.images import (
    Undecodable,
    channels_first,
    check_same_shape,
    find_images,
    parse_size,
    read_image,
    read_levels,
)
from klprobe.types import InputError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
def test_every_mode_becomes_grey_or_colours(tmp_path, pixels, mode, channels):
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(pixels).convert(mode)
    image.save(file)
    found = read_image(file, "a")
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(6, 8, channels)
    assert torch.equal(found, torch.from_numpy(expected.transpose(2, 0, 1).copy()))
    assert read_image(file, "a", gray=True).shape == (1, 6, 8)


def test_a_cut_comes_before_a_resize_and_both_are_pillows(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", "a", box=(1, 0, 7, 6), size=(3, 2))
    expected = Image.fromarray(pixels).crop((1, 0, 7, 6)).resize((2, 3), Image.Resampling.BILINEAR)
    assert torch.equal(found, torch.from_numpy(np.asarray(expected).transpose(2, 0, 1).copy()))


def test_what_is_no_image_is_named_and_another_size_is_another_error(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for bad in (b"", b"text", content[:40], content[:-60]):
        (tmp_path / "b.png").write_bytes(bad)
        with pytest.raises(Undecodable, match="the label cannot be read as an image"):
            read_image(tmp_path / "b.png", "the label")
    with pytest.raises(InputError, match="a is 6 x 8; images of 8 x 6") as caught:
        read_image(tmp_path / "a.png", "a", expected=(8, 6))
    assert not isinstance(caught.value, Undecodable)


def test_a_picture_too_large_to_be_one_is_refused(tmp_path, monkeypatch, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Undecodable, match="decompression bomb"):
        read_image(tmp_path / "a.png", "a")


def test_images_are_found_below_in_the_order_of_their_paths(tmp_path):
    for name in ("b.PNG", "a/c.jpeg", "c.txt", "a.jpg", "._b.png", ".ipynb_checkpoints/b-checkpoint.png", "__MACOSX/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(file.relative_to(tmp_path)) for file in find_images(tmp_path).files] == ["a/c.jpeg", "a.jpg", "b.PNG"]


def test_hidden_images_are_passed_over_and_counted(tmp_path):
    for name in ("a.png", "._a.png", "deep/.ipynb_checkpoints/a.png", "__MACOSX/._a.png", "deep/@eaDir/a.jpg", "._notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert ([file.name for file in found.files], found.hidden) == (["a.png"], 4)
    assert found.note("photos")[0].startswith("photos: 4 hidden images were passed over")
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    (hidden / "b.png").touch()
    assert find_images(hidden).hidden == 0, "a folder that the user names is hers, whatever it is called"
    (hidden / "b.png").rename(hidden / "._b.png")
    with pytest.raises(InputError, match="but 1 hidden"):
        find_images(hidden)


def test_only_channels_that_are_last_are_moved():
    for shape, expected in (
        ((5, 6, 8, 3), (5, 3, 6, 8)),
        ((5, 3, 6, 8), (5, 3, 6, 8)),
        ((5, 1, 8, 3), (5, 1, 8, 3)),
        ((5, 3), (5, 3)),
    ):
        assert channels_first(torch.zeros(shape)).shape == expected


def test_sizes():
    assert (parse_size("32", "--resize"), parse_size("32x24", "--resize"), parse_size("", "--resize")) == (
        (32, 32),
        (32, 24),
        None,
    )
    for text in ("0", "3x", "-1", "x", "3,4"):
        with pytest.raises(InputError, match=r"--resize .* is not a size"):
            parse_size(text, "--resize")


def test_only_the_readers_that_the_suffixes_name_are_tried(tmp_path, pixels, monkeypatch):
    """Pillow starts Ghostscript for PostScript, whatever the file is called."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(Undecodable, match="cannot be read as an image"):
        read_image(tmp_path / "a.png", "a")
    Image.fromarray(pixels).save(tmp_path / "b.png", "ICO")
    with pytest.raises(Undecodable, match="cannot be read as an image"):
        read_image(tmp_path / "b.png", "b")


def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr("klprobe.files.images.MOST_PIXELS", 48)
    assert read_image(tmp_path / "a.png", "a").shape == (3, 6, 8)
    monkeypatch.setattr("klprobe.files.images.MOST_PIXELS", 47)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Undecodable, match="6 x 8 pixels, and 47 is the limit"):
        read_image(tmp_path / "a.png", "a")


@pytest.mark.parametrize("error", [IndexError("list index"), KeyError(5), RuntimeError("codec"), AttributeError(), EOFError()])
def test_whatever_a_reader_raises_of_a_damaged_file_is_one_sentence(tmp_path, pixels, monkeypatch, error):
    def fails(*_):
        raise error

    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(Undecodable, match=r"^a cannot be read as an image \(.+\): remove or replace it\.$"):
        read_image(tmp_path / "a.png", "a")
    error = MemoryError()
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.png", "a")


def test_a_large_image_is_decoded_like_a_small_one(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small = read_image(tmp_path / "a.png", "a")
    monkeypatch.setattr("klprobe.files.images.LARGE", 1)
    assert torch.equal(read_image(tmp_path / "a.png", "a"), small)
    assert torch.equal(read_image(tmp_path / "a.png", "a"), small)


def test_levels_of_16_bits_stay_and_are_8_bits_over_white_where_bytes_are_asked_for(tmp_path):
    levels = np.array([[0, 1, 256, 257], [4080, 4095, 65534, 65535]], dtype="u2")
    Image.fromarray(levels).save(tmp_path / "a.png")
    found = read_levels(tmp_path / "a.png", "a")
    assert found.dtype == torch.int32
    assert found[0].tolist() == levels.tolist()
    assert read_image(tmp_path / "a.png", "a")[0].tolist() == [[0, 0, 0, 1], [15, 15, 254, 255]]
    with pytest.raises(InputError, match="level of 65535, above scale=4095"):
        read_image(tmp_path / "a.png", "a", white=4095)
    Image.fromarray(levels.clip(0, 4095)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png", "b", white=4095)[0].tolist() == [[0, 0, 15, 16], [254, 255, 255, 255]]
    assert read_levels(tmp_path / "a.png", "a", rgb=True).shape == (3, 2, 4)
    assert read_levels(tmp_path / "a.png", "a", size=(1, 2)).shape == (1, 1, 2)


def test_levels_of_4_bits_in_bytes_are_scaled_too(tmp_path):
    Image.fromarray(np.array([[0, 5, 15]], dtype="u1")).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", "a", white=15)[0].tolist() == [[0, 85, 255]]


def sixteen_bit_colours(path, levels):
    """A PNG of 16 bits a colour, which pillow cannot write; levels, shape (H, W, 3)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_colours_of_12_bits_in_16_of_which_pillow_reads_4_are_refused(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (4, 5, 3))
    sixteen_bit_colours(tmp_path / "dim.png", levels)
    with pytest.raises(InputError, match=r"colours of 16 bits, of which 8 are read, and these reach 15 of 255"):
        read_image(tmp_path / "dim.png", "dim.png")
    sixteen_bit_colours(tmp_path / "bright.png", levels * 16)
    assert torch.equal(read_image(tmp_path / "bright.png", "b"), torch.from_numpy(levels // 16).byte().movedim(-1, 0))


@pytest.mark.parametrize("kind", ["pages", "negative", "beyond", "float"])
def test_pixels_that_are_no_levels_of_one_image_are_refused(tmp_path, kind):
    path = tmp_path / "a.tif"
    if kind == "pages":
        Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 255)])
    elif kind == "float":
        Image.fromarray(np.ones((4, 4), "f4")).save(path)
    else:
        Image.fromarray(np.full((4, 4), -5 if kind == "negative" else 70_000, "i4")).save(path)
    words = {"pages": "several pages", "float": "floating-point"}.get(kind, "of no known range")
    with pytest.raises(Undecodable, match=words):
        read_image(path, "a.tif")


def test_several_sizes_and_several_colours_have_remedies_of_their_own():
    grey, colour, large = torch.zeros(1, 4, 4), torch.zeros(3, 4, 4), torch.zeros(1, 8, 8)
    for other, there, absent in ((colour, "--rgb", "--resize"), (large, "--resize", "--rgb")):
        with pytest.raises(InputError, match=there) as caught:
            check_same_shape([grey, other], ["a", "b"])
        assert absent not in str(caught.value)
