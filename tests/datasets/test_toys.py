"""The 2-D toys and MNIST in colour."""

import colorsys
import math

import numpy as np
import pytest
import torch

from klprobe import registry
from klprobe.datasets.color_mnist import hues, tint
from klprobe.training.data import Data

TOYS = {"ring": (8, 0.01), "grid": (25, 0.05)}


@pytest.fixture(params=TOYS)
def toy(request):
    return registry.load("datasets", request.param)()


def test_splits_are_fixed_and_disjoint(toy):
    train, test, everything = (toy.load(split) for split in ("train", "test", "all"))
    assert (len(train), len(test), train.shape, train.x.dtype) == (50_000, 10_000, (2,), torch.float32)
    assert torch.equal(everything.x, torch.cat([train.x, test.x]))
    assert torch.equal(toy.load("train").x, train.x)
    assert not torch.isin(test.x[:, 0], train.x[:, 0]).all()


def test_labels_name_the_mode_and_modes_are_equal_and_normal(toy):
    """Counts within 5 standard errors; 98.89 % within 3 standard deviations, as of any 2-D normal."""
    data = toy.load("train")
    name = type(toy).__name__.lower()
    modes, std = TOYS[name]
    assert toy.centres.shape == (modes, 2)
    assert toy.std == std
    expected = len(data) / modes
    assert (data.labels.bincount() - expected).abs().max() < 5 * math.sqrt(expected)
    offsets = (data.x - toy.centres[data.labels]) / std
    within = (offsets.norm(dim=1) < 3).float().mean()
    assert abs(within - (1 - math.exp(-4.5))) < 5 * math.sqrt(0.0111 * 0.9889 / len(data))
    assert offsets.mean(0).abs().max() < 5 / math.sqrt(len(data))
    assert (offsets.std(0) - 1).abs().max() < 5 / math.sqrt(2 * len(data))


def test_the_geometry_is_that_of_the_literature():
    ring, grid = registry.load("datasets", "ring")().centres, registry.load("datasets", "grid")().centres
    torch.testing.assert_close(ring.norm(dim=1), torch.ones(8))
    assert torch.cdist(ring, ring).fill_diagonal_(9).min().item() == pytest.approx(2 * math.sin(math.pi / 8), rel=1e-5)
    assert sorted(grid.tolist()) == [[float(a), float(b)] for a in range(-4, 5, 2) for b in range(-4, 5, 2)]


def test_a_hue_depends_on_seed_part_and_number_alone_and_hues_are_uniform():
    many = hues(20_000, 0, 0)
    assert (hues(7, 0, 0) == many[:7]).all()
    assert 0 <= many.min() < many.max() < 1
    assert abs(np.histogram(many, 10, (0, 1))[0] - 2000).max() < 5 * math.sqrt(1800)
    for other in (hues(20_000, 1, 0), hues(20_000, 0, 1), np.roll(many, 1)):
        assert abs(np.corrcoef(many, other)[0, 1]) < 5 / math.sqrt(20_000)


def test_colours_are_those_of_colorsys():
    hue = np.linspace(0, 0.99, 23)
    images = Data("colours", "all", torch.full((23, 1, 2, 2), 200, dtype=torch.uint8), tint=tint(hue)).x
    assert images.shape == (23, 3, 2, 2)
    for h, image in zip(hue, images, strict=True):
        assert abs(image[:, 0, 0].double() - 200 * torch.tensor(colorsys.hsv_to_rgb(h, 1, 1))).max() <= 0.51


def test_color_mnist_is_mnist_in_colour(shared_data):
    grey = registry.load("datasets", "mnist")().load("test", shared_data)
    data = registry.load("datasets", "color-mnist")().load("test", shared_data)
    assert (data.name, data.shape, data.x.dtype, len(data)) == ("color-mnist", (3, 28, 28), torch.uint8, 10_000)
    assert torch.equal(data.labels, grey.labels)
    assert torch.equal(data.x.amax(1), grey.x[:, 0]), "full value: the largest channel is the grey level"
    assert data.x.amin(1).max() == 0, "full saturation"
