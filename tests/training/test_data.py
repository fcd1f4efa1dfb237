"""Flips and shifts: what they do to an image, how often, and where their randomness comes from."""

import pytest
import torch

from klprobe.training.data import Augment, augment, shifted
from klprobe.types import InputError


def images(n=200, height=5, width=7):
    return torch.arange(n * 3 * height * width, dtype=torch.float32).reshape(n, 3, height, width)


def test_an_image_moves_down_and_right_and_its_edge_is_repeated():
    x = images(3)
    moved = shifted(x, torch.tensor([[0, 1, -2], [0, -3, 2]]))
    assert torch.equal(moved[0], x[0])
    assert torch.equal(moved[1, :, 1:, :4], x[1, :, :-1, 3:])
    assert torch.equal(moved[1, :, 0], moved[1, :, 1])
    assert torch.equal(moved[1, :, 2, 4:], x[1, :, 1, -1:].expand(-1, 3))
    assert torch.equal(moved[2, :, :3, 2:], x[2, :, 2:, :-2])


def test_a_flip_turns_half_of_the_images_left_to_right():
    """Binomial: within 4 standard deviations, 0.5 / sqrt 200 each."""
    x = images()
    flipped = Augment(flip=True)(x, torch.arange(200))
    turned = (flipped == x.flip(-1)).flatten(1).all(1)
    assert (turned | (flipped == x).flatten(1).all(1)).all()
    assert abs(turned.float().mean() - 0.5) < 4 * 0.5 / 200**0.5


def test_shifts_are_uniform_in_both_directions():
    """25 of 5 x 5: each is expected 80 times of 2000, within 5 standard deviations."""
    x = torch.zeros(2000, 1, 9, 9)
    x[:, :, 4, 4] = 1
    moved = Augment(shift=2)(x, torch.arange(2000)).flatten(1).argmax(1)
    counts = torch.stack([moved // 9 - 4, moved % 9 - 4]).add(2).T @ torch.tensor([5, 1])
    assert (counts.bincount(minlength=25) - 80).abs().max() < 5 * 80**0.5


def test_the_same_batch_is_changed_the_same_way_and_another_order_in_another():
    x, both = images(), Augment(flip=True, shift=1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both(x, order), both(x, order))
    assert not torch.equal(both(x, order), both(x, order.flip(0)))


def test_what_is_no_image_is_not_augmented():
    assert augment((9,), flip=False, shift=0) is None
    for shape, shift in (((9,), 1), ((1, 4, 4), 4), ((1, 4, 4), -1)):
        with pytest.raises(InputError, match="flip and shift are for images"):
            augment(shape, flip=True, shift=shift)
