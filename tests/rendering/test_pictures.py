import numpy as np
import pytest
import torch
from PIL import Image

from klprobe.files.images import has_picture
from klprobe.rendering.pictures import GAP, LEAST_SIDE, save_rows
from klprobe.types import InputError


def pixels(path):
    return np.asarray(Image.open(path))


def test_tiles_lie_row_by_row_and_reconstructions_below_their_data(tmp_path):
    side = LEAST_SIDE
    x = torch.arange(8.0)[:, None, None, None].expand(8, 1, side, side) / 8
    save_rows(tmp_path / "a.png", {"data": x, "again": x / 2})
    image = pixels(tmp_path / "a.png")
    step = side + GAP
    assert image.shape == (4 * step - GAP, 4 * step - GAP)
    for i in range(8):
        row, column = 2 * (i // 4), i % 4
        assert image[row * step, column * step] == round(255 * i / 8)
        assert image[(row + 1) * step, column * step] == round(255 * i / 16)


def test_colours_keep_their_channels_and_values_outside_the_range_are_cut_off(tmp_path):
    x = torch.zeros(1, 3, 32, 32)
    x[:, 0], x[:, 2] = 2.0, -1.0
    save_rows(tmp_path / "a.png", {"data": x})
    assert pixels(tmp_path / "a.png")[5, 5].tolist() == [255, 0, 0]


def test_square_vectors_are_images_and_small_ones_are_enlarged(tmp_path):
    save_rows(tmp_path / "a.png", {"data": torch.ones(1, 64)})
    assert pixels(tmp_path / "a.png").shape[0] == 32


def test_points_of_the_plane_are_a_scatter_plot(tmp_path):
    save_rows(tmp_path / "deep" / "a.png", {"data": torch.zeros(5, 2), "again": torch.ones(5, 2)})
    assert pixels(tmp_path / "deep" / "a.png").ndim == 3
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("shape", "expected"), [((3,), False), ((1,), False), ((2,), True), ((64,), True), ((3, 28, 28), True)]
)
def test_data_without_a_picture_are_told_so(shape, expected, tmp_path):
    assert has_picture(shape) == expected
    if not expected:
        with pytest.raises(InputError, match="have no picture"):
            save_rows(tmp_path / "a.png", {"data": torch.zeros(4, *shape)})


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.png cannot be written"):
        save_rows(tmp_path / "file" / "a.png", {"data": torch.zeros(4, 2)})
